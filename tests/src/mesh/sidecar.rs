//! A proxy under our control plane: Envoy or `outrigger-proxy`, with the same bootstrap.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use outrigger_mesh::bootstrap::{self, OTLP_CLUSTER};
use outrigger_mesh::scope::{Inbound, InboundProtocol, NodeMetadata, Tracing};
use tokio::net::TcpStream;

use super::{ControlPlane, DEADLINE};
use crate::proxy::{Kind, Proxy};
use crate::wait;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What a sidecar is to be, and its process while it runs.
#[derive(Debug)]
pub struct Sidecar {
    kind: Kind,
    delta: bool,
    name: String,
    metadata: NodeMetadata,
    admin: SocketAddr,
    proxy: Option<Proxy>,
}

impl Sidecar {
    /// A sidecar of the workload `name` in the namespace `shop`, without listeners yet.
    pub fn new(kind: Kind, delta: bool, name: &str) -> Self {
        let metadata = NodeMetadata {
            namespace: "shop".to_owned(),
            workload: name.to_owned(),
            service: name.to_owned(),
            ..NodeMetadata::default()
        };
        Self {
            kind,
            delta,
            name: name.to_owned(),
            metadata,
            admin: ANY,
            proxy: None,
        }
    }

    /// With a listener for what the workload calls, on a free port.
    pub fn outbound(self) -> Self {
        self.outbound_at(ANY)
    }

    /// The same on a chosen address.
    pub fn outbound_at(mut self, address: SocketAddr) -> Self {
        self.metadata.outbound = Some(address);
        self
    }

    /// With a listener for what arrives for the workload.
    pub fn inbound(mut self, listen: SocketAddr, app: SocketAddr) -> Self {
        let protocol = InboundProtocol::Http1;
        self.metadata.inbound.push(Inbound {
            listen,
            app,
            protocol,
        });
        self
    }

    /// With its admin endpoint at a chosen address, which the control plane is told.
    pub fn admin_at(mut self, address: SocketAddr) -> Self {
        self.admin = address;
        self
    }

    /// Every request is traced, to the control plane.
    pub fn traced(mut self) -> Self {
        let cluster = OTLP_CLUSTER.to_owned();
        self.metadata.tracing = Some(Tracing {
            cluster,
            sampling: 100,
        });
        self
    }

    /// Requests are logged to a file.
    pub fn logs_to(mut self, file: &str) -> Self {
        self.metadata.access_log = Some(file.to_owned());
        self
    }

    /// Limits the services that it calls.
    pub fn egress(mut self, patterns: &[&str]) -> Self {
        self.metadata.egress = Some(patterns.iter().map(|text| (*text).to_owned()).collect());
        self
    }

    /// Starts it, again if need be, and waits until it is ready.
    pub async fn start(&mut self, control_plane: &ControlPlane) -> Result<()> {
        self.launch(control_plane, true).await
    }

    /// The same without waiting.
    pub async fn spawn(&mut self, control_plane: &ControlPlane) -> Result<()> {
        self.launch(control_plane, false).await
    }

    async fn launch(&mut self, control_plane: &ControlPlane, wait: bool) -> Result<()> {
        let bootstrap = bootstrap::Sidecar {
            id: self.name.clone(),
            cluster: self.name.clone(),
            metadata: self.metadata.clone(),
            admin: self.admin,
            xds: control_plane.address("xds"),
            otlp: Some(control_plane.address("otlp-grpc")),
            delta: self.delta,
        };
        let folder = tempfile::tempdir()?;
        let node = [
            "--service-node",
            &self.name,
            "--service-cluster",
            &self.name,
        ];
        let text = bootstrap.to_yaml();
        let proxy = if wait {
            Proxy::start_in(self.kind, &text, folder, &node).await?
        } else {
            Proxy::spawn(self.kind, &text, folder, &node).await?
        };
        self.proxy = Some(proxy);
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) -> Result<()> {
        let mut proxy = self.proxy.take().context("it does not run")?;
        proxy.process().signal(Signal::SIGKILL)?;
        proxy.process().wait(DEADLINE).await?;
        Ok(())
    }

    /// Its process.
    pub fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().context("it does not run")
    }

    /// Its `node.id`.
    pub fn id(&self) -> &str {
        &self.name
    }

    /// Where it takes what the workload calls, once connections are taken there: a proxy accepts a
    /// configuration before its workers listen.
    pub async fn outbound_address(&self) -> Result<SocketAddr> {
        let address = self.proxy()?.listener("outbound").await?;
        listening(address).await?;
        Ok(address)
    }
}

/// Waits until connections are taken.
pub async fn listening(address: SocketAddr) -> Result<()> {
    wait::until("connections to be taken", DEADLINE, async || {
        Ok(TcpStream::connect(address).await.map(drop)?)
    })
    .await
}
