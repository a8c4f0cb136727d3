//! Round robin: turns, or with weights a schedule without bursts.

use super::{State, below, edf::Schedule};
use crate::upstream::Candidates;

/// The index of the next host. Workers start anywhere, so that they do not walk in step.
pub(super) fn pick(
    state: &mut State,
    candidates: &Candidates,
    random: &mut impl FnMut() -> u64,
) -> usize {
    let count = candidates.hosts.len();
    if candidates.weights.is_empty() {
        let next = state.next.get_or_insert_with(|| below(count, random()));
        let index = *next % count;
        *next = index + 1;
        return index;
    }
    let weight = |index: usize| f64::from(candidates.weights[index]);
    state
        .schedule
        .get_or_insert_with(|| Schedule::new(count, weight, random()))
        .pick(weight)
}
