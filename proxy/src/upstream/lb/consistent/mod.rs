//! Consistent hashing: what the ring and Maglev's table share. Tables are built with the host set, on
//! the main thread; workers only read them. For the same hosts and hash Envoy picks the same host.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use smallvec::SmallVec;

use super::{
    hash::xxh64,
    maglev::{self, Maglev},
    mersenne::Mersenne,
    ring_hash::{self, Ring},
};
use crate::{
    config::load_balancing::{Consistent, LbPolicy},
    telemetry::stats::{Gauge, Scope},
    upstream::Host,
};

/// The table of one priority.
#[derive(Debug)]
pub(crate) struct Table {
    /// Hosts with their parts of the whole; these sum up to 1.
    members: Vec<Member>,
    places: Places,
    balance_factor: Option<u32>,
}

/// One host of a [`Table`].
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) host: Arc<Host>,
    /// Its part of the whole.
    pub(crate) share: f64,
}

#[derive(Debug)]
enum Places {
    Ring(Ring),
    Maglev(Maglev),
}

/// What the gauges of a table show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableSize {
    /// Entries of all hosts.
    pub(crate) size: u64,
    /// Fewest entries of a host.
    pub(crate) min_per_host: u64,
    /// Most entries of a host.
    pub(crate) max_per_host: u64,
}

impl Table {
    /// Builds the table of a policy that hashes; none for others.
    pub(crate) fn new(policy: &LbPolicy, members: Vec<Member>) -> Option<(Self, TableSize)> {
        let (places, consistent, size) = match policy {
            LbPolicy::RingHash {
                minimum_ring_size,
                maximum_ring_size,
                hash_function,
                consistent,
            } => {
                let range = (*minimum_ring_size, *maximum_ring_size);
                let (ring, size) = ring_hash::build(&members, range, *hash_function, |host| {
                    key(consistent, host)
                });
                (Places::Ring(ring), consistent, size)
            }
            LbPolicy::Maglev {
                table_size,
                consistent,
            } => {
                let (table, size) =
                    maglev::build(&members, *table_size, |host| key(consistent, host));
                (Places::Maglev(table), consistent, size)
            }
            LbPolicy::RoundRobin
            | LbPolicy::LeastRequest { .. }
            | LbPolicy::Random
            | LbPolicy::ClusterProvided
            | LbPolicy::PeakEwma(_) => return None,
        };
        let table = Self {
            members,
            places,
            balance_factor: consistent.balance_factor,
        };
        Some((table, size))
    }

    /// The host of a hash. Later attempts look elsewhere. `active` is the number of requests in progress
    /// on the whole cluster, for bounded loads.
    pub(crate) fn pick(
        &self,
        hash: u64,
        attempt: u32,
        active: impl FnOnce() -> u64,
    ) -> Option<&Arc<Host>> {
        let place = match &self.places {
            Places::Ring(ring) => ring.pick(hash, attempt)?,
            Places::Maglev(table) => table.pick(hash, attempt)?,
        };
        let place = match self.balance_factor {
            Some(factor) => self.bounded(place, hash, active(), factor),
            None => place,
        };
        self.members.get(place).map(|member| &member.host)
    }

    /// The host itself or, if it has more than its part of the load, the first that has not in an order
    /// that the hash shuffles; if all have, the least loaded.
    fn bounded(&self, place: usize, hash: u64, active: u64, factor: u32) -> usize {
        let slots = (active + 1)
            .saturating_mul(u64::from(factor))
            .saturating_add(99)
            / 100;
        let load = |place: usize| {
            let member = &self.members[place];
            let limit = (slots as f64 * member.share).ceil().max(1.0);
            member.host.stats.rq_active.load(Relaxed) as f64 / limit
        };
        let mut best = (place, load(place));
        if best.1 <= 1.0 {
            return place;
        }
        let count = self.members.len();
        let mut order: SmallVec<[usize; 64]> = (0..count).collect();
        let mut random = Mersenne::new(hash);
        for index in 0..count {
            order.swap(index, index + random.below(count - index));
            let other = order[index];
            if other == place {
                continue;
            }
            let load = load(other);
            if load <= 1.0 {
                return other;
            }
            if load < best.1 {
                best = (other, load);
            }
        }
        best.0
    }
}

/// What a host is known by.
fn key<'a>(consistent: &Consistent, host: &'a Host) -> std::borrow::Cow<'a, str> {
    match &host.hash_key {
        Some(key) if !key.is_empty() => key.as_ref().into(),
        _ if consistent.use_hostname && !host.hostname.is_empty() => host.hostname.as_ref().into(),
        _ => host.address.to_string().into(),
    }
}

/// The weight of a locality and its hosts.
pub(crate) type WeightedHosts = (f64, Vec<Arc<Host>>);

/// Members of one priority, by the weights of hosts and, if `localities` are given, of those first.
pub(crate) fn members(hosts: &[Arc<Host>], localities: Option<&[WeightedHosts]>) -> Vec<Member> {
    let mut members = Vec::with_capacity(hosts.len());
    let mut add = |hosts: &[Arc<Host>], part: f64| {
        let sum: u64 = hosts.iter().map(|host| u64::from(host.weight())).sum();
        members.extend(hosts.iter().map(|host| Member {
            host: Arc::clone(host),
            share: f64::from(host.weight()) * part / sum as f64,
        }));
    };
    let Some(localities) = localities else {
        add(hosts, 1.0);
        return members;
    };
    let sum: f64 = localities.iter().map(|(weight, _)| weight).sum();
    for (weight, hosts) in localities.iter().filter(|(weight, _)| *weight > 0.0) {
        add(hosts, weight / sum);
    }
    members
}

/// The gauges of a cluster's table.
#[derive(Debug)]
pub(crate) struct TableGauges {
    size: Option<Gauge>,
    min_per_host: Gauge,
    max_per_host: Gauge,
}

impl TableGauges {
    /// Resolves them below `scope` (`cluster.<name>`), for a policy that hashes.
    pub(crate) fn new(policy: &LbPolicy, scope: &Scope) -> Option<Self> {
        match policy {
            LbPolicy::RingHash { .. } => Some(Self {
                size: Some(scope.gauge("ring_hash_lb.size")),
                min_per_host: scope.gauge("ring_hash_lb.min_hashes_per_host"),
                max_per_host: scope.gauge("ring_hash_lb.max_hashes_per_host"),
            }),
            LbPolicy::Maglev { .. } => Some(Self {
                size: None,
                min_per_host: scope.gauge("maglev_lb.min_entries_per_host"),
                max_per_host: scope.gauge("maglev_lb.max_entries_per_host"),
            }),
            LbPolicy::RoundRobin
            | LbPolicy::LeastRequest { .. }
            | LbPolicy::Random
            | LbPolicy::ClusterProvided
            | LbPolicy::PeakEwma(_) => None,
        }
    }

    /// Shows the size of a new table.
    pub(crate) fn set(&self, size: TableSize) {
        if let Some(gauge) = &self.size {
            gauge.set(size.size);
        }
        self.min_per_host.set(size.min_per_host);
        self.max_per_host.set(size.max_per_host);
    }
}

/// A host's place in the order of two hashes: Maglev's offset and skip.
pub(super) fn two_hashes(key: &str) -> (u64, u64) {
    (xxh64(key.as_bytes(), 0), xxh64(key.as_bytes(), 1))
}

#[cfg(test)]
mod tests;
