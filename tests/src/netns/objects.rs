//! Services of the mesh as Kubernetes describes them: with cluster addresses, and EndpointSlices of pods.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::Pod;

/// A port of a service.
#[derive(Clone, Debug)]
pub struct Port {
    name: String,
    number: u16,
    target: u16,
    protocol: Option<String>,
}

/// A port whose name may say what is spoken there, as in `http` or `tcp-db`.
pub fn port(name: &str, number: u16) -> Port {
    Port {
        name: name.to_owned(),
        number,
        target: number,
        protocol: None,
    }
}

impl Port {
    /// Pods serve it on another port.
    pub fn to(mut self, target: u16) -> Self {
        self.target = target;
        self
    }

    /// Declares what is spoken there, by `appProtocol`.
    pub fn speaks(mut self, protocol: &str) -> Self {
        self.protocol = Some(protocol.to_owned());
        self
    }
}

/// A service with cluster addresses.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    ips: Vec<IpAddr>,
    ports: Vec<Port>,
}

impl Service {
    pub(super) fn new(name: &str, ips: Vec<IpAddr>, ports: &[Port]) -> Self {
        Self {
            name: name.to_owned(),
            ips,
            ports: ports.to_vec(),
        }
    }

    /// Its address of a family, with its first port.
    pub fn address(&self, is_v6: bool) -> SocketAddr {
        let ip = self.ips.iter().find(|ip| ip.is_ipv6() == is_v6);
        let port = self.ports.first().map_or(0, |port| port.number);
        SocketAddr::new(*ip.expect("a service has both"), port)
    }

    /// The Service and its EndpointSlices, as YAML.
    pub fn yaml(&self, pods: &[&Pod]) -> String {
        let Self { name, ips, ports } = self;
        let list = |ips: &[IpAddr]| {
            let list: Vec<_> = ips.iter().map(|ip| format!("\"{ip}\"")).collect();
            list.join(", ")
        };
        let mut text = format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  clusterIP: \"{}\"
  clusterIPs: [{}]
  ports:
",
            ips[0],
            list(ips)
        );
        for port in ports {
            let Port {
                name,
                number,
                target,
                protocol,
            } = port;
            // Writing to a String does not fail.
            _ = write!(text, "  - {{port: {number}, targetPort: {target}");
            if !name.is_empty() {
                _ = write!(text, ", name: {name}");
            }
            if let Some(protocol) = protocol {
                _ = write!(text, ", appProtocol: {protocol}");
            }
            text.push_str("}\n");
        }
        for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
            _ = write!(
                text,
                "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: {family}
ports:
",
                family.to_lowercase()
            );
            for Port { name, target, .. } in ports {
                _ = writeln!(text, "- {{name: \"{name}\", port: {target}}}");
            }
            text.push_str("endpoints:\n");
            for pod in pods {
                let ips = pod.ips().iter().filter(|ip| ip.is_ipv6() == is_v6);
                for ip in ips {
                    _ = writeln!(text, "- {{addresses: [\"{ip}\"]}}");
                }
            }
            if pods.is_empty() {
                text.push_str("  []\n");
            }
        }
        text
    }
}
