//! Load balancing: one worker's state over the host sets of one cluster. Picking allocates nothing.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

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
        let share = if set.has_choice() { below(100, random()) } else { 0 };
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
        choose(&cluster.config.lb_policy, state, chosen.candidates, &mut random)
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
    let is_weighted = !candidates.weights.is_empty();
    let index = match policy {
        LbPolicy::RoundRobin if !is_weighted => {
            let next = state.next.get_or_insert_with(|| below(hosts.len(), random()));
            let index = *next % hosts.len();
            *next = index + 1;
            index
        }
        LbPolicy::RoundRobin => {
            let weight = |index: usize| f64::from(candidates.weights[index]);
            state
                .schedule
                .get_or_insert_with(|| Schedule::new(hosts.len(), weight, random()))
                .pick(weight)
        }
        LbPolicy::LeastRequest { choice_count, .. } if !is_weighted => {
            let mut best = below(hosts.len(), random());
            for _ in 1..*choice_count {
                let other = below(hosts.len(), random());
                if active(&hosts[other]) < active(&hosts[best]) {
                    best = other;
                }
            }
            best
        }
        LbPolicy::LeastRequest { active_request_bias, .. } => {
            let weight = |index: usize| {
                biased(candidates.weights[index], active(&hosts[index]), *active_request_bias)
            };
            state
                .schedule
                .get_or_insert_with(|| Schedule::new(hosts.len(), weight, random()))
                .pick(weight)
        }
        LbPolicy::Random if !is_weighted => below(hosts.len(), random()),
        LbPolicy::Random => {
            let point = random() % candidates.cumulated.last().copied().unwrap_or(1);
            candidates.cumulated.partition_point(|up_to| *up_to <= point)
        }
    };
    hosts.get(index)
}

fn active(host: &Host) -> u64 {
    host.stats.rq_active.load(Relaxed)
}

/// Envoy's dynamic weight: `weight / (active + 1) ^ bias`.
fn biased(weight: u32, active: u64, bias: f64) -> f64 {
    let load = active as f64 + 1.0;
    let divisor = if bias == 1.0 { load } else { load.powf(bias) };
    f64::from(weight) / divisor
}

/// A number below `limit` from random bits, without a division.
fn below(limit: usize, random: u64) -> usize {
    let scaled = (u128::from(random) * limit as u128) >> 64;
    usize::try_from(scaled).unwrap_or(0)
}

/// Earliest-deadline-first scheduling: weighted round robin without bursts.
#[derive(Debug)]
struct Schedule {
    queue: BinaryHeap<Entry>,
    order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    index: usize,
}

impl Schedule {
    /// All hosts queued by weight, and some turns taken so that workers do not start in step.
    fn new(count: usize, weight: impl Fn(usize) -> f64, random: u64) -> Self {
        let mut schedule = Self { queue: BinaryHeap::with_capacity(count), order: 0 };
        for index in 0..count {
            schedule.add(0.0, weight(index), index);
        }
        for _ in 0..below(count, random) {
            schedule.pick(&weight);
        }
        schedule
    }

    fn add(&mut self, now: f64, weight: f64, index: usize) {
        self.order += 1;
        self.queue.push(Entry { deadline: now + 1.0 / weight, order: self.order, index });
    }

    fn pick(&mut self, weight: impl Fn(usize) -> f64) -> usize {
        let Some(first) = self.queue.pop() else { return 0 };
        self.add(first.deadline, weight(first.index), first.index);
        first.index
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, as [`BinaryHeap`] pops the greatest; of equals the first added.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then_with(|| other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
