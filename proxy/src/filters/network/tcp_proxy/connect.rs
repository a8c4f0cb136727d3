//! Finds a connection's cluster and host, and connects.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc};

use super::TcpProxyRuntime;
use crate::{
    config::route::Priority,
    telemetry::stream_info::{ConnectionInfo, ResponseFlags, Source},
    upstream::{
        Cluster, Host, NO_SOURCE,
        lb::{self, hash::xxh64},
        outlier::Outcome,
        pool::{ConnectFailure, Failure, tcp::TcpUpstream},
    },
    worker::{SharedSnapshot, Worker},
};

/// What is known of the way to a host; of the last attempt.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) host: Option<Arc<Host>>,
    pub(super) attempts: u32,
    pub(super) flags: ResponseFlags,
    pub(super) transport_failure: Option<Box<str>>,
    pub(super) reason: Option<Box<str>>,
}

/// Where a connection comes from and was going to.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The peer.
    pub remote: SocketAddr,
    /// The address that was connected to, before it was redirected here.
    pub local: SocketAddr,
    /// The address of the socket itself.
    pub real_local: SocketAddr,
    /// Whether the kernel told where the connection was going to.
    pub is_redirected: bool,
    /// What the connection to the host is to come from.
    pub source: Option<Source>,
}

impl Origin {
    pub(super) fn of(info: &ConnectionInfo) -> Self {
        Self {
            remote: info.remote,
            local: info.local,
            real_local: info.real_local,
            is_redirected: info.is_redirected,
            source: info.source,
        }
    }
}

/// What connecting needs.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) worker: Rc<Worker>,
    pub(super) proxy: Arc<TcpProxyRuntime>,
    pub(super) origin: Origin,
    pub(super) snapshot: SharedSnapshot,
    /// The chosen cluster's name.
    pub(super) name: Option<Arc<str>>,
}

impl Connect {
    /// Chooses the cluster.
    pub(super) fn new(worker: &Rc<Worker>, proxy: &Arc<TcpProxyRuntime>, origin: Origin) -> Self {
        Self {
            worker: Rc::clone(worker),
            proxy: Arc::clone(proxy),
            origin,
            snapshot: worker.snapshot(),
            name: proxy.config.choose(worker.random()).cloned(),
        }
    }

    /// Whether there is such a cluster, and it takes one more connection.
    pub(super) fn has_room(&self) -> bool {
        self.cluster().is_some_and(|cluster| {
            let resources = cluster.circuit.of(Priority::Default);
            resources.connections.can_create() && resources.pending.can_create()
        })
    }

    fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.snapshot.cluster(self.name.as_ref()?)
    }

    /// Connects to a host of the chosen cluster, as often as the filter allows. What it finds on the way can be
    /// read all the time.
    pub(super) async fn run(self, found: &RefCell<Found>) -> Option<TcpUpstream> {
        let config = &self.proxy.config;
        let Some(cluster) = self.cluster() else {
            self.proxy.stats.cx_no_route.inc();
            let mut found = found.borrow_mut();
            found.flags.insert(ResponseFlags::NO_CLUSTER_FOUND);
            let name = self.name.as_deref().unwrap_or_default();
            found.reason = Some(format!("no cluster '{name}'").into());
            return None;
        };
        found.borrow_mut().cluster = Some(Arc::clone(cluster));
        loop {
            let host = {
                let found = &mut found.borrow_mut();
                if !may_connect(cluster, config.max_connect_attempts, found) {
                    return None;
                }
                self.pick(cluster, found)?
            };
            let pool = self.worker.pools.tcp(cluster, &host, Priority::Default);
            let Some(pool) = pool else {
                found
                    .borrow_mut()
                    .is_limited("max_connection_pools", cluster);
                continue;
            };
            found.borrow_mut().host = Some(Arc::clone(&host));
            let failure = match pool.connect().await {
                Ok(upstream) => {
                    cluster.report(&host, Outcome::Connected);
                    return Some(upstream);
                }
                Err(failure) => failure,
            };
            let mut found = found.borrow_mut();
            match failure {
                Failure::Connect(failure) => {
                    let outcome = match failure.is_timeout {
                        true => Outcome::LocalTimeout,
                        false => Outcome::LocalConnectFailed,
                    };
                    cluster.report(&host, outcome);
                    found.fails(&failure);
                }
                Failure::Overflow(limit) => {
                    // Envoy names no host then, and sets no flag but the one of the last attempt.
                    found.host = None;
                    found.is_limited(limit.name(), cluster);
                }
                // A connection that carries bytes fails in no other way while it is made.
                _ => return None,
            }
        }
    }

    /// The host of one more attempt.
    fn pick(&self, cluster: &Arc<Cluster>, found: &mut Found) -> Option<Arc<Host>> {
        let key = lb::Key {
            hash: self.hash(cluster),
            attempt: 0,
            destination: self.destination(cluster, found),
            source: self.origin.source,
        };
        let host = self
            .worker
            .pools
            .pick(cluster, key, || self.worker.random());
        if host.is_some() {
            found.attempts += 1;
            return host;
        }
        found.flags.insert(ResponseFlags::NO_HEALTHY_UPSTREAM);
        if cluster.destinations.is_none() && self.origin.source.is_some() {
            found.reason = Some(NO_SOURCE.into());
        }
        let hosts = cluster.hosts.load().hosts.len();
        let name = &cluster.config.name;
        found
            .reason
            .get_or_insert_with(|| format!("no healthy host of {hosts} in cluster {name}").into());
        None
    }

    fn hash(&self, cluster: &Cluster) -> Option<u64> {
        let hashes = self.proxy.config.hashes_source_ip && cluster.config.lb_policy.is_consistent();
        hashes.then(|| xxh64(self.origin.remote.ip().to_string().as_bytes(), 0))
    }

    /// Where the connection was going to, unless that is ourselves: it would come back for ever.
    fn destination(&self, cluster: &Cluster, found: &mut Found) -> Option<SocketAddr> {
        let destinations = cluster.destinations.as_ref()?;
        let origin = &self.origin;
        if !origin.is_redirected {
            found.reason = Some("the connection has no original destination".into());
            return None;
        }
        let accepted_at = origin.real_local.ip();
        match self
            .snapshot
            .destination(destinations, origin.local, accepted_at)
        {
            Ok(address) => Some(address),
            Err(listener) => {
                let address = destinations.address(origin.local);
                let reason =
                    format!("original destination {address} is our own listener '{listener}'");
                found.reason = Some(reason.into());
                None
            }
        }
    }
}

/// Whether the limits allow one more attempt.
fn may_connect(cluster: &Cluster, max_attempts: u32, found: &mut Found) -> bool {
    let resources = cluster.circuit.of(Priority::Default);
    if !resources.connections.can_create() {
        resources.connections.trip();
        cluster.stats.upstream_cx_overflow.inc();
        found.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
        found.is_limited("max_connections", cluster);
        return false;
    }
    if found.attempts >= max_attempts {
        cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
        found
            .flags
            .insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        return false;
    }
    true
}

impl Found {
    fn is_limited(&mut self, limit: &str, cluster: &Cluster) {
        let name = &cluster.config.name;
        self.reason = Some(format!("{limit} of cluster {name} reached").into());
    }

    fn fails(&mut self, failure: &ConnectFailure) {
        self.flags
            .insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        self.transport_failure = failure.transport_failure().map(Into::into);
    }
}
