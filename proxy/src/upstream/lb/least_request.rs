//! Least request: the least busy of a few hosts, or with weights a schedule of weights that load lowers.

use std::sync::atomic::Ordering::Relaxed;

use super::{State, below, edf::Schedule};
use crate::upstream::{Candidates, Host};

/// The index of the next host.
pub(super) fn pick(
    state: &mut State,
    candidates: &Candidates,
    choice_count: u32,
    active_request_bias: f64,
    random: &mut impl FnMut() -> u64,
) -> usize {
    let hosts = &candidates.hosts;
    if candidates.weights.is_empty() {
        let mut best = below(hosts.len(), random());
        for _ in 1..choice_count {
            let other = below(hosts.len(), random());
            if active(&hosts[other]) < active(&hosts[best]) {
                best = other;
            }
        }
        return best;
    }
    let weight = |index: usize| {
        biased(
            candidates.weights[index],
            active(&hosts[index]),
            active_request_bias,
        )
    };
    state
        .schedule
        .get_or_insert_with(|| Schedule::new(hosts.len(), weight, random()))
        .pick(weight)
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
