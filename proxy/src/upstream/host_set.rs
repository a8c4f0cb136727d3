//! The sets of hosts that load balancers pick from, sorted out by priority, health and locality.
//!
//! A [`HostSet`] is immutable: an update makes the next one.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    host::{Health, Host},
    lb::consistent::{self, Table, TableSize, WeightedHosts},
    priority_load::{self, LevelHealth, Share},
};
use crate::{
    config::cluster::{Cluster as Config, Discovery, LoadAssignment, Locality},
    telemetry::stream_info::Source,
};

/// All hosts of a cluster at one time, sorted out by priority and health.
#[derive(Debug, Default)]
pub struct HostSet {
    /// Grows with every update of the cluster; workers notice a change by it.
    pub generation: u64,
    /// Every host, in order of definition.
    pub hosts: Vec<Arc<Host>>,
    /// What the assignment says besides the hosts.
    pub inputs: Inputs,
    /// All lists of candidates; levels name them by number.
    lists: Vec<Candidates>,
    /// By priority.
    levels: Vec<Level>,
    /// Ejected hosts whose time is over: the next request goes to them, one each.
    probing: Vec<Arc<Host>>,
    shares: Vec<Share>,
    table_size: Option<TableSize>,
    /// The hosts of an ORIGINAL_DST cluster.
    by_address: HashMap<(SocketAddr, Option<Source>), Arc<Host>>,
}

/// What a [`HostSet`] is made from besides hosts and the cluster's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Percent.
    pub overprovisioning_factor: u32,
    /// By priority and locality; none is zero.
    pub locality_weights: Vec<(u32, Locality, u32)>,
}

impl Inputs {
    /// Those of an assignment.
    #[must_use]
    pub fn of(assignment: &LoadAssignment) -> Self {
        let weights = assignment.localities.iter().filter_map(|locality| {
            Some((
                locality.priority,
                locality.locality.clone(),
                locality.weight?,
            ))
        });
        Self {
            overprovisioning_factor: assignment.overprovisioning_factor,
            locality_weights: weights.collect(),
        }
    }

    /// Of one locality that is there twice the last weight counts, as in Envoy.
    fn weight(&self, priority: u32, locality: &Locality) -> u32 {
        let mut weights = self.locality_weights.iter().rev();
        weights
            .find(|(level, known, _)| *level == priority && known == locality)
            .map_or(0, |(.., weight)| *weight)
    }
}

/// Hosts that one pick chooses from, and the weights they had when the set was made.
#[derive(Debug, Default)]
pub struct Candidates {
    /// The hosts.
    pub hosts: Vec<Arc<Host>>,
    /// Their weights; empty when all are equal.
    pub weights: Vec<u32>,
}

#[derive(Debug)]
struct Level {
    /// Numbers of lists.
    all: usize,
    healthy: usize,
    degraded: usize,
    is_panicking: bool,
    healthy_localities: Vec<WeightedList>,
    degraded_localities: Vec<WeightedList>,
    /// For consistent hashing.
    table: Option<Table>,
}

/// The candidates of one locality.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightedList {
    /// Number of the list.
    pub(super) list: usize,
    /// The locality's weight, by what is available of it; more than zero.
    pub(super) weight: f64,
}

/// The result of choosing a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The priority.
    pub level: usize,
    /// Of its degraded hosts, not its healthy ones.
    pub is_degraded: bool,
    /// Of all its hosts, since too few are healthy.
    pub is_panic: bool,
}

impl Candidates {
    fn new(hosts: Vec<Arc<Host>>) -> Self {
        let mut weights: Vec<u32> = hosts.iter().map(|host| host.weight()).collect();
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            weights = Vec::new();
        }
        Self { hosts, weights }
    }

    /// The weight of a host, by its place.
    #[must_use]
    pub fn weight(&self, index: usize) -> u32 {
        self.weights.get(index).copied().unwrap_or(1)
    }
}

impl HostSet {
    /// Sorts `hosts` out.
    #[must_use]
    pub fn new(generation: u64, hosts: Vec<Arc<Host>>, config: &Config, inputs: Inputs) -> Self {
        let highest = hosts.iter().map(|host| host.priority()).max();
        let mut set = Self {
            generation,
            ..Self::default()
        };
        for host in &hosts {
            if host.coarse_health() == Health::Healthy {
                host.balance.note_healthy();
            }
        }
        if matches!(config.discovery, Discovery::OriginalDst(_)) {
            let known = hosts
                .iter()
                .map(|host| ((host.address, host.source), Arc::clone(host)));
            set.by_address = known.collect();
        }
        let mut health = Vec::new();
        for priority in 0..=highest.unwrap_or(0) {
            let (level, counts) = set.add_level(priority, &hosts, config, &inputs);
            set.levels.push(level);
            health.push(counts);
        }
        let load = priority_load::distribute(
            &health,
            inputs.overprovisioning_factor,
            config.healthy_panic_threshold,
        );
        set.shares = load.shares;
        // Levels behind those that serve are not bothered by probes.
        let last = set.shares.iter().map(|share| share.level).max();
        let probing = hosts.iter().filter(|host| {
            let is_served = last.is_none_or(|last| host.priority() as usize <= last);
            host.wants_probe() && is_served
        });
        set.probing = probing.cloned().collect();
        for (level, is_panicking) in set.levels.iter_mut().zip(load.panics) {
            level.is_panicking = is_panicking;
        }
        if config.lb_policy.is_consistent() {
            set.build_tables(&hosts, config, &inputs);
        }
        set.hosts = hosts;
        set.inputs = inputs;
        set
    }

    fn add_list(&mut self, hosts: Vec<Arc<Host>>) -> usize {
        self.lists.push(Candidates::new(hosts));
        self.lists.len() - 1
    }

    fn add_level(
        &mut self,
        priority: u32,
        hosts: &[Arc<Host>],
        config: &Config,
        inputs: &Inputs,
    ) -> (Level, LevelHealth) {
        let all: Vec<&Arc<Host>> = hosts
            .iter()
            .filter(|host| host.priority() == priority)
            .collect();
        let of = |wanted: Health| -> Vec<Arc<Host>> {
            let matching = all.iter().filter(|host| host.coarse_health() == wanted);
            matching.map(|host| Arc::clone(host)).collect()
        };
        let (healthy, degraded) = (of(Health::Healthy), of(Health::Degraded));
        let counts = LevelHealth {
            all: all.iter().filter(|host| !host.is_excluded()).count(),
            size: all.len(),
            healthy: healthy.len(),
            degraded: degraded.len(),
        };
        let mut level = Level {
            all: self.add_list(all.iter().map(|host| Arc::clone(host)).collect()),
            healthy: self.add_list(healthy),
            degraded: self.add_list(degraded),
            is_panicking: false,
            healthy_localities: Vec::new(),
            degraded_localities: Vec::new(),
            table: None,
        };
        if config.lb_options.locality_weighted && !config.lb_policy.is_consistent() {
            let localities = by_locality(&all);
            let factor = f64::from(inputs.overprovisioning_factor) / 100.0;
            let mut weighted = |wanted: Health| -> Vec<WeightedList> {
                let mut lists = Vec::new();
                for (_, hosts) in &localities {
                    let eligible: Vec<Arc<Host>> = hosts
                        .iter()
                        .filter(|host| host.coarse_health() == wanted)
                        .cloned()
                        .collect();
                    let available = eligible.len() as f64 / hosts.len() as f64;
                    let weight = hosts
                        .first()
                        .map_or(0, |host| inputs.weight(priority, &host.locality));
                    let weight = f64::from(weight) * (factor * available).min(1.0);
                    if weight > 0.0 {
                        let list = self.add_list(eligible);
                        lists.push(WeightedList { list, weight });
                    }
                }
                lists
            };
            level.healthy_localities = weighted(Health::Healthy);
            level.degraded_localities = weighted(Health::Degraded);
        }
        (level, counts)
    }

    /// Tables are of healthy hosts, in panic of all: degraded ones have no part in hashing, as in Envoy.
    fn build_tables(&mut self, hosts: &[Arc<Host>], config: &Config, inputs: &Inputs) {
        for (priority, level) in (0_u32..).zip(&mut self.levels) {
            let list = if level.is_panicking {
                level.all
            } else {
                level.healthy
            };
            let usable = &self.lists[list].hosts;
            let has_weights = config.lb_options.locality_weighted
                && hosts.iter().any(|host| host.priority() == priority);
            let localities: Option<Vec<WeightedHosts>> = has_weights.then(|| {
                let usable: Vec<&Arc<Host>> = usable.iter().collect();
                let weighted = by_locality(&usable);
                weighted
                    .into_iter()
                    .map(|(locality, hosts)| (f64::from(inputs.weight(priority, &locality)), hosts))
                    .collect()
            });
            let members = consistent::members(usable, localities.as_deref());
            if let Some((table, size)) = Table::new(&config.lb_policy, members) {
                level.table = Some(table);
                self.table_size = Some(size);
            }
        }
    }

    /// The host of an ORIGINAL_DST cluster at this address.
    #[must_use]
    pub fn at(&self, address: SocketAddr, source: Option<Source>) -> Option<&Arc<Host>> {
        self.by_address.get(&(address, source))
    }

    /// Hosts that count as healthy.
    #[must_use]
    pub fn healthy(&self) -> usize {
        self.count(|level| level.healthy)
    }

    /// Hosts that count as degraded.
    #[must_use]
    pub fn degraded(&self) -> usize {
        self.count(|level| level.degraded)
    }

    fn count(&self, list: impl Fn(&Level) -> usize) -> usize {
        self.levels
            .iter()
            .map(|level| self.candidates(list(level)).hosts.len())
            .sum()
    }

    /// The host that this request goes to because it decides over that host's return. One request for
    /// each host.
    #[must_use]
    pub fn probe(&self) -> Option<&Arc<Host>> {
        self.probing.iter().find(|host| host.take_probe())
    }

    /// The size of the last level's table, for its gauges.
    pub(super) fn table_size(&self) -> Option<TableSize> {
        self.table_size
    }

    /// Whether [`Self::choose`] depends on its number.
    #[must_use]
    pub fn has_choice(&self) -> bool {
        self.shares.len() > 1
    }

    /// The priority to pick from, for a random number or a hash.
    #[must_use]
    pub fn choose(&self, number: u64) -> Option<Chosen> {
        let percent = number % 100;
        let share = self
            .shares
            .iter()
            .find(|share| percent < u64::from(share.up_to))?;
        Some(Chosen {
            level: share.level,
            is_degraded: share.is_degraded,
            is_panic: self.levels.get(share.level)?.is_panicking,
        })
    }

    /// Any host that takes requests now, for who keeps no state to balance by: two random numbers choose
    /// the priority and the host.
    #[must_use]
    pub fn any(&self, priority: u64, host: u64) -> Option<&Arc<Host>> {
        let hosts = &self.candidates(self.list(self.choose(priority)?)?).hosts;
        let index = host.checked_rem(hosts.len() as u64)?;
        hosts.get(usize::try_from(index).ok()?)
    }

    /// The localities to choose from first; none where their weights do not count.
    pub(super) fn localities(&self, chosen: Chosen) -> &[WeightedList] {
        match (self.levels.get(chosen.level), chosen) {
            (None, _) | (_, Chosen { is_panic: true, .. }) => &[],
            (Some(level), chosen) if chosen.is_degraded => &level.degraded_localities,
            (Some(level), _) => &level.healthy_localities,
        }
    }

    /// The number of the list with all candidates of a choice.
    pub(super) fn list(&self, chosen: Chosen) -> Option<usize> {
        let level = self.levels.get(chosen.level)?;
        Some(match chosen {
            Chosen { is_panic: true, .. } => level.all,
            Chosen {
                is_degraded: true, ..
            } => level.degraded,
            Chosen { .. } => level.healthy,
        })
    }

    /// A list by its number.
    pub(super) fn candidates(&self, list: usize) -> &Candidates {
        &self.lists[list]
    }

    /// The table of a priority, for consistent hashing.
    pub(super) fn table(&self, chosen: Chosen) -> Option<&Table> {
        self.levels.get(chosen.level)?.table.as_ref()
    }
}

/// Hosts by locality, in the order of Envoy's localities.
fn by_locality(hosts: &[&Arc<Host>]) -> Vec<(Locality, Vec<Arc<Host>>)> {
    let mut localities: BTreeMap<[&str; 3], (Locality, Vec<Arc<Host>>)> = BTreeMap::new();
    for host in hosts {
        let Locality {
            region,
            zone,
            sub_zone,
        } = &host.locality;
        let (_, members) = localities
            .entry([region, zone, sub_zone])
            .or_insert_with(|| (host.locality.clone(), Vec::new()));
        members.push(Arc::clone(host));
    }
    localities.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{
            cluster::{HealthStatus, UpstreamProtocol},
            http_connection_manager::Http1Options,
        },
        upstream::{HostSpec, testing},
    };

    use HealthStatus::{Degraded, Healthy, Unhealthy};

    /// A host of a priority, a zone and a health.
    fn host(last: u8, priority: u32, zone: &str, health: HealthStatus) -> Arc<Host> {
        Arc::new(Host::new(&HostSpec {
            priority,
            health,
            locality: Locality {
                zone: zone.into(),
                ..Locality::default()
            },
            ..testing::spec(last)
        }))
    }

    fn hosts(spec: &[(u32, HealthStatus)]) -> Vec<Arc<Host>> {
        (0..)
            .zip(spec)
            .map(|(last, (priority, health))| host(last, *priority, "", *health))
            .collect()
    }

    fn config() -> Config {
        testing::config(&[], UpstreamProtocol::Http1(Http1Options::default()))
    }

    fn inputs() -> Inputs {
        Inputs {
            overprovisioning_factor: 140,
            locality_weights: Vec::new(),
        }
    }

    fn set(spec: &[(u32, HealthStatus)]) -> HostSet {
        HostSet::new(1, hosts(spec), &config(), inputs())
    }

    /// Percent by priority and kind.
    fn load(set: &HostSet) -> Vec<(usize, &'static str, u32)> {
        let mut load: Vec<(usize, &'static str, u32)> = Vec::new();
        for number in 0..100 {
            let Some(chosen) = set.choose(number) else {
                continue;
            };
            let kind = match chosen {
                Chosen { is_panic: true, .. } => "all",
                Chosen {
                    is_degraded: true, ..
                } => "degraded",
                Chosen { .. } => "healthy",
            };
            match load.last_mut() {
                Some((level, last, count)) if (*level, *last) == (chosen.level, kind) => {
                    *count += 1
                }
                _ => load.push((chosen.level, kind, 1)),
            }
        }
        load
    }

    #[test]
    fn all_load_on_the_first_level_while_it_is_healthy_enough() {
        // 3 of 4 healthy: 75 % × 1.4 ≥ 100 %.
        let set = set(&[
            (0, Healthy),
            (0, Healthy),
            (0, Healthy),
            (0, Unhealthy),
            (1, Healthy),
        ]);
        assert_eq!(load(&set), [(0, "healthy", 100)]);
        assert!(!set.has_choice());
    }

    #[test]
    fn load_spills_to_the_next_level() {
        // 1 of 2 healthy: 70 %, the rest to level 1.
        let set = set(&[(0, Healthy), (0, Unhealthy), (1, Healthy)]);
        assert_eq!(load(&set), [(0, "healthy", 70), (1, "healthy", 30)]);
    }

    #[test]
    fn degraded_hosts_take_the_rest() {
        let set = set(&[(0, Healthy), (0, Degraded)]);
        assert_eq!(load(&set), [(0, "healthy", 70), (0, "degraded", 30)]);
    }

    #[test]
    fn panic_uses_all_hosts() {
        let few = set(&[(0, Healthy), (0, Unhealthy), (0, Unhealthy), (0, Unhealthy)]);
        assert_eq!(load(&few), [(0, "all", 100)]);
        let none = set(&[(0, Unhealthy), (0, Unhealthy)]);
        assert_eq!(load(&none), [(0, "all", 100)]);
        let mut config = config();
        config.healthy_panic_threshold = 0;
        let calm = HostSet::new(1, hosts(&[(0, Unhealthy)]), &config, inputs());
        assert_eq!(load(&calm), [(0, "healthy", 100)]);
        assert!(calm.any(0, 0).is_none());
    }

    #[test]
    fn in_panic_everywhere_levels_share_by_size() {
        let mut spec = vec![(0, Healthy)];
        spec.extend([(0, Unhealthy); 5]);
        spec.push((1, Healthy));
        spec.extend([(1, Unhealthy); 2]);
        assert_eq!(load(&set(&spec)), [(0, "all", 67), (1, "all", 33)]);
        // One level that is well keeps the others out of it.
        spec.extend([(2, Healthy); 2]);
        assert_eq!(
            load(&set(&spec)),
            [(0, "healthy", 23), (1, "healthy", 46), (2, "healthy", 31)]
        );
    }

    #[test]
    fn an_empty_set_offers_nothing() {
        let set = set(&[]);
        assert!(set.any(50, 0).is_none());
        assert!(set.choose(50).unwrap().is_panic);
    }

    #[test]
    fn localities_count_by_weight_and_by_what_is_available_of_them() {
        let mut config = config();
        config.lb_options.locality_weighted = true;
        let inputs = Inputs {
            overprovisioning_factor: 140,
            locality_weights: ["a", "b", "c"]
                .into_iter()
                .zip([3, 2, 1])
                .map(|(zone, weight)| {
                    let locality = Locality {
                        zone: zone.into(),
                        ..Locality::default()
                    };
                    (0, locality, weight)
                })
                .collect(),
        };
        let hosts = vec![
            host(1, 0, "b", Healthy),
            host(2, 0, "b", Unhealthy),
            host(3, 0, "a", Healthy),
            host(4, 0, "c", Unhealthy),
            host(5, 0, "unweighted", Healthy),
            host(6, 0, "a", Healthy),
            host(7, 0, "a", Degraded),
        ];
        let set = HostSet::new(1, hosts, &config, inputs);
        let lists = |is_degraded| -> Vec<(usize, f64)> {
            let chosen = Chosen {
                level: 0,
                is_degraded,
                is_panic: false,
            };
            set.localities(chosen)
                .iter()
                .map(|one| (set.candidates(one.list).hosts.len(), one.weight))
                .collect()
        };
        // Two thirds of a, times 1.4, are more than enough; half of b is 70 %.
        let healthy = lists(false);
        assert_eq!(healthy.len(), 2);
        assert_eq!(healthy[0].0, 2);
        assert!((healthy[0].1 - 3.0 * (1.4 * 2.0 / 3.0_f64).min(1.0)).abs() < 1e-9);
        assert_eq!(healthy[1].0, 1);
        assert!((healthy[1].1 - 1.4).abs() < 1e-9);
        assert_eq!(lists(true).len(), 1);
    }
}
