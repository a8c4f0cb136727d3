//! Services.

use std::{net::IpAddr, sync::Arc};

use super::NamespacedName;

/// A name under which workloads are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub id: NamespacedName,
    /// In order of definition; numbers are unique.
    pub ports: Vec<ServicePort>,
    /// Where clients find it: `spec.clusterIPs`. None if clients find its endpoints' own addresses, as with
    /// `clusterIP: None`.
    pub cluster_ips: Vec<IpAddr>,
    /// `type: ExternalName`: an alias of the DNS that has no endpoints of its own.
    pub external_name: bool,
}

impl Service {
    /// The port of this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The port that a host name without a port means: 80 if there is one, else the first.
    pub fn default_port(&self) -> Option<&ServicePort> {
        let http = || self.ports.iter().filter(|port| port.protocol.is_http());
        http()
            .find(|port| port.number == 80)
            .or_else(|| http().next())
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if the service's only port has none.
    pub name: Arc<str>,
    /// The number that clients use.
    pub number: u16,
    /// What is spoken there.
    pub protocol: AppProtocol,
}

/// What is spoken on a port: `appProtocol`, or by Istio's convention the port's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.1 towards the workload.
    Http1,
    /// HTTP/2 by prior knowledge towards the workload (gRPC too).
    Http2,
    /// Not declared: what a client speaks tells whether it is HTTP, where a sidecar intercepts its
    /// connection. Everywhere else it is HTTP.
    #[default]
    Auto,
    /// Something that is not routed as HTTP.
    Other(Arc<str>),
}

impl AppProtocol {
    /// Whether requests on it are routed.
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::Auto)
    }

    /// From `appProtocol`, else from a port name such as `grpc`, `http2-api` or `tcp-db`.
    pub fn of_port(app_protocol: Option<&str>, name: &str) -> Self {
        if let Some(protocol) = app_protocol {
            return match protocol.to_ascii_lowercase().as_str() {
                "http" | "http1" | "grpc-web" | "kubernetes.io/ws" => Self::Http1,
                "http2" | "grpc" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
                _ => Self::Other(protocol.into()),
            };
        }
        let word = if name.starts_with("grpc-web") {
            "grpc-web"
        } else {
            name.split('-').next().unwrap_or_default()
        };
        match word {
            "http" | "grpc-web" => Self::Http1,
            "http2" | "grpc" => Self::Http2,
            "tcp" | "https" | "tls" | "mongo" | "mysql" | "redis" | "udp" => {
                Self::Other(name.into())
            }
            _ => Self::Auto,
        }
    }
}
