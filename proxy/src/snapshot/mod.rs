//! The configuration that requests run under: immutable, exchanged whole.
//!
//! The main thread builds the next [`Snapshot`] from the last one and an update ([`state`]), holding
//! back what is not warm, and publishes it once per update. Each worker takes it over when it is
//! woken; a stream takes one snapshot at its start and uses it to its end.

mod clusters;
mod dump;
mod listeners;
mod resource;
mod routes;
pub mod state;
mod stats;
#[cfg(test)]
mod tests;
mod versions;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use tokio::sync::watch;

pub use clusters::SourceKey;
pub use dump::{Dump, DumpEntry, DumpState};
pub use resource::{Origin, Resource};
pub use state::State;

use crate::{
    config::http_connection_manager::RouteSource,
    listener::Active,
    router::Table,
    upstream::{Cluster, Destinations},
};

/// A map by name whose lookups run on the request path.
pub type NameMap<T> = HashMap<Arc<str>, T, foldhash::fast::RandomState>;

/// One state of the whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts publications, from 1.
    pub version: u64,
    /// Warm clusters.
    pub clusters: NameMap<Arc<Cluster>>,
    /// Route configurations that came by RDS.
    pub routes: NameMap<Arc<Table>>,
    /// Warm listeners.
    pub listeners: Vec<Arc<Active>>,
}

impl Snapshot {
    /// The cluster of that name, if it is warm.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// Our own listener at an address that a connection was going to, if there is one. The connection was
    /// accepted at an address of ours, `accepted_at`.
    #[must_use]
    pub fn own_listener(&self, address: SocketAddr, accepted_at: IpAddr) -> Option<&Arc<str>> {
        let is_ours = |bound: SocketAddr| {
            let ip = address.ip();
            let is_local = || ip.is_loopback() || ip == accepted_at || is_own_address(ip);
            bound.port() == address.port()
                && (bound.ip() == ip || (bound.ip().is_unspecified() && is_local()))
        };
        let mut bound = self.listeners.iter().filter(|one| one.config.bind_to_port);
        bound
            .find(|one| one.sockets.iter().any(|sockets| is_ours(sockets.address())))
            .map(|one| &one.config.name)
    }

    /// Where what goes to an address of an ORIGINAL_DST cluster is sent.
    ///
    /// # Errors
    /// The listener of our own that it is: what is sent there would come back for ever. It is counted.
    pub fn destination(
        &self,
        destinations: &Destinations,
        address: SocketAddr,
        accepted_at: IpAddr,
    ) -> Result<SocketAddr, &Arc<str>> {
        let address = destinations.address(address);
        match self.own_listener(address, accepted_at) {
            Some(listener) => {
                destinations.loops.inc();
                Err(listener)
            }
            None => Ok(address),
        }
    }

    /// The listener that connections to an address are handed to: the one with that address, or with that
    /// port and no address.
    #[must_use]
    pub fn listener_at(&self, address: SocketAddr) -> Option<&Arc<Active>> {
        let at = |wanted: SocketAddr| {
            let has = |one: &&Arc<Active>| one.sockets.iter().any(|s| s.address() == wanted);
            self.listeners.iter().find(has)
        };
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        at(address).or_else(|| at(SocketAddr::new(any, address.port())))
    }

    /// The route table that a connection manager refers to by RDS; inline tables are held beside the
    /// connection manager.
    #[must_use]
    pub fn table(&self, source: &RouteSource) -> Option<&Arc<Table>> {
        match source {
            RouteSource::Inline(_) => None,
            RouteSource::Rds { name, .. } => self.routes.get(name),
        }
    }
}

/// Whether what is sent to an address comes back to this machine: the system would send it from the same
/// address. Nothing is sent; it is asked only for the ports of listeners that have no address of their own.
fn is_own_address(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    source().is_ok_and(|source| source.ip() == ip)
}

/// Hands snapshots to the workers.
#[derive(Clone, Debug)]
pub struct Publisher {
    sender: watch::Sender<Arc<Snapshot>>,
}

impl Publisher {
    /// Starts with an empty snapshot.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: watch::Sender::new(Arc::default()),
        }
    }

    /// Makes `snapshot` the current one and wakes every worker, so that none keeps the old one
    /// (with its keys and memory) longer than it must. Its listeners listen before anyone can read of
    /// them: who is told that we are ready is not refused.
    pub fn publish(&self, snapshot: Snapshot) {
        for listener in &snapshot.listeners {
            for sockets in &listener.sockets {
                if let Err(error) = sockets.listen() {
                    tracing::error!(
                        %error,
                        address = %sockets.address(),
                        listener = %listener.config.name,
                        "cannot listen"
                    );
                }
            }
        }
        self.sender.send_replace(Arc::new(snapshot));
    }

    /// The current one.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.sender.borrow())
    }

    /// A worker's view: `changed().await`, then `borrow_and_update()`.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.sender.subscribe()
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}
