//! Load balancing: one worker's state over the host sets of one cluster. Picking allocates nothing.

mod edf;
mod least_request;
mod random;
mod round_robin;

use std::sync::Arc;

use self::edf::Schedule;
use super::{Candidates, Cluster, Host, HostSet};
use crate::config::cluster::LbPolicy;

/// A worker's state of a cluster's load balancer.
#[derive(Debug, Default)]
pub(crate) struct Balancer {
    generation: u64,
    /// By number of the candidate list within the set.
    lists: Vec<State>,
}

#[derive(Debug, Default)]
struct State {
    next: Option<usize>,
    schedule: Option<Schedule>,
}

impl Balancer {
    /// The host set that the state is for.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Picks a host.
    pub(crate) fn pick<'a>(
        &mut self,
        cluster: &Cluster,
        set: &'a HostSet,
        mut random: impl FnMut() -> u64,
    ) -> Option<&'a Arc<Host>> {
        if self.generation != set.generation {
            self.generation = set.generation;
            self.lists.clear();
        }
        let share = if set.has_choice() {
            below(100, random())
        } else {
            0
        };
        let Some(chosen) = set.choose(u32::try_from(share).unwrap_or(0)) else {
            cluster.stats.upstream_cx_none_healthy.inc();
            if cluster.config.healthy_panic_threshold > 0.0 {
                cluster.stats.lb_healthy_panic.inc();
            }
            return None;
        };
        if chosen.panic {
            cluster.stats.lb_healthy_panic.inc();
        }
        if self.lists.len() <= chosen.list {
            self.lists.resize_with(chosen.list + 1, State::default);
        }
        let state = &mut self.lists[chosen.list];
        choose(
            &cluster.config.lb_policy,
            state,
            chosen.candidates,
            &mut random,
        )
    }
}

fn choose<'a>(
    policy: &LbPolicy,
    state: &mut State,
    candidates: &'a Candidates,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Host>> {
    let hosts = &candidates.hosts;
    if let [only] = &hosts[..] {
        return Some(only);
    }
    let index = match policy {
        LbPolicy::RoundRobin => round_robin::pick(state, candidates, random),
        LbPolicy::LeastRequest {
            choice_count,
            active_request_bias,
        } => least_request::pick(
            state,
            candidates,
            *choice_count,
            *active_request_bias,
            random,
        ),
        LbPolicy::Random => random::pick(candidates, random),
    };
    hosts.get(index)
}

/// A number below `limit` from random bits, without a division.
fn below(limit: usize, random: u64) -> usize {
    let scaled = (u128::from(random) * limit as u128) >> 64;
    usize::try_from(scaled).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::SocketAddr, sync::atomic::Ordering::Relaxed};

    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

    use super::*;
    use crate::{
        config::{cluster::UpstreamProtocol, http_connection_manager::Http1Options},
        upstream::testing,
    };

    fn cluster(policy: LbPolicy, weights: &[u32]) -> Arc<Cluster> {
        let hosts: Vec<(SocketAddr, u32)> = (0_u8..)
            .zip(weights)
            .map(|(index, weight)| (SocketAddr::from(([10, 0, 0, index], 80)), *weight))
            .collect();
        let protocol = UpstreamProtocol::Http1(Http1Options::default());
        let mut config = testing::config(&hosts, protocol);
        config.lb_policy = policy;
        testing::cluster(config)
    }

    /// How often each host is picked; `note` is called with each pick.
    fn picks(cluster: &Cluster, count: usize, note: impl Fn(&Host)) -> Vec<usize> {
        let mut random = SmallRng::seed_from_u64(3);
        let mut balancer = Balancer::default();
        let set = cluster.hosts.load();
        let mut picked: HashMap<SocketAddr, usize> = HashMap::new();
        for _ in 0..count {
            let host = balancer.pick(cluster, &set, || random.random()).unwrap();
            *picked.entry(host.address).or_default() += 1;
            note(host);
        }
        set.hosts
            .iter()
            .map(|host| picked.get(&host.address).copied().unwrap_or(0))
            .collect()
    }

    /// Picked as often as the weights say, give or take `tolerance`.
    fn assert_shares(picked: &[usize], weights: &[u32], tolerance: f64) {
        let (count, total) = (picked.iter().sum::<usize>(), weights.iter().sum::<u32>());
        for (picked, weight) in picked.iter().zip(weights) {
            let share = *picked as f64 / count as f64;
            let expected = f64::from(*weight) / f64::from(total);
            assert!((share - expected).abs() <= tolerance, "{share} {expected}");
        }
    }

    #[test]
    fn round_robin_takes_turns() {
        let cluster = cluster(LbPolicy::RoundRobin, &[1, 1, 1]);
        assert_eq!(picks(&cluster, 30, |_| {}), [10, 10, 10]);
    }

    #[test]
    fn weighted_round_robin_is_exact_and_without_bursts() {
        let weights = [1, 2, 5];
        let cluster = cluster(LbPolicy::RoundRobin, &weights);
        assert_eq!(picks(&cluster, 800, |_| {}), [100, 200, 500]);
        for rounds in 1..6 {
            let picked = picks(&cluster, rounds * 8, |_| {});
            for (picked, weight) in picked.iter().zip(weights) {
                assert!(
                    picked.abs_diff(rounds * weight as usize) <= 1,
                    "{picked} {weight}"
                );
            }
        }
    }

    #[test]
    fn random_follows_weights() {
        for weights in [[1, 1, 1], [1, 3, 6]] {
            let cluster = cluster(LbPolicy::Random, &weights);
            assert_shares(&picks(&cluster, 20_000, |_| {}), &weights, 0.02);
        }
    }

    #[test]
    fn least_request_avoids_busy_hosts() {
        let policy = LbPolicy::LeastRequest {
            choice_count: 2,
            active_request_bias: 1.0,
        };
        let cluster = cluster(policy, &[1, 1, 1]);
        cluster.hosts.load().hosts[1]
            .stats
            .rq_active
            .store(100, Relaxed);
        let picked = picks(&cluster, 9000, |_| {});
        // The busy one only wins against itself: one time in nine.
        assert_shares(&picked, &[4, 1, 4], 0.02);
    }

    #[test]
    fn least_request_scales_weights_by_load() {
        let policy = LbPolicy::LeastRequest {
            choice_count: 2,
            active_request_bias: 1.0,
        };
        let weights = [1, 3];
        let idle = cluster(policy.clone(), &weights);
        assert_shares(&picks(&idle, 4000, |_| {}), &weights, 0.01);
        let busy = cluster(policy, &weights);
        busy.hosts.load().hosts[1].stats.rq_active.store(2, Relaxed);
        assert_shares(&picks(&busy, 4000, |_| {}), &[1, 1], 0.01);
    }

    #[test]
    fn an_update_starts_over_with_the_new_hosts() {
        let cluster = cluster(LbPolicy::RoundRobin, &[1, 4]);
        let mut balancer = Balancer::default();
        for _ in 0..3 {
            balancer
                .pick(&cluster, &cluster.hosts.load(), || 0)
                .unwrap();
        }
        let address = SocketAddr::from(([10, 0, 0, 9], 80));
        cluster.update_hosts(&testing::assignment(&[(address, 1)]));
        let set = cluster.hosts.load();
        assert_eq!(
            balancer.pick(&cluster, &set, || 0).unwrap().address,
            address
        );
    }
}
