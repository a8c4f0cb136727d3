//! Round robin: turns, or with weights a schedule without bursts.

use super::{State, Turn, below};

impl<N: Fn() -> u64> Turn<'_, N> {
    /// The index of the next host. Workers start anywhere, so that they do not walk in step.
    pub(super) fn round_robin(&self, state: &mut State, random: &mut impl FnMut() -> u64) -> usize {
        let weight = |index: usize| f64::from(self.candidates.weight(index));
        if let Some(index) = self.scheduled(state, weight, random) {
            return index;
        }
        let count = self.candidates.hosts.len();
        let next = state.next.get_or_insert_with(|| below(count, random()));
        let index = *next % count;
        *next = index + 1;
        index
    }
}
