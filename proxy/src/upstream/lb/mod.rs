//! Load balancing: one worker's state over the host sets of one cluster. Picking allocates nothing.

mod clock;
pub(super) mod consistent;
mod edf;
pub mod hash;
mod host_state;
mod least_request;
mod maglev;
mod mersenne;
mod peak_ewma;
mod ring_hash;
mod round_robin;
mod slow_start;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub(super) use clock::now;
pub use host_state::HostBalance;
pub(crate) use peak_ewma::Sample;

use self::edf::Schedule;
use super::{Candidates, Cluster, Host, HostSet, host_set::Chosen};
use crate::{
    config::cluster::{LbOptions, LbPolicy},
    telemetry::stream_info::Source,
};

/// A worker's state of a cluster's load balancer.
#[derive(Debug, Default)]
pub(crate) struct Balancer {
    generation: u64,
    /// By number of the candidate list within the set.
    lists: Vec<State>,
    /// By priority, healthy before degraded: turns of localities.
    localities: Vec<Option<Schedule>>,
}

/// What of a request a pick depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Key {
    /// Says the host where the algorithm is a consistent hash.
    pub(crate) hash: Option<u64>,
    /// Grows while the host that was picked does not suit: consistent hashes then look elsewhere.
    pub(crate) attempt: u32,
    /// The host itself, where the cluster's hosts are wherever connections were going to.
    pub(crate) destination: Option<SocketAddr>,
    /// What connections to it are to come from: only such clusters can do that.
    pub(crate) source: Option<Source>,
}

#[derive(Debug, Default)]
struct State {
    next: Option<usize>,
    /// Whether a schedule is needed was found out.
    is_known: bool,
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
        cluster: &'a Cluster,
        set: &'a HostSet,
        key: Key,
        mut random: impl FnMut() -> u64,
        now: impl Fn() -> u64,
    ) -> Option<&'a Arc<Host>> {
        if self.generation != set.generation {
            self.generation = set.generation;
            self.lists.clear();
            self.localities.clear();
        }
        let picked = self.pick_from(cluster, set, key, &mut random, now);
        if picked.is_none() {
            cluster.stats.upstream_cx_none_healthy.inc();
        }
        picked
    }

    fn pick_from<'a>(
        &mut self,
        cluster: &'a Cluster,
        set: &'a HostSet,
        key: Key,
        random: &mut impl FnMut() -> u64,
        now: impl Fn() -> u64,
    ) -> Option<&'a Arc<Host>> {
        let (policy, options) = (&cluster.config.lb_policy, &cluster.config.lb_options);
        let is_consistent = policy.is_consistent();
        let number = match key.hash {
            Some(hash) if is_consistent => hash,
            _ if is_consistent || set.has_choice() => random(),
            _ => 0,
        };
        let chosen = set.choose(number)?;
        if chosen.is_panic {
            cluster.stats.lb_healthy_panic.inc();
        }
        if is_consistent {
            let active = || cluster.stats.upstream_rq_active.value();
            return set.table(chosen)?.pick(number, key.attempt, active);
        }
        if chosen.is_panic && options.fail_traffic_on_panic {
            return None;
        }
        let list = match self.locality(set, chosen, random) {
            Some(list) => list,
            None => set.list(chosen)?,
        };
        if self.lists.len() <= list {
            self.lists.resize_with(list + 1, State::default);
        }
        let turn = Turn {
            candidates: set.candidates(list),
            options,
            now,
        };
        turn.choose(policy, &mut self.lists[list], random)
    }

    /// The list of the locality whose turn it is, where localities have weights.
    fn locality(
        &mut self,
        set: &HostSet,
        chosen: Chosen,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let localities = set.localities(chosen);
        match localities {
            [] => return None,
            [only] => return Some(only.list),
            _ => {}
        }
        let place = chosen.level * 2 + usize::from(chosen.is_degraded);
        if self.localities.len() <= place {
            self.localities.resize_with(place + 1, || None);
        }
        let weight = |index: usize| localities[index].weight;
        let next = self.localities[place]
            .get_or_insert_with(|| Schedule::new(localities.len(), weight, random()))
            .pick(weight);
        localities.get(next).map(|locality| locality.list)
    }
}

/// One pick from one list.
struct Turn<'a, N> {
    candidates: &'a Candidates,
    options: &'a LbOptions,
    now: N,
}

impl<'a, N: Fn() -> u64> Turn<'a, N> {
    fn choose(
        &self,
        policy: &LbPolicy,
        state: &mut State,
        random: &mut impl FnMut() -> u64,
    ) -> Option<&'a Arc<Host>> {
        let hosts = &self.candidates.hosts;
        if let [] | [_] = &hosts[..] {
            return hosts.first();
        }
        let index = match policy {
            LbPolicy::RoundRobin => self.round_robin(state, random),
            LbPolicy::LeastRequest {
                choice_count,
                active_request_bias,
            } => self.least_request(state, *choice_count, *active_request_bias, random),
            // Their tables were asked before.
            LbPolicy::Random
            | LbPolicy::ClusterProvided
            | LbPolicy::RingHash { .. }
            | LbPolicy::Maglev { .. } => below(hosts.len(), random()),
            LbPolicy::PeakEwma(policy) => {
                let slow_start = self.options.slow_start.as_ref();
                peak_ewma::pick(self.candidates, policy, slow_start, (self.now)(), random)
            }
        };
        hosts.get(index)
    }

    /// The place of the next host by schedule, if weights are needed: they differ, or some host was new
    /// when the set was.
    fn scheduled(
        &self,
        state: &mut State,
        weight: impl Fn(usize) -> f64,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let hosts = &self.candidates.hosts;
        let slow_start = self.options.slow_start.as_ref();
        if state.is_known && state.schedule.is_none() {
            return None;
        }
        let now = slow_start.map(|config| (config, (self.now)()));
        let weight = |index: usize| match now {
            Some((config, now)) => weight(index) * slow_start::factor(config, &hosts[index], now),
            None => weight(index),
        };
        if !state.is_known {
            state.is_known = true;
            let is_new = |(config, now)| {
                hosts
                    .iter()
                    .any(|host| slow_start::is_new(config, host, now))
            };
            if self.candidates.weights.is_empty() && !now.is_some_and(is_new) {
                return None;
            }
            state.schedule = Some(Schedule::new(hosts.len(), weight, random()));
        }
        state
            .schedule
            .as_mut()
            .map(|schedule| schedule.pick(weight))
    }
}

/// Takes the latency of a try into its host's average, where the cluster's algorithm goes by it.
pub(crate) fn report(cluster: &Cluster, host: &Host, latency: Duration, sample: Sample) {
    if let LbPolicy::PeakEwma(policy) = &cluster.config.lb_policy {
        host.balance.ewma.report(policy, latency, sample, now());
    }
}

/// A number below `limit` from random bits, without a division.
fn below(limit: usize, random: u64) -> usize {
    let scaled = (u128::from(random) * limit as u128) >> 64;
    usize::try_from(scaled).unwrap_or(0)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
