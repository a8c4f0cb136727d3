//! The hosts of ORIGINAL_DST clusters: wherever connections were going to.
//!
//! A worker that meets a destination for the first time makes its host; the main thread takes it into the
//! cluster's hosts, where workers find it without a lock, and forgets hosts that were not used for a while.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use tokio::{sync::Notify, task::JoinHandle};

use super::{Cluster, Host, HostSpec};
use crate::{
    config::cluster::{HealthCheckTarget, HealthStatus, Locality, OriginalDst},
    telemetry::{
        stats::{Counter, Scope},
        stream_info::Source,
    },
};

/// The hosts that an ORIGINAL_DST cluster has so far.
#[derive(Debug)]
pub struct Destinations {
    /// What it was built from.
    pub config: OriginalDst,
    /// `original_dst_host_invalid`: headers that name no address.
    pub host_invalid: Counter,
    /// `original_dst_loop`: connections that would have come back to ourselves.
    pub loops: Counter,
    shared: Arc<Shared>,
}

/// By address, and by what connections to it come from.
type Hosts = HashMap<(SocketAddr, Option<Source>), Arc<Host>>;

/// Shared with earlier and later versions of the cluster.
#[derive(Debug, Default)]
struct Shared {
    hosts: Mutex<Hosts>,
    /// Wakes the main thread.
    changed: Notify,
}

impl Destinations {
    pub(super) fn new(config: OriginalDst, scope: &Scope, previous: Option<&Self>) -> Self {
        Self {
            config,
            host_invalid: scope.counter("original_dst_host_invalid"),
            loops: scope.counter("original_dst_loop"),
            shared: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.shared)),
        }
    }

    /// The address that a header names.
    #[must_use]
    pub fn from_header(&self, headers: &http::HeaderMap) -> Option<SocketAddr> {
        let value = headers.get(self.config.http_header.as_ref()?)?;
        let address = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if address.is_none() {
            self.host_invalid.inc();
        }
        address
    }

    /// Where a connection to this destination goes.
    #[must_use]
    pub fn address(&self, destination: SocketAddr) -> SocketAddr {
        match self.config.port {
            Some(port) => SocketAddr::new(destination.ip(), port),
            None => destination,
        }
    }

    /// The host at an address that the cluster's hosts do not have yet.
    pub(super) fn host(&self, address: SocketAddr, source: Option<Source>) -> Arc<Host> {
        let mut hosts = self.lock();
        if let Some(host) = hosts.get(&(address, source)) {
            return Arc::clone(host);
        }
        let spec = HostSpec {
            address,
            hostname: "".into(),
            locality: Locality::default(),
            priority: 0,
            weight: 1,
            health: HealthStatus::Unknown,
            hash_key: None,
            health_check: HealthCheckTarget::default(),
        };
        let host = Arc::new(Host::from_source(&spec, source));
        hosts.insert((address, source), Arc::clone(&host));
        self.shared.changed.notify_one();
        host
    }

    /// Forgets what was not used since the last call, and has no connections.
    fn forget_unused(&self) -> Vec<Arc<Host>> {
        let mut gone = Vec::new();
        self.lock().retain(|_, host| {
            let is_used = host.take_used() || host.stats.cx_active.load(Relaxed) > 0;
            if !is_used {
                gone.push(Arc::clone(host));
            }
            is_used
        });
        gone
    }

    fn all(&self) -> Vec<Arc<Host>> {
        let mut hosts: Vec<_> = self.lock().values().cloned().collect();
        hosts.sort_by_key(|host| host.id);
        hosts
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Hosts> {
        self.shared
            .hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the hosts of an ORIGINAL_DST cluster; none for clusters of other kinds. Runs on the main thread.
pub fn watch(cluster: &Arc<Cluster>) -> Option<JoinHandle<()>> {
    let destinations = cluster.destinations.as_ref()?;
    let interval = destinations.config.cleanup_interval;
    let shared = Arc::clone(&destinations.shared);
    let weak = Arc::downgrade(cluster);
    let mut ended = cluster.ended();
    Some(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            let is_tick = tokio::select! {
                () = ended.wait() => return,
                () = shared.changed.notified() => false,
                _ = ticks.tick() => true,
            };
            let Some(cluster) = weak.upgrade() else {
                return;
            };
            let Some(destinations) = &cluster.destinations else {
                return;
            };
            let gone = if is_tick {
                destinations.forget_unused()
            } else {
                Vec::new()
            };
            if is_tick && gone.is_empty() {
                continue;
            }
            cluster.replace_hosts(destinations.all());
            gone.iter().for_each(|host| host.remove());
        }
    }))
}
