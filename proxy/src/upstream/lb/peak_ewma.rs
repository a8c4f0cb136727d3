//! Peak-EWMA: of a few hosts picked at random, the one whose latency times requests in progress is least.
//!
//! Each host has an exponentially weighted moving average of its latency. It jumps up to a latency that
//! is above it at once and comes down slowly: one slow answer counts, many fast ones are needed to
//! forget it. What is not measured again fades, so that every host gets a request some day. Envoy has
//! no such algorithm.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use smallvec::SmallVec;

use super::{below, slow_start};
use crate::{
    config::load_balancing::{PeakEwma, SlowStart},
    upstream::{Candidates, Host},
};

/// Moving average of one host's latency; a word for all workers: seconds as `f32`, and milliseconds
/// of the last change, modulo 2³².
#[derive(Debug)]
pub(crate) struct Ewma(AtomicU64);

/// How a try ended, for its host's average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sample {
    /// An answer.
    Answer,
    /// None, or a 5xx: that it came fast is no merit, so it can only raise the average.
    Failure,
}

impl Ewma {
    /// Nothing measured so far.
    pub(super) fn new(now: u64) -> Self {
        Self(AtomicU64::new(pack(f32::NAN, now)))
    }

    /// Takes in the latency of one try.
    pub(crate) fn report(&self, policy: &PeakEwma, latency: Duration, sample: Sample, now: u64) {
        let latency = latency.as_secs_f32();
        let update = |word: u64| {
            let (average, passed) = unpack(word, now);
            let (average, kept) = match average {
                Some(average) => (average, fade(policy, passed)),
                // The default fades like what was measured.
                None => (policy.default_rtt.as_secs_f32() * fade(policy, passed), 0.0),
            };
            let next = if latency > average {
                latency
            } else if sample == Sample::Failure {
                return None;
            } else {
                average * kept + latency * (1.0 - kept)
            };
            Some(pack(next, now))
        };
        // An update that another worker's overtakes is tried again; one that changes nothing is none.
        let _changed = self.0.fetch_update(Relaxed, Relaxed, update);
    }

    /// The latency to expect, seconds.
    pub(super) fn estimate(&self, policy: &PeakEwma, now: u64) -> f64 {
        let (average, passed) = unpack(self.0.load(Relaxed), now);
        let average = average.unwrap_or(policy.default_rtt.as_secs_f32());
        f64::from(average * fade(policy, passed))
    }
}

/// What is left of an average after `passed` milliseconds.
fn fade(policy: &PeakEwma, passed: u32) -> f32 {
    (-(passed as f32) / (policy.decay_time.as_secs_f32() * 1000.0)).exp()
}

fn pack(average: f32, now: u64) -> u64 {
    u64::from(average.to_bits()) << 32 | now & u64::from(u32::MAX)
}

/// The average, if there is one, and its age in milliseconds.
fn unpack(word: u64, now: u64) -> (Option<f32>, u32) {
    let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0);
    let average = f32::from_bits(low(word >> 32));
    let passed = low(now).wrapping_sub(low(word));
    // A worker's clock reading can be a little older than another's update.
    let passed = if passed > u32::MAX / 2 { 0 } else { passed };
    ((!average.is_nan()).then_some(average), passed)
}

/// The index of the next host.
pub(super) fn pick(
    candidates: &Candidates,
    policy: &PeakEwma,
    slow_start: Option<&SlowStart>,
    now: u64,
    random: &mut impl FnMut() -> u64,
) -> usize {
    let hosts = &candidates.hosts;
    let cost = |index: usize| {
        let host: &Arc<Host> = &hosts[index];
        let active = host.stats.rq_active.load(Relaxed) as f64;
        let share = slow_start.map_or(1.0, |config| slow_start::factor(config, host, now));
        host.balance.ewma.estimate(policy, now) * (active + 1.0)
            / (share * f64::from(candidates.weight(index)))
    };
    let choices = usize::try_from(policy.choice_count).unwrap_or(usize::MAX);
    let drawn = draw(hosts.len(), choices, random);
    drawn
        .iter()
        .map(|index| (*index, cost(*index)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
        .map_or(0, |(index, _)| index)
}

/// `choices` different numbers below `count` in random order of preference (Floyd's sampling): against
/// itself even the worst host would win.
fn draw(count: usize, choices: usize, random: &mut impl FnMut() -> u64) -> SmallVec<[usize; 8]> {
    let mut drawn = SmallVec::new();
    for last in count.saturating_sub(choices)..count {
        let one = below(last + 1, random());
        drawn.push(if drawn.contains(&one) { last } else { one });
    }
    // The first of equals is picked: who is it must be chance.
    let first = below(drawn.len(), random());
    drawn.rotate_left(first);
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: PeakEwma = PeakEwma {
        decay_time: Duration::from_secs(10),
        default_rtt: Duration::from_millis(30),
        choice_count: 2,
    };

    fn millis(ewma: &Ewma, now: u64) -> f64 {
        (ewma.estimate(&POLICY, now) * 100_000.0).round() / 100.0
    }

    fn answer(ewma: &Ewma, latency: u64, now: u64) {
        ewma.report(&POLICY, Duration::from_millis(latency), Sample::Answer, now);
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let ewma = Ewma::new(0);
        answer(&ewma, 10, 0);
        assert!((millis(&ewma, 0) - 10.0).abs() < 0.01);
        answer(&ewma, 200, 0);
        assert!((millis(&ewma, 0) - 200.0).abs() < 0.01);
        // A second of 10 s: e^-0.1 of the old and the rest of the new.
        answer(&ewma, 10, 1000);
        assert!((millis(&ewma, 1000) - 181.92).abs() < 0.02);
        // Without answers the average fades.
        assert!((millis(&ewma, 11_000) - 181.92 / std::f64::consts::E).abs() < 0.02);
        assert!(millis(&ewma, 200_000) < 0.01);
    }

    #[test]
    fn the_default_stands_until_something_is_measured_and_fades() {
        let ewma = Ewma::new(0);
        assert!((millis(&ewma, 0) - 30.0).abs() < 0.01);
        assert!((millis(&ewma, 10_000) - 11.04).abs() < 0.01);
        answer(&ewma, 2, 10_000);
        assert!((millis(&ewma, 10_000) - 2.0).abs() < 0.01);
    }

    #[test]
    fn a_failure_never_makes_a_host_look_faster() {
        let ewma = Ewma::new(0);
        answer(&ewma, 100, 0);
        let fail = |latency| {
            ewma.report(&POLICY, Duration::from_millis(latency), Sample::Failure, 0);
        };
        fail(1);
        assert!((millis(&ewma, 0) - 100.0).abs() < 0.01);
        fail(5000);
        assert!((millis(&ewma, 0) - 5000.0).abs() < 0.1);
    }

    #[test]
    fn time_may_wrap_and_look_backwards() {
        let wrap = u64::from(u32::MAX);
        let ewma = Ewma::new(wrap);
        answer(&ewma, 100, wrap);
        assert!((millis(&ewma, wrap + 10_000) - 36.79).abs() < 0.05);
        assert!((millis(&ewma, wrap - 5) - 100.0).abs() < 0.01);
    }

    #[test]
    fn draws_are_different_and_fair() {
        use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
        let mut random = SmallRng::seed_from_u64(1);
        let mut seen = [[0_u32; 4]; 4];
        for _ in 0..12_000 {
            let drawn = draw(4, 2, &mut || random.random());
            seen[drawn[0]][drawn[1]] += 1;
        }
        for (first, row) in seen.iter().enumerate() {
            for (second, count) in row.iter().enumerate() {
                if first == second {
                    assert_eq!(*count, 0);
                } else {
                    assert!(count.abs_diff(1000) < 130, "{seen:?}");
                }
            }
        }
        assert_eq!(draw(2, 5, &mut || 0).len(), 2);
    }
}
