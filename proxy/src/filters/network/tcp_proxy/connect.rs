//! Finds a connection's cluster and host, and connects.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use super::connection::Connection;
use crate::{
    config::route::Priority,
    telemetry::stream_info::ResponseFlags,
    upstream::{
        Cluster, Host,
        lb::{self, hash::xxh64},
        outlier::Outcome,
        pool::{ConnectFailure, Failure, tcp::TcpUpstream},
    },
    worker::SharedSnapshot,
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

/// Connects to a host of the chosen cluster, as often as the filter allows.
pub(super) async fn connect(cx: &Rc<Connection>, found: &mut Found) -> Option<TcpUpstream> {
    let worker = &cx.worker;
    let config = &cx.proxy.config;
    let snapshot = worker.snapshot();
    let name = config.choose(worker.random());
    let cluster = name.and_then(|name| snapshot.cluster(name));
    let Some(cluster) = cluster else {
        cx.proxy.stats.cx_no_route.inc();
        found.flags.insert(ResponseFlags::NO_CLUSTER_FOUND);
        let name = name.map(|name| &**name).unwrap_or_default();
        found.reason = Some(format!("no cluster '{name}'").into());
        return None;
    };
    found.cluster = Some(Arc::clone(cluster));
    loop {
        let resources = cluster.circuit.of(Priority::Default);
        if !resources.connections.can_create() {
            resources.connections.trip();
            cluster.stats.upstream_cx_overflow.inc();
            found.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
            found.is_limited("max_connections", cluster);
            return None;
        }
        if found.attempts >= config.max_connect_attempts {
            cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
            found
                .flags
                .insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            return None;
        }
        let Some(host) = pick(cx, &snapshot, cluster, found) else {
            found.flags.insert(ResponseFlags::NO_HEALTHY_UPSTREAM);
            let hosts = cluster.hosts.load().hosts.len();
            let name = &cluster.config.name;
            found.reason.get_or_insert_with(|| {
                format!("no healthy host of {hosts} in cluster {name}").into()
            });
            return None;
        };
        found.attempts += 1;
        let Some(pool) = worker.pools.tcp(cluster, &host, Priority::Default) else {
            found.is_limited("max_connection_pools", cluster);
            continue;
        };
        found.host = Some(Arc::clone(&host));
        match pool.connect().await {
            Ok(upstream) => {
                cluster.report(&host, Outcome::Connected);
                return Some(upstream);
            }
            Err(Failure::Connect(failure)) => {
                let outcome = match failure.is_timeout {
                    true => Outcome::LocalTimeout,
                    false => Outcome::LocalConnectFailed,
                };
                cluster.report(&host, outcome);
                found.fails(&failure);
            }
            Err(Failure::Overflow(limit)) => {
                // Envoy names no host then, and sets no flag but the one of the last attempt.
                found.host = None;
                found.is_limited(limit.name(), cluster);
            }
            // A connection that carries bytes fails in no other way while it is made.
            Err(_) => return None,
        }
    }
}

fn pick(
    cx: &Connection,
    snapshot: &SharedSnapshot,
    cluster: &Arc<Cluster>,
    found: &mut Found,
) -> Option<Arc<Host>> {
    let key = lb::Key {
        hash: hash(cx, cluster),
        attempt: 0,
        destination: destination(cx, snapshot, cluster, found),
    };
    cx.worker.pools.pick(cluster, key, || cx.worker.random())
}

fn hash(cx: &Connection, cluster: &Cluster) -> Option<u64> {
    let hashes = cx.proxy.config.hashes_source_ip && cluster.config.lb_policy.is_consistent();
    hashes.then(|| xxh64(cx.info.remote.ip().to_string().as_bytes(), 0))
}

/// Where the connection was going to, unless that is ourselves: it would come back for ever.
fn destination(
    cx: &Connection,
    snapshot: &SharedSnapshot,
    cluster: &Cluster,
    found: &mut Found,
) -> Option<SocketAddr> {
    let destinations = cluster.destinations.as_ref()?;
    let info = &cx.info;
    if !info.is_redirected {
        found.reason = Some("the connection has no original destination".into());
        return None;
    }
    match snapshot.destination(destinations, info.local, info) {
        Ok(address) => Some(address),
        Err(listener) => {
            let address = destinations.address(info.local);
            let reason = format!("original destination {address} is our own listener '{listener}'");
            found.reason = Some(reason.into());
            None
        }
    }
}

impl Found {
    fn is_limited(&mut self, limit: &str, cluster: &Cluster) {
        let name = &cluster.config.name;
        self.reason = Some(format!("{limit} of cluster {name} reached").into());
    }

    fn fails(&mut self, failure: &ConnectFailure) {
        self.flags
            .insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        // As in Envoy, what is late has no reason.
        self.transport_failure = (!failure.is_timeout)
            .then(|| format!("delayed connect error: {}", failure.reason).into());
    }
}
