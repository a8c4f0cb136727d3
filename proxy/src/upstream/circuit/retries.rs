//! How many retries there may be: a fixed number, or a share of the requests.
//!
//! A budget counts what is in flight, as in Envoy; with an interval, requests and retries that began
//! within it. Envoy holds the retries in flight against the requests of the interval, which limits
//! nothing where retries fail fast.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Instant,
};

use super::{Circuit, Resource};
use crate::config::{cluster::Thresholds, route::Priority};

/// The limit of retries of one priority.
#[derive(Debug)]
pub struct Retries {
    /// Retries that wait or are in flight, against `max_retries`.
    pub(super) count: Resource,
    has_budget: AtomicBool,
    /// The bits of an `f64`.
    percent: AtomicU64,
    min: AtomicU32,
    /// In nanoseconds; zero: what is in flight counts.
    interval: AtomicU64,
    epoch: Instant,
    requests: Window,
    retries: Window,
}

impl Retries {
    pub(super) fn new(count: Resource) -> Self {
        Self {
            count,
            has_budget: AtomicBool::new(false),
            percent: AtomicU64::new(0),
            min: AtomicU32::new(0),
            interval: AtomicU64::new(0),
            epoch: Instant::now(),
            requests: Window::default(),
            retries: Window::default(),
        }
    }

    pub(super) fn configure(&self, thresholds: &Thresholds) {
        if let Some(budget) = &thresholds.retry_budget {
            self.percent.store(budget.percent.to_bits(), Relaxed);
            self.min.store(budget.min_concurrency, Relaxed);
            let nanos = u64::try_from(budget.interval.as_nanos()).unwrap_or(u64::MAX);
            self.interval.store(nanos, Relaxed);
        } else {
            self.interval.store(0, Relaxed);
        }
        self.has_budget
            .store(thresholds.retry_budget.is_some(), Relaxed);
    }

    /// Whether a budget counts, not `max_retries`.
    #[must_use]
    pub fn has_budget(&self) -> bool {
        self.has_budget.load(Relaxed)
    }

    /// Retries that wait or are in flight.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.count.current()
    }

    /// `max_retries`, which a budget overrides.
    #[must_use]
    pub fn configured_max(&self) -> u32 {
        self.count.max()
    }

    #[inline]
    pub(super) fn note_request(&self, now: Instant) {
        let interval = self.interval.load(Relaxed);
        if interval > 0 {
            self.requests.add(self.since_epoch(now), interval);
        }
    }

    /// What counts as used.
    pub(super) fn used(&self, now: Instant) -> u64 {
        match self.interval.load(Relaxed) {
            0 => self.count.current(),
            interval => self.retries.sum(self.since_epoch(now), interval),
        }
    }

    /// How many there may be.
    pub(super) fn max(&self, now: Instant, active: impl Fn() -> u64) -> u64 {
        if !self.has_budget() {
            return u64::from(self.count.max());
        }
        let base = match self.interval.load(Relaxed) {
            0 => active(),
            interval => self.requests.sum(self.since_epoch(now), interval),
        };
        let percent = f64::from_bits(self.percent.load(Relaxed));
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count of requests: not negative, and small"
        )]
        let share = (percent / 100.0 * base as f64) as u64;
        share.max(u64::from(self.min.load(Relaxed)))
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// One retry, from its decision to that on its outcome.
#[derive(Debug)]
pub(crate) struct RetryPermit {
    circuit: Arc<Circuit>,
    priority: Priority,
}

impl RetryPermit {
    pub(super) fn new(circuit: &Arc<Circuit>, priority: Priority, now: Instant) -> Option<Self> {
        let resources = circuit.of(priority);
        let retries = &resources.retries;
        let max = resources.max_retries(now);
        if retries.used(now) >= max {
            retries.count.trip();
            return None;
        }
        let count = retries.count.add_one();
        let interval = retries.interval.load(Relaxed);
        if interval > 0 {
            retries.retries.add(retries.since_epoch(now), interval);
        }
        let used = match interval {
            0 => count,
            _ => retries.used(now),
        };
        retries.count.note_open(used >= max);
        Some(Self {
            circuit: Arc::clone(circuit),
            priority,
        })
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        let resources = self.circuit.of(self.priority);
        let retries = &resources.retries;
        let count = retries.count.take_one();
        let now = Instant::now();
        let max = resources.max_retries(now);
        let used = match retries.interval.load(Relaxed) {
            0 => count,
            _ => retries.used(now),
        };
        retries.count.note_open(used >= max);
    }
}

/// How many began within a sliding time, in steps of a tenth of it.
#[derive(Debug, Default)]
struct Window {
    steps: [Step; STEPS],
}

const STEPS: usize = 10;

#[derive(Debug, Default)]
struct Step {
    /// Which step of all times this one counts.
    number: AtomicU64,
    count: AtomicU64,
}

impl Window {
    /// Counts one at `nanos`. Two threads that begin a step at once may lose a count or two.
    fn add(&self, nanos: u64, interval: u64) {
        let number = step_number(nanos, interval);
        let Some(step) = self.steps.get(place(number)) else {
            return;
        };
        let before = step.number.load(Relaxed);
        if before != number
            && step
                .number
                .compare_exchange(before, number, AcqRel, Relaxed)
                .is_ok()
        {
            step.count.store(0, Relaxed);
        }
        step.count.fetch_add(1, Relaxed);
    }

    fn sum(&self, nanos: u64, interval: u64) -> u64 {
        let number = step_number(nanos, interval);
        let oldest = number.saturating_sub(STEPS as u64 - 1);
        let current = |step: &&Step| (oldest..=number).contains(&step.number.load(Relaxed));
        let steps = self.steps.iter().filter(current);
        steps.map(|step| step.count.load(Relaxed)).sum()
    }
}

/// Steps count from 1, so that an unused one belongs to none that is asked for.
fn step_number(nanos: u64, interval: u64) -> u64 {
    STEPS as u64 + nanos / (interval / STEPS as u64).max(1)
}

fn place(number: u64) -> usize {
    usize::try_from(number % STEPS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::cluster::{CircuitBreakers, RetryBudget},
        telemetry::stats::Registry,
    };

    fn circuit(budget: Option<RetryBudget>) -> Arc<Circuit> {
        let mut config = CircuitBreakers::default();
        config.default.retry_budget = budget;
        config.default.max_retries = 2;
        Arc::new(Circuit::new(&config, &Registry::new(1).scope("c")))
    }

    fn count(circuit: &Arc<Circuit>, now: Instant) -> Vec<RetryPermit> {
        std::iter::from_fn(|| circuit.retry(Priority::Default, now)).collect()
    }

    #[test]
    fn a_fixed_number() {
        let circuit = circuit(None);
        let now = Instant::now();
        let permits = count(&circuit, now);
        assert_eq!(permits.len(), 2);
        let [.., retries, _] = circuit.of(Priority::Default).usage(now);
        assert_eq!((retries.used, retries.limit, retries.trips), (2, 2, 1));
        assert!(retries.last_trip.is_some());
        drop(permits);
        assert_eq!(circuit.of(Priority::Default).retries.current(), 0);
    }

    #[test]
    fn a_share_of_what_is_in_flight() {
        let circuit = circuit(Some(RetryBudget {
            percent: 20.0,
            interval: Duration::ZERO,
            min_concurrency: 1,
        }));
        let now = Instant::now();
        assert_eq!(count(&circuit, now).len(), 1);
        for _ in 0..20 {
            circuit.of(Priority::Default).requests.acquire();
        }
        assert_eq!(count(&circuit, now).len(), 4);
    }

    #[test]
    fn a_share_of_what_began_in_an_interval() {
        let circuit = circuit(Some(RetryBudget {
            percent: 20.0,
            interval: Duration::from_secs(10),
            min_concurrency: 1,
        }));
        let start = Instant::now();
        for _ in 0..100 {
            circuit.of(Priority::Default).note_request(start);
        }
        // Ended retries count on.
        let later = start + Duration::from_secs(5);
        assert_eq!(count(&circuit, later).len(), 20);
        assert_eq!(count(&circuit, later).len(), 0);
        let much_later = start + Duration::from_secs(16);
        assert_eq!(count(&circuit, much_later).len(), 1);
    }
}
