//! The sets of hosts that load balancers pick from, sorted out by priority and health.
//!
//! A [`HostSet`] is immutable: an update makes the next one.

use std::sync::Arc;

use super::host::{Health, Host};

/// All hosts of a cluster at one time, sorted out by priority and health.
#[derive(Debug, Default)]
pub struct HostSet {
    /// Grows with every update of the cluster; workers notice a change by it.
    pub generation: u64,
    /// Every host, in order of definition.
    pub hosts: Vec<Arc<Host>>,
    /// Candidates by priority; the index is the level.
    levels: Vec<Level>,
    /// Cumulated percent of requests for (level, healthy) and then (level, degraded).
    shares: Vec<Share>,
}

/// Hosts that one pick chooses from, and the weights they had when the set was made.
#[derive(Debug, Default)]
pub struct Candidates {
    /// The hosts.
    pub hosts: Vec<Arc<Host>>,
    /// Their weights; empty when all are equal.
    pub weights: Vec<u32>,
    /// Their running sum; empty when all are equal.
    pub cumulated: Vec<u64>,
}

#[derive(Debug, Default)]
struct Level {
    all: Candidates,
    healthy: Candidates,
    degraded: Candidates,
    panic: bool,
}

#[derive(Clone, Copy, Debug)]
struct Share {
    up_to: u32,
    level: usize,
    degraded: bool,
}

/// The result of choosing a level.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// Number of this list within the set, for the state that a worker keeps for it.
    pub list: usize,
    /// Where to pick from; not empty.
    pub candidates: &'a Candidates,
    /// Chosen in panic.
    pub panic: bool,
}

impl Candidates {
    fn new(hosts: Vec<Arc<Host>>) -> Self {
        let mut weights: Vec<u32> = hosts.iter().map(|host| host.weight()).collect();
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            weights = Vec::new();
        }
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self {
            cumulated: sums.collect(),
            hosts,
            weights,
        }
    }
}

impl HostSet {
    /// Sorts `hosts` out.
    #[must_use]
    pub fn new(
        generation: u64,
        hosts: Vec<Arc<Host>>,
        overprovisioning_factor: u32,
        panic_threshold: f64,
    ) -> Self {
        let highest = hosts.iter().map(|host| host.priority()).max();
        let mut levels: Vec<Level> = Vec::new();
        for priority in 0..=highest.unwrap_or(0) {
            let of = |wanted: Option<Health>| {
                let matching = hosts.iter().filter(|host| {
                    host.priority() == priority
                        && wanted.is_none_or(|wanted| Health::from(host.health()) == wanted)
                });
                Candidates::new(matching.cloned().collect())
            };
            levels.push(Level {
                all: of(None),
                healthy: of(Some(Health::Healthy)),
                degraded: of(Some(Health::Degraded)),
                panic: false,
            });
        }
        let shares = distribute(&mut levels, overprovisioning_factor, panic_threshold);
        Self {
            generation,
            hosts,
            levels,
            shares,
        }
    }

    /// Hosts that count as healthy.
    #[must_use]
    pub fn healthy(&self) -> usize {
        self.levels
            .iter()
            .map(|level| level.healthy.hosts.len())
            .sum()
    }

    /// Hosts that count as degraded.
    #[must_use]
    pub fn degraded(&self) -> usize {
        self.levels
            .iter()
            .map(|level| level.degraded.hosts.len())
            .sum()
    }

    /// Whether [`Self::choose`] depends on its number.
    #[must_use]
    pub fn has_choice(&self) -> bool {
        self.shares.len() > 1
    }

    /// The list to pick from, for a random number in `0..100`.
    #[must_use]
    pub fn choose(&self, random: u32) -> Option<Chosen<'_>> {
        let share = self.shares.iter().find(|share| random < share.up_to)?;
        let level = self.levels.get(share.level)?;
        let (offset, candidates) = match (level.panic, share.degraded) {
            (true, _) => (0, &level.all),
            (false, false) => (1, &level.healthy),
            (false, true) => (2, &level.degraded),
        };
        (!candidates.hosts.is_empty()).then_some(Chosen {
            list: share.level * 3 + offset,
            candidates,
            panic: level.panic,
        })
    }
}

/// Envoy's priority load: each level takes what its health allows, healthy hosts of all levels first,
/// then degraded ones; levels whose health is below the panic threshold use all their hosts once
/// the levels together cannot take everything.
fn distribute(levels: &mut [Level], factor: u32, panic_threshold: f64) -> Vec<Share> {
    let percent = |part: usize, all: usize| -> u32 {
        if all == 0 {
            return 0;
        }
        let value = part as u64 * u64::from(factor) / all as u64;
        u32::try_from(value.min(100)).unwrap_or(100)
    };
    let available: Vec<(u32, u32)> = levels
        .iter()
        .map(|level| {
            let all = level.all.hosts.len();
            (
                percent(level.healthy.hosts.len(), all),
                percent(level.degraded.hosts.len(), all),
            )
        })
        .collect();
    let total: u32 = available
        .iter()
        .map(|(healthy, degraded)| healthy + degraded)
        .sum::<u32>()
        .min(100);

    if total < 100 {
        for level in levels.iter_mut() {
            let all = level.all.hosts.len();
            let healthy = level.healthy.hosts.len() + level.degraded.hosts.len();
            level.panic = all > 0 && (healthy as f64) * 100.0 / (all as f64) < panic_threshold;
        }
    }
    // With nothing healthy anywhere the whole load goes to the panicking levels by their size.
    if total == 0 {
        let all: usize = levels
            .iter()
            .filter(|level| level.panic)
            .map(|level| level.all.hosts.len())
            .sum();
        let mut shares = Vec::new();
        let mut seen = 0;
        for (index, level) in levels.iter().enumerate().filter(|(_, level)| level.panic) {
            seen += level.all.hosts.len();
            shares.push(Share {
                up_to: u32::try_from(seen * 100 / all.max(1)).unwrap_or(100),
                level: index,
                degraded: false,
            });
        }
        return shares;
    }

    let mut shares: Vec<Share> = Vec::new();
    let mut used = 0;
    let lists = available
        .iter()
        .enumerate()
        .map(|(index, (healthy, _))| (index, false, *healthy))
        .chain(
            available
                .iter()
                .enumerate()
                .map(|(index, (_, degraded))| (index, true, *degraded)),
        );
    for (level, degraded, load) in lists {
        let share = (load * 100 / total).min(100 - used);
        if share > 0 {
            used += share;
            shares.push(Share {
                up_to: used,
                level,
                degraded,
            });
        }
    }
    // Rounding leaves a few percent: they go to the first list.
    let rest = 100 - used;
    for share in &mut shares {
        share.up_to += rest;
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{
        config::cluster::{HealthStatus, Locality},
        upstream::HostSpec,
    };

    fn hosts(spec: &[(u32, HealthStatus)]) -> Vec<Arc<Host>> {
        spec.iter()
            .enumerate()
            .map(|(index, (priority, health))| {
                Arc::new(Host::new(&HostSpec {
                    address: SocketAddr::from(([10, 0, 0, index as u8], 80)),
                    hostname: Arc::from(""),
                    locality: Locality::default(),
                    priority: *priority,
                    weight: 1,
                    health: *health,
                }))
            })
            .collect()
    }

    fn load(set: &HostSet) -> Vec<(usize, u32)> {
        let mut lists = std::collections::BTreeMap::new();
        for random in 0..100 {
            if let Some(chosen) = set.choose(random) {
                *lists.entry(chosen.list).or_insert(0) += 1;
            }
        }
        lists.into_iter().collect()
    }

    use HealthStatus::{Degraded, Healthy, Unhealthy};

    #[test]
    fn all_load_on_the_first_level_while_it_is_healthy_enough() {
        // 3 of 4 healthy: 75 % × 1.4 ≥ 100 %.
        let set = HostSet::new(
            1,
            hosts(&[
                (0, Healthy),
                (0, Healthy),
                (0, Healthy),
                (0, Unhealthy),
                (1, Healthy),
            ]),
            140,
            50.0,
        );
        assert_eq!(load(&set), [(1, 100)]);
    }

    #[test]
    fn load_spills_to_the_next_level() {
        // 1 of 2 healthy: 70 %, the rest to level 1.
        let set = HostSet::new(
            1,
            hosts(&[(0, Healthy), (0, Unhealthy), (1, Healthy)]),
            140,
            50.0,
        );
        assert_eq!(load(&set), [(1, 70), (4, 30)]);
    }

    #[test]
    fn degraded_hosts_take_the_rest() {
        let set = HostSet::new(1, hosts(&[(0, Healthy), (0, Degraded)]), 140, 50.0);
        assert_eq!(load(&set), [(1, 70), (2, 30)]);
    }

    #[test]
    fn panic_uses_all_hosts() {
        let set = HostSet::new(
            1,
            hosts(&[(0, Healthy), (0, Unhealthy), (0, Unhealthy), (0, Unhealthy)]),
            140,
            50.0,
        );
        assert_eq!(load(&set), [(0, 100)]);
        assert!(set.choose(0).unwrap().panic);
        let none = HostSet::new(1, hosts(&[(0, Unhealthy), (0, Unhealthy)]), 140, 50.0);
        assert_eq!(load(&none), [(0, 100)]);
        let no_panic = HostSet::new(1, hosts(&[(0, Unhealthy)]), 140, 0.0);
        assert!(no_panic.choose(0).is_none());
    }

    #[test]
    fn an_empty_set_offers_nothing() {
        assert!(HostSet::new(1, Vec::new(), 140, 50.0).choose(50).is_none());
    }
}
