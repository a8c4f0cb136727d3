//! A cluster at run time: its configuration with hosts, counts and statistics.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    circuit::Circuit,
    destinations::Destinations,
    health::{Checker, HealthFlags},
    host::{Host, HostSpec},
    host_set::{HostSet, Inputs},
    lb::consistent::TableGauges,
    outlier::{Detector, Outcome},
    stats::ClusterStats,
};
use crate::{
    config::{
        self,
        cluster::{Discovery, EndpointAddress, LoadAssignment, UpstreamProtocol},
    },
    telemetry::stats::Registry,
};

/// One cluster; shared by all workers and by snapshots.
#[derive(Debug)]
pub struct Cluster {
    /// Unique in this process; a changed cluster gets a new one.
    pub id: u64,
    /// What it was built from.
    pub config: Arc<config::cluster::Cluster>,
    /// The hosts of now.
    pub hosts: ArcSwap<HostSet>,
    /// `cluster.<name>.…`
    pub stats: ClusterStats,
    /// Circuit breakers; shared with earlier and later versions of this cluster.
    pub circuit: Arc<Circuit>,
    /// Of the table of a consistent hash.
    table_gauges: Option<TableGauges>,
    /// Leaves out hosts that fail, if configured.
    pub outlier: Option<Detector>,
    /// Asks hosts how they are, if configured.
    pub health: Option<Checker>,
    /// Where its connections were going to, where those are its hosts.
    pub destinations: Option<Destinations>,
    initialized: watch::Sender<bool>,
    /// The version before this one, while it may still serve: it has the same hosts.
    previous: Weak<Self>,
    /// Whether another version took over what is done beside requests.
    is_retired: watch::Sender<bool>,
    /// The first hosts (even none) are known; they may still wait for their first health checks.
    is_discovered: AtomicBool,
}

/// Tells a task that its cluster is replaced or gone.
#[derive(Debug)]
pub(super) struct Ended(watch::Receiver<bool>);

impl Ended {
    pub(super) async fn wait(&mut self) {
        // An error is an end too: the cluster is gone.
        let _gone = self.0.wait_for(|is_retired| *is_retired).await;
    }
}

impl Cluster {
    /// Builds a cluster. Hosts of `previous` whose address stays keep their identity, unless what is
    /// spoken to them changed; its circuit-breaker counts are taken over.
    ///
    /// A STATIC cluster has its hosts at once; others wait for [`Self::update_hosts`] (EDS) or DNS,
    /// but serve from the previous version's hosts meanwhile where those are of the same kind.
    #[must_use]
    pub fn new(
        config: Arc<config::cluster::Cluster>,
        registry: &Registry,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let scope = registry.scope("cluster").scope(&config.stat_name);
        let circuit = match previous {
            Some(previous) => {
                previous.circuit.update(&config.circuit_breakers);
                Arc::clone(&previous.circuit)
            }
            None => Arc::new(Circuit::new(&config.circuit_breakers, &scope)),
        };
        let reusable = previous.filter(|previous| same_connections(&previous.config, &config));
        // The hosts stay; how they are sorted out, and tables of hashes, are the new configuration's.
        let hosts = reusable.map_or_else(Default::default, |previous| {
            let before = previous.hosts.load();
            let (hosts, inputs) = (before.hosts.clone(), before.inputs.clone());
            HostSet::new(before.generation + 1, hosts, &config, inputs)
        });
        // Hosts are watched once: their new cluster's changes are told to the old one.
        reusable.inspect(|previous| previous.retire());
        let outlier = config.outlier_detection.as_ref().map(|outlier| {
            let previous = reusable.and_then(|previous| previous.outlier.as_ref());
            Detector::new(Arc::clone(outlier), &scope, previous)
        });
        let health = config
            .health_check
            .as_ref()
            .map(|health| Checker::new(Arc::clone(health), &scope));
        let destinations = match &config.discovery {
            Discovery::OriginalDst(original) => Some(Destinations::new(
                original.clone(),
                &scope,
                reusable.and_then(|previous| previous.destinations.as_ref()),
            )),
            _ => None,
        };
        let cluster = Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            hosts: ArcSwap::new(Arc::new(hosts)),
            table_gauges: TableGauges::new(&config.lb_policy, &scope),
            stats: ClusterStats::new(scope),
            circuit,
            outlier,
            health,
            destinations,
            initialized: watch::Sender::new(false),
            previous: reusable.map_or_else(Weak::new, Arc::downgrade),
            is_retired: watch::Sender::new(false),
            is_discovered: AtomicBool::new(false),
            config,
        });
        cluster.note_membership(&cluster.hosts.load());
        match &cluster.config.discovery {
            Discovery::Static(assignment) => cluster.update_hosts(assignment),
            // Its hosts come with its connections.
            Discovery::OriginalDst(_) => cluster.give_up_waiting(),
            Discovery::StrictDns(_) | Discovery::Eds { .. } => {}
        }
        cluster
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Whether the first hosts (even none) are known.
    #[must_use]
    pub fn initialized(&self) -> bool {
        *self.initialized.borrow()
    }

    /// Ends when [`Self::initialized`] holds.
    pub async fn wait_initialized(&self) {
        let mut receiver = self.initialized.subscribe();
        // The sender lives in `self`: waiting cannot fail.
        let _closed = receiver.wait_for(|initialized| *initialized).await;
    }

    /// Counts the cluster as initialised although no hosts came (initial fetch timeout).
    pub fn give_up_waiting(&self) {
        self.is_discovered.store(true, Relaxed);
        self.initialized.send_replace(true);
    }

    /// Ends the tasks that watch this version: another one took over, or it is gone.
    pub fn retire(&self) {
        self.is_retired.send_replace(true);
    }

    pub(super) fn ended(&self) -> Ended {
        Ended(self.is_retired.subscribe())
    }

    /// Takes over an assignment (EDS, or the configuration's own). Addresses that are names are left
    /// out: DNS resolves those. Only called on the main thread.
    pub fn update_hosts(&self, assignment: &LoadAssignment) {
        self.set_hosts(
            &specs(assignment, |_, _| Vec::new()),
            Inputs::of(assignment),
        );
    }

    /// Makes the hosts those of `specs`. Only called on the main thread.
    pub(super) fn set_hosts(&self, specs: &[HostSpec], inputs: Inputs) {
        let before = self.hosts.load_full();
        let mut known: HashMap<SocketAddr, Vec<&Arc<Host>>> = HashMap::new();
        for host in &before.hosts {
            known.entry(host.address).or_default().push(host);
        }
        let mut changed = inputs != before.inputs;
        let mut is_new = false;
        let mut hosts: Vec<Arc<Host>> = Vec::with_capacity(specs.len());
        let mut seen = std::collections::HashSet::new();
        for spec in specs {
            // The first definition of an address in a priority counts, as in Envoy.
            if !seen.insert((spec.address, spec.priority)) {
                continue;
            }
            let candidates = known.entry(spec.address).or_default();
            match candidates.iter().position(|host| host.is(spec)) {
                Some(position) => {
                    let host = candidates.swap_remove(position);
                    changed |= host.update(spec);
                    changed |= host.clear(HealthFlags::PENDING_DYNAMIC_REMOVAL);
                    hosts.push(Arc::clone(host));
                }
                None => {
                    changed = true;
                    is_new = true;
                    hosts.push(Arc::new(self.new_host(spec)));
                }
            }
        }
        let (kept, gone): (Vec<_>, Vec<_>) = known
            .into_values()
            .flatten()
            .partition(|host| self.outlives_removal(host, specs));
        for host in kept {
            changed |= host.set(HealthFlags::PENDING_DYNAMIC_REMOVAL);
            hosts.push(Arc::clone(host));
        }
        changed |= !gone.is_empty();
        if changed {
            self.set(hosts, inputs, is_new || !gone.is_empty());
        } else if self.is_discovered.load(Relaxed) {
            self.stats.update_no_rebuild.inc();
        }
        for host in gone {
            host.remove();
        }
        self.is_discovered.store(true, Relaxed);
        self.try_initialize();
    }

    /// Makes the set that requests pick from anew: the health of hosts changed. Only called on the main
    /// thread.
    pub(super) fn refresh_hosts(&self) {
        let before = self.hosts.load_full();
        // What was taken away goes when it fails its health checks.
        let (gone, hosts): (Vec<_>, Vec<_>) = before.hosts.iter().cloned().partition(|host| {
            host.flags().has(HealthFlags::PENDING_DYNAMIC_REMOVAL)
                && host.flags().has(HealthFlags::FAILED_ACTIVE_HC)
        });
        self.set(hosts, before.inputs.clone(), !gone.is_empty());
        gone.iter().for_each(|host| host.remove());
        if let Some(previous) = self.previous.upgrade() {
            previous.refresh_hosts();
        }
    }

    /// Makes the hosts these. Only called on the main thread.
    pub(super) fn replace_hosts(&self, hosts: Vec<Arc<Host>>) {
        let inputs = self.hosts.load().inputs.clone();
        self.set(hosts, inputs, true);
    }

    fn set(&self, hosts: Vec<Arc<Host>>, inputs: Inputs, is_membership_changed: bool) {
        let generation = self.hosts.load().generation + 1;
        let next = HostSet::new(generation, hosts, &self.config, inputs);
        self.note_membership(&next);
        if is_membership_changed {
            self.stats.membership_change.inc();
        }
        if let Some(outlier) = &self.outlier {
            outlier.note_active(&next.hosts);
        }
        if let Some(health) = &self.health {
            health.note(&next.hosts);
        }
        self.hosts.store(Arc::new(next));
        if let (Some(health), true) = (&self.health, is_membership_changed) {
            health.hosts_changed();
        }
    }

    /// Tells outlier detection, if there is any, what came of a try at a host.
    pub(crate) fn report(&self, host: &Host, outcome: Outcome) {
        if let Some(outlier) = &self.outlier {
            outlier.report(host, outcome);
        }
    }

    /// A host that is checked counts as unhealthy until it passed a check.
    fn new_host(&self, spec: &HostSpec) -> Host {
        let host = Host::new(spec);
        if self.health.is_some() && !spec.health_check.is_disabled {
            host.set(HealthFlags::FAILED_ACTIVE_HC);
            if self.config.ignore_new_hosts_until_first_hc {
                host.set(HealthFlags::PENDING_ACTIVE_HC);
            }
        }
        host
    }

    /// Whether a host that its source took away stays since it passes its health checks.
    fn outlives_removal(&self, host: &Host, specs: &[HostSpec]) -> bool {
        const UNHEALTHY: HealthFlags = HealthFlags::FAILED_ACTIVE_HC
            .and(HealthFlags::FAILED_EDS_HEALTH)
            .and(HealthFlags::EDS_STATUS_DRAINING);
        self.health.is_some()
            && !self.config.ignore_health_on_host_removal
            && !host.health_check.is_disabled
            && !host.flags().has(UNHEALTHY)
            // It only moved, or is checked in another way.
            && specs.iter().all(|spec| spec.address != host.address)
    }

    /// The cluster can serve once its hosts are known, and each was checked once.
    pub(super) fn try_initialize(&self) {
        let is_unchecked = |host: &Arc<Host>| !host.health_check.is_disabled && !host.is_checked();
        let waits = self.health.is_some() && self.hosts.load().hosts.iter().any(is_unchecked);
        if self.is_discovered.load(Relaxed) && !waits {
            self.initialized.send_replace(true);
        }
    }

    fn note_membership(&self, set: &HostSet) {
        let stats = &self.stats;
        let weight = set
            .hosts
            .iter()
            .map(|host| host.weight())
            .max()
            .unwrap_or(0);
        stats.membership_total.set(set.hosts.len() as u64);
        stats.membership_healthy.set(set.healthy() as u64);
        stats.membership_degraded.set(set.degraded() as u64);
        if let (Some(gauges), Some(size)) = (&self.table_gauges, set.table_size()) {
            gauges.set(size);
        }
        let excluded = set.hosts.iter().filter(|host| host.is_excluded()).count();
        stats.membership_excluded.set(excluded as u64);
        if !matches!(self.config.discovery, Discovery::Static(_)) {
            stats.max_host_weight.set(u64::from(weight));
        }
    }
}

/// Flattens an assignment; `resolve` gives the addresses of a name.
pub(super) fn specs(
    assignment: &LoadAssignment,
    resolve: impl Fn(&Arc<str>, u16) -> Vec<SocketAddr>,
) -> Vec<HostSpec> {
    let mut specs = Vec::new();
    for locality in &assignment.localities {
        for endpoint in &locality.endpoints {
            let (addresses, hostname) = match &endpoint.address {
                EndpointAddress::Socket(address) => {
                    (vec![*address], Arc::clone(&endpoint.hostname))
                }
                EndpointAddress::Name { host, port } => {
                    let hostname = match endpoint.hostname.is_empty() {
                        true => Arc::clone(host),
                        false => Arc::clone(&endpoint.hostname),
                    };
                    (resolve(host, *port), hostname)
                }
            };
            specs.extend(addresses.into_iter().map(|address| HostSpec {
                address,
                hostname: Arc::clone(&hostname),
                locality: locality.locality.clone(),
                priority: locality.priority,
                weight: endpoint.weight,
                health: endpoint.health,
                hash_key: endpoint.hash_key.clone(),
                health_check: endpoint.health_check.clone(),
            }));
        }
    }
    specs
}

/// Whether connections made for `a` can serve `b`.
fn same_connections(a: &config::cluster::Cluster, b: &config::cluster::Cluster) -> bool {
    let same_protocol = match (&a.protocol, &b.protocol) {
        (UpstreamProtocol::Http1(a), UpstreamProtocol::Http1(b)) => a == b,
        (UpstreamProtocol::Http2(a), UpstreamProtocol::Http2(b)) => a == b,
        (
            UpstreamProtocol::Downstream {
                http1: a1,
                http2: a2,
            },
            UpstreamProtocol::Downstream {
                http1: b1,
                http2: b2,
            },
        ) => a1 == b1 && a2 == b2,
        _ => false,
    };
    let same_discovery = match (&a.discovery, &b.discovery) {
        (Discovery::Static(_), Discovery::Static(_))
        | (Discovery::StrictDns(_), Discovery::StrictDns(_)) => true,
        (Discovery::OriginalDst(a), Discovery::OriginalDst(b)) => a == b,
        (
            Discovery::Eds {
                service_name: a, ..
            },
            Discovery::Eds {
                service_name: b, ..
            },
        ) => a == b,
        _ => false,
    };
    same_protocol
        && same_discovery
        && a.tcp_keepalive == b.tcp_keepalive
        && a.sources == b.sources
        && a.max_requests_per_connection == b.max_requests_per_connection
        && a.outlier_detection == b.outlier_detection
        && a.health_check == b.health_check
        && a.max_connection_duration == b.max_connection_duration
        && a.max_headers_count == b.max_headers_count
        && a.max_response_headers_kb == b.max_response_headers_kb
        && a.per_connection_buffer_limit_bytes == b.per_connection_buffer_limit_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{
            cluster::LbPolicy,
            http_connection_manager::{Http1Options, Http2Options},
            route::Priority,
        },
        upstream::testing,
    };

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn http1() -> UpstreamProtocol {
        UpstreamProtocol::Http1(Http1Options::default())
    }

    fn ids(cluster: &Cluster) -> Vec<u64> {
        cluster
            .hosts
            .load()
            .hosts
            .iter()
            .map(|host| host.id)
            .collect()
    }

    #[test]
    fn hosts_keep_their_identity_over_updates() {
        let cluster = testing::cluster(testing::config(
            &[(address(1), 1), (address(2), 1)],
            http1(),
        ));
        let before = ids(&cluster);
        let gone = Arc::clone(&cluster.hosts.load().hosts[0]);
        cluster.update_hosts(&testing::assignment(&[(address(2), 7), (address(3), 1)]));
        let after = ids(&cluster);
        assert_eq!(after[0], before[1]);
        assert!(!before.contains(&after[1]));
        assert_eq!(cluster.hosts.load().hosts[0].weight(), 7);
        assert!(gone.is_removed());
        assert_eq!(cluster.stats.membership_total.value(), 2);
        assert_eq!(cluster.stats.membership_change.value(), 2);
    }

    #[test]
    fn the_same_hosts_again_change_nothing() {
        let cluster = testing::cluster(testing::config(&[(address(1), 1)], http1()));
        let generation = cluster.hosts.load().generation;
        cluster.update_hosts(&testing::assignment(&[(address(1), 1)]));
        assert_eq!(cluster.hosts.load().generation, generation);
        assert_eq!(cluster.stats.update_no_rebuild.value(), 1);
    }

    #[test]
    fn an_address_counts_once() {
        let twice = [(address(1), 1), (address(1), 1)];
        let cluster = testing::cluster(testing::config(&twice, http1()));
        assert_eq!(ids(&cluster).len(), 1);
    }

    #[test]
    fn a_changed_cluster_takes_over_hosts_and_counts() {
        let registry = Registry::new(1);
        let config = testing::config(&[(address(1), 1)], http1());
        let first = Cluster::new(Arc::new(config.clone()), &registry, None);
        first.circuit.of(Priority::Default).requests.acquire();
        let mut changed = config.clone();
        changed.lb_policy = LbPolicy::Random;
        changed.circuit_breakers.default.max_requests = 1;
        let second = Cluster::new(Arc::new(changed), &registry, Some(&first));
        assert_eq!(ids(&first), ids(&second));
        assert!(!second.circuit.of(Priority::Default).requests.can_create());
        // The same hosts are sorted out by the new configuration.
        let mut hashing = config.clone();
        hashing.lb_policy = LbPolicy::Maglev {
            table_size: 7,
            consistent: Default::default(),
        };
        let maglev = Cluster::new(Arc::new(hashing), &registry, Some(&second));
        let set = maglev.hosts.load();
        assert!(set.table(set.choose(0).unwrap()).is_some());
        // What is spoken to hosts is part of who they are.
        let mut other = config;
        other.protocol = UpstreamProtocol::Http2(Http2Options::default());
        let third = Cluster::new(Arc::new(other), &registry, Some(&second));
        assert_ne!(ids(&second), ids(&third));
    }
}
