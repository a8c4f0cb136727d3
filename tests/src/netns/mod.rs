//! A node with pods, each in a network namespace of its own: a control plane on the node, and in each pod what an
//! injected pod has, over unmodified programs.

mod inject;
mod objects;
mod peers;
mod pod;
mod smtp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use anyhow::{Context as _, Result};
use outrigger_netns::Network;

use crate::mesh::ControlPlane;

pub use inject::{Injection, Mode};
pub use objects::{Port, Service, port};
pub use peers::{Grpc, Nginx, Postgres, Redis, installed};
pub use pod::Pod;
pub use smtp::Smtp;

/// Where the injector tells sidecars that the control plane is.
const CONTROL_PLANE: &str = "outrigger-control-plane.outrigger-system.svc";

/// A node, its pods' names and services; everything goes when it is dropped.
#[derive(Debug)]
pub struct Place {
    // Before the network, so that it is gone when that goes.
    control_plane: Option<ControlPlane>,
    network: Network,
    hosts: String,
    services: u8,
}

/// Runs a test in a node of its own, if there can be one; else says that it is skipped.
///
/// What the test binds and connects by itself, it does on the node.
pub fn run(name: &str, test: impl AsyncFnOnce(&mut Place) -> Result<()> + Send) {
    if let Err(error) = outrigger_netns::check() {
        eprintln!("{name}: SKIPPED: {error:#}");
        return;
    }
    // A thread of its own: that of the caller shall stay where it is.
    let outcome = thread::scope(|scope| {
        let test = move || {
            let network = Network::new()?;
            outrigger_netns::enter(network.node().open()?)?;
            let mut place = Place::new(network);
            crate::block_on(test(&mut place))
        };
        scope.spawn(test).join()
    });
    match outcome {
        Ok(outcome) => {
            if let Err(error) = outcome {
                panic!("{error:#}");
            }
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Place {
    fn new(network: Network) -> Self {
        let hosts = format!("{} {CONTROL_PLANE}\n", address(&network));
        Self {
            control_plane: None,
            network,
            hosts,
            services: 0,
        }
    }

    /// A service with cluster addresses, that pods made from now on know by name. Nobody answers at the addresses.
    pub fn service(&mut self, name: &str, ports: &[Port]) -> Service {
        self.services += 1;
        let number = self.services;
        let ips = vec![
            IpAddr::from(Ipv4Addr::new(10, 96, 0, number)),
            IpAddr::from(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number.into())),
        ];
        let [v4, v6] = [ips[0], ips[1]];
        // Debian's programs try IPv6 first, where a name has both.
        self.hosts +=
            &format!("{v4} {name} {name}.shop {name}.shop.svc.cluster.local\n{v6} {name}-v6\n");
        Service::new(name, ips, ports)
    }

    /// A pod without anything in it.
    pub fn pod(&mut self, name: &str) -> Result<Pod> {
        let namespace = self.network.pod(name, &self.hosts)?;
        let program = crate::proxy::binary("outrigger-proxy")?;
        Ok(Pod::new(
            name,
            namespace,
            self.network.executable(&program)?,
        ))
    }

    /// Starts the control plane on the node, with these files.
    pub async fn control_plane(&mut self, files: &[(&str, String)]) -> Result<()> {
        let address = address(&self.network);
        self.control_plane = Some(ControlPlane::start_at(address, files).await?);
        Ok(())
    }

    /// The control plane.
    pub fn mesh(&self) -> Result<&ControlPlane> {
        self.control_plane.as_ref().context("no control plane")
    }

    /// The control plane, to kill or to restart it.
    pub fn mesh_mut(&mut self) -> Result<&mut ControlPlane> {
        self.control_plane.as_mut().context("no control plane")
    }
}

/// Where the control plane is: on IPv6, which sidecars ask for first. There is no DNS to tell them quickly that a
/// name has no such address.
fn address(network: &Network) -> IpAddr {
    let last = network.node().addresses().last();
    *last.expect("a node has an address")
}
