//! Exponential back-off with full jitter, as Envoy's `JitteredExponentialBackOffStrategy`.

use std::time::Duration;

/// How long to wait before the next of a row of failing attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The first wait is below `base`; the bound doubles up to `max`.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max: max.max(base),
            ceiling: base,
        }
    }

    /// The next wait, uniform between zero and a bound that doubles with each call.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.ceiling;
        self.ceiling = bound.saturating_mul(2).min(self.max);
        bound.mul_f64(rand::random::<f64>())
    }

    /// Back to the first bound: the peer has proven healthy.
    pub fn reset(&mut self) {
        self.ceiling = self.base;
    }
}

impl Default for Backoff {
    /// Envoy's values for gRPC subscriptions: 500 ms, at most 30 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_doubling_bound_until_reset() {
        let mut backoff = Backoff::default();
        let mut bound = Duration::from_millis(500);
        for _ in 0..20 {
            assert!(backoff.next_wait() <= bound);
            bound = (bound * 2).min(Duration::from_secs(30));
        }
        assert_eq!(backoff.ceiling, Duration::from_secs(30));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(500));
    }
}
