//! The demo in network namespaces: a node for the control plane and a pod for each service, with the rules that
//! an injected pod has. The demo itself stays outside and reaches in by doors.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use outrigger_injector::redirect::{
    Config,
    apply::{self, Backend},
};
use outrigger_mesh::scope::{Interception, Mode, OutboundPolicy};
use outrigger_netns::{Namespace, Network};

use super::{
    door::Door,
    site::PORT_FLAGS,
    stock,
    topology::{PORT, SERVICES},
};

/// Where applications listen.
pub(super) const APP_PORT: u16 = 9080;
/// Where a sidecar's admin endpoint is, in its pod.
pub(super) const SIDECAR_ADMIN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
/// The control plane's ports; nobody else is there.
const CONTROL_PLANE: [u16; PORT_FLAGS.len()] = [15010, 15014, 15080, 4317, 4318, 16686];

/// The node.
#[derive(Debug)]
pub(super) struct Node {
    doors: Vec<Door>,
    network: Network,
}

/// A pod.
#[derive(Debug)]
pub(super) struct Pod {
    doors: Mutex<Vec<Door>>,
    namespace: Namespace,
}

impl Node {
    pub(super) fn new() -> anyhow::Result<Self> {
        outrigger_netns::check()
            .context("--netns does not work here; without it the demo needs no rights")?;
        Ok(Self {
            doors: Vec::new(),
            network: Network::new()?,
        })
    }

    /// What runs a program on the node.
    pub(super) fn exec(&self) -> Vec<String> {
        self.network.node().exec()
    }

    /// Where the control plane listens.
    pub(super) fn control_plane(&self) -> [SocketAddr; PORT_FLAGS.len()] {
        let address = address(self.network.node());
        CONTROL_PLANE.map(|port| SocketAddr::new(address, port))
    }

    /// Opens a door to something on the node or on its bridge; gives the port that leads there.
    pub(super) fn open(&mut self, port: u16, to: SocketAddr) -> anyhow::Result<SocketAddr> {
        let door = Door::open(port, self.network.node(), to)?;
        let address = door.address();
        self.doors.push(door);
        Ok(address)
    }

    /// The proxy's file, where the sidecars' user can start it.
    pub(super) fn sidecar_program(&self, program: &Path) -> anyhow::Result<PathBuf> {
        self.network.executable(program)
    }

    /// Makes a pod that knows all services by name, as by a cluster's DNS.
    pub(super) fn pod(&mut self, name: &str) -> anyhow::Result<Pod> {
        let mut hosts = String::new();
        for service in services() {
            if let Some(address) = self.service_address(service) {
                hosts.push_str(&format!("{} {service}\n", address.ip()));
            }
        }
        Ok(Pod {
            doors: Mutex::default(),
            namespace: self.network.pod(name, &hosts)?,
        })
    }

    /// The address of a service. No server has it.
    pub(super) fn service_address(&self, name: &str) -> Option<SocketAddr> {
        let number = services().position(|service| service == name)? + 1;
        let address = Ipv4Addr::new(10, 96, 0, u8::try_from(number).ok()?);
        Some((address, PORT).into())
    }
}

fn services() -> impl Iterator<Item = &'static str> {
    SERVICES.into_iter().chain([stock::NAME])
}

fn address(namespace: &Namespace) -> IpAddr {
    let first = namespace.addresses().first();
    first
        .copied()
        .unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into())
}

impl Pod {
    /// Sets the rules that `outrigger redirect` sets by itself.
    pub(super) fn intercept(&self) -> anyhow::Result<()> {
        let config = Config {
            ipv6: self.addresses().iter().any(IpAddr::is_ipv6),
            ..Config::default()
        };
        self.namespace
            .inside(|| apply::apply(&config, Backend::of_machine()))
            .context("can't set the rules of redirection: is nftables or iptables installed?")
    }

    /// What its sidecar says of that.
    pub(super) fn interception(&self) -> Interception {
        let config = Config::default();
        Interception {
            addresses: self.addresses().to_vec(),
            outbound: config.outbound_port,
            inbound: config.inbound_port,
            mode: Mode::default(),
            outbound_policy: OutboundPolicy::default(),
        }
    }

    /// Its name, as `ip netns` knows it.
    pub(super) fn name(&self) -> &str {
        self.namespace.name()
    }

    /// Its addresses.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        self.namespace.addresses()
    }

    /// The first of them.
    pub(super) fn address(&self) -> IpAddr {
        address(&self.namespace)
    }

    /// What runs a program in it.
    pub(super) fn exec(&self) -> Vec<String> {
        self.namespace.exec()
    }

    /// What runs its sidecar.
    pub(super) fn exec_sidecar(&self) -> Vec<String> {
        self.namespace.exec_sidecar(false)
    }

    /// Opens a door: connections to the address that this gives go on from within the pod.
    pub(super) fn open(&self, to: SocketAddr) -> anyhow::Result<SocketAddr> {
        let door = Door::open(0, &self.namespace, to)?;
        let address = door.address();
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.push(door);
        Ok(address)
    }

    /// Whether application and sidecar take connections.
    pub(super) fn takes_connections(&self) -> bool {
        let ports = [
            APP_PORT,
            Config::default().outbound_port,
            Config::default().inbound_port,
        ];
        let try_all = || {
            for port in ports {
                let address = (Ipv4Addr::LOCALHOST, port).into();
                TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            }
            Ok(())
        };
        self.namespace.inside(try_all).is_ok()
    }
}
