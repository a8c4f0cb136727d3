//! Where the demo's processes live: on this machine's loopback, told of their proxies, or in network namespaces
//! where rules do the telling.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_mesh::scope::{Inbound, InboundProtocol, NodeMetadata};
use tokio::net::TcpStream;

use super::{
    node::{Node, Pod, SIDECAR_ADMIN},
    topology::free_addresses,
};

/// Where all processes live.
#[derive(Debug)]
pub(super) enum Site {
    /// Loopback.
    Loopback,
    /// A node with pods.
    Node(Box<Node>),
}

/// Where the control plane listens; the same after its restart.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// Its address and ports, as flags.
    pub(super) flags: Vec<String>,
    /// For sidecars.
    pub(super) xds: SocketAddr,
    /// For sidecars.
    pub(super) otlp: SocketAddr,
    /// For the demo.
    pub(super) metrics: SocketAddr,
    /// For the demo and its user.
    pub(super) api: SocketAddr,
    /// For the demo and its user.
    pub(super) jaeger: SocketAddr,
}

/// Its ports in the order of its flags.
pub(super) const PORT_FLAGS: [&str; 6] =
    ["xds", "metrics", "api", "otlp-grpc", "otlp-http", "jaeger"];

/// Where one workload lives.
#[derive(Clone, Debug)]
pub(super) struct Home {
    /// Where the application listens.
    pub(super) app: SocketAddr,
    /// Where requests for it arrive.
    pub(super) inbound: SocketAddr,
    /// Its sidecar's admin endpoint, as the demo reaches it.
    pub(super) admin: SocketAddr,
    way_out: WayOut,
}

#[derive(Clone, Debug)]
enum WayOut {
    /// Its sidecar takes its calls here, and it knows.
    Told(SocketAddr),
    /// Its calls are taken over.
    Intercepted(Arc<Pod>),
}

/// Where a server without a sidecar lives.
#[derive(Debug)]
pub(super) struct Host {
    /// Where it listens.
    pub(super) listen: SocketAddr,
    /// Where sidecars reach it.
    pub(super) address: SocketAddr,
    /// Where the demo reaches it.
    pub(super) control: SocketAddr,
    /// What runs a program there.
    pub(super) exec: Vec<String>,
    _pod: Option<Pod>,
}

impl Site {
    pub(super) fn new(is_netns: bool) -> anyhow::Result<Self> {
        Ok(if is_netns {
            Self::Node(Box::new(Node::new()?))
        } else {
            Self::Loopback
        })
    }

    /// Its kind, for people to read.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Loopback => "",
            Self::Node(_) => {
                ", each in a network namespace of its own whose connections go to its sidecar by rules"
            }
        }
    }

    /// Chooses where the control plane listens.
    pub(super) fn ports(&mut self, api_port: u16) -> anyhow::Result<Ports> {
        let node = match self {
            Self::Loopback => {
                let mut at = free_addresses()?;
                if api_port != 0 {
                    at[2].set_port(api_port);
                }
                let [xds, metrics, api, otlp, _, jaeger] = at;
                return Ok(Ports {
                    flags: flags(&at),
                    xds,
                    otlp,
                    metrics,
                    api,
                    jaeger,
                });
            }
            Self::Node(node) => node,
        };
        let at = node.control_plane();
        let [xds, metrics, api, otlp, _, jaeger] = at;
        Ok(Ports {
            flags: flags(&at),
            xds,
            otlp,
            metrics: node.open(0, metrics)?,
            api: node.open(api_port, api)?,
            jaeger: node.open(0, jaeger)?,
        })
    }

    /// What runs a program where the control plane is.
    pub(super) fn exec(&self) -> Vec<String> {
        match self {
            Self::Loopback => Vec::new(),
            Self::Node(node) => node.exec(),
        }
    }

    /// The proxy's file, as sidecars start it.
    pub(super) fn sidecar_program(&self, program: &Path) -> anyhow::Result<PathBuf> {
        match self {
            Self::Loopback => Ok(program.to_owned()),
            Self::Node(node) => node.sidecar_program(program),
        }
    }

    /// Makes a home for a workload.
    pub(super) fn home(&mut self, name: &str) -> anyhow::Result<Home> {
        match self {
            Self::Loopback => {
                let [app, inbound, outbound, admin] = free_addresses()?;
                Ok(Home {
                    app,
                    inbound,
                    admin,
                    way_out: WayOut::Told(outbound),
                })
            }
            Self::Node(node) => {
                let pod = node.pod(name)?;
                pod.intercept()?;
                let inbound = SocketAddr::new(pod.address(), super::node::APP_PORT);
                Ok(Home {
                    app: (Ipv4Addr::UNSPECIFIED, inbound.port()).into(),
                    inbound,
                    admin: pod.open(SIDECAR_ADMIN)?,
                    way_out: WayOut::Intercepted(Arc::new(pod)),
                })
            }
        }
    }

    /// Makes a home for a server without a sidecar.
    pub(super) fn host(&mut self, name: &str) -> anyhow::Result<Host> {
        match self {
            Self::Loopback => {
                let [address] = free_addresses()?;
                Ok(Host {
                    listen: address,
                    address,
                    control: address,
                    exec: Vec::new(),
                    _pod: None,
                })
            }
            Self::Node(node) => {
                let pod = node.pod(name)?;
                let address = SocketAddr::new(pod.address(), super::node::APP_PORT);
                Ok(Host {
                    listen: address,
                    address,
                    control: pod.open(address)?,
                    exec: pod.exec(),
                    _pod: Some(pod),
                })
            }
        }
    }

    /// The address of a service itself, where clients call that instead of a proxy.
    pub(super) fn service_address(&self, name: &str) -> Option<SocketAddr> {
        match self {
            Self::Loopback => None,
            Self::Node(node) => node.service_address(name),
        }
    }
}

fn flags(at: &[SocketAddr; PORT_FLAGS.len()]) -> Vec<String> {
    let bind = at
        .first()
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), SocketAddr::ip);
    let ports = PORT_FLAGS.iter().zip(at);
    let mut flags = vec![format!("--bind={bind}")];
    flags.extend(ports.map(|(name, address)| format!("--{name}-port={}", address.port())));
    flags
}

impl Home {
    /// What runs an application there, and what its environment says.
    pub(super) fn app(&self) -> (Vec<String>, Vec<(&'static str, String)>) {
        match &self.way_out {
            WayOut::Told(outbound) => (Vec::new(), vec![("http_proxy", outbound.to_string())]),
            WayOut::Intercepted(pod) => (pod.exec(), Vec::new()),
        }
    }

    /// What runs its sidecar.
    pub(super) fn exec_sidecar(&self) -> Vec<String> {
        match &self.way_out {
            WayOut::Told(_) => Vec::new(),
            WayOut::Intercepted(pod) => pod.exec_sidecar(),
        }
    }

    /// Tells the control plane about it; gives where the sidecar's admin endpoint listens.
    pub(super) fn introduce(&self, metadata: &mut NodeMetadata) -> SocketAddr {
        match &self.way_out {
            WayOut::Told(outbound) => {
                metadata.outbound = Some(*outbound);
                metadata.inbound = vec![Inbound {
                    listen: self.inbound,
                    app: self.app,
                    protocol: InboundProtocol::Http1,
                }];
                self.admin
            }
            WayOut::Intercepted(pod) => {
                metadata.interception = Some(pod.interception());
                // Others than the pod reach it by the demo.
                metadata.admin = Some(self.admin);
                SIDECAR_ADMIN
            }
        }
    }

    /// What a user may try there.
    pub(super) fn hint(&self) -> Option<String> {
        match &self.way_out {
            WayOut::Told(_) => None,
            WayOut::Intercepted(pod) => Some(format!(
                "call services from a pod: sudo ip netns exec {} curl http://reviews/",
                pod.name()
            )),
        }
    }

    /// Whether application and sidecar take connections.
    pub(super) async fn takes_connections(&self) -> bool {
        match &self.way_out {
            WayOut::Told(_) => {
                TcpStream::connect(self.app).await.is_ok()
                    && TcpStream::connect(self.inbound).await.is_ok()
            }
            WayOut::Intercepted(pod) => pod.takes_connections(),
        }
    }

    /// Where a client beside the workload reaches a service.
    pub(super) fn way_out(&self, service: Option<SocketAddr>) -> anyhow::Result<SocketAddr> {
        match (&self.way_out, service) {
            (WayOut::Intercepted(pod), Some(service)) => pod.open(service),
            (WayOut::Told(outbound), _) => Ok(*outbound),
            (WayOut::Intercepted(_), None) => anyhow::bail!("a service without an address"),
        }
    }

    /// Where a client elsewhere reaches the workload.
    pub(super) fn entry(&self, site: &mut Site) -> anyhow::Result<SocketAddr> {
        match site {
            Site::Loopback => Ok(self.inbound),
            Site::Node(node) => node.open(0, self.inbound),
        }
    }
}
