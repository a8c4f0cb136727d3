//! Random choice, uniform or by weight.

use super::below;
use crate::upstream::Candidates;

/// The index of the next host.
pub(super) fn pick(candidates: &Candidates, random: &mut impl FnMut() -> u64) -> usize {
    if candidates.weights.is_empty() {
        return below(candidates.hosts.len(), random());
    }
    let point = random() % candidates.cumulated.last().copied().unwrap_or(1);
    candidates
        .cumulated
        .partition_point(|up_to| *up_to <= point)
}
