//! Least request: the least busy of a few hosts, or with weights a schedule of weights that load lowers.

use std::sync::atomic::Ordering::Relaxed;

use super::{State, Turn, below};

impl<N: Fn() -> u64> Turn<'_, N> {
    /// The index of the next host.
    pub(super) fn least_request(
        &self,
        state: &mut State,
        choice_count: Option<u32>,
        active_request_bias: f64,
        random: &mut impl FnMut() -> u64,
    ) -> usize {
        let weight = |index| {
            biased(
                self.candidates.weight(index),
                self.active(index),
                active_request_bias,
            )
        };
        if let Some(index) = self.scheduled(state, weight, random) {
            return index;
        }
        let count = self.candidates.hosts.len();
        let Some(choices) = choice_count else {
            return self.full_scan(random);
        };
        let mut best = below(count, random());
        for _ in 1..choices {
            let other = below(count, random());
            if self.active(other) < self.active(best) {
                best = other;
            }
        }
        best
    }

    /// The least busy of all; each of equals is as likely.
    fn full_scan(&self, random: &mut impl FnMut() -> u64) -> usize {
        let mut best = 0;
        let mut least = u64::MAX;
        let mut equals = 0;
        for index in 0..self.candidates.hosts.len() {
            let active = self.active(index);
            if active < least {
                (best, least, equals) = (index, active, 1);
            } else if active == least {
                equals += 1;
                if below(equals, random()) == 0 {
                    best = index;
                }
            }
        }
        best
    }

    fn active(&self, index: usize) -> u64 {
        self.candidates.hosts[index].stats.rq_active.load(Relaxed)
    }
}

/// Envoy's dynamic weight: `weight / (active + 1) ^ bias`.
fn biased(weight: u32, active: u64, bias: f64) -> f64 {
    let load = active as f64 + 1.0;
    let divisor = if bias == 1.0 { load } else { load.powf(bias) };
    f64::from(weight) / divisor
}
