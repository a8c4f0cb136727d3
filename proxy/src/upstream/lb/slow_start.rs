//! Slow start: a new host's weight grows to its full value within a window, as in Envoy.

use crate::{config::load_balancing::SlowStart, upstream::Host};

/// Whether the host is new.
pub(super) fn is_new(slow_start: &SlowStart, host: &Host, now: u64) -> bool {
    host.balance
        .age(now)
        .is_some_and(|age| age < window(slow_start))
}

/// The part of its weight that the host has now.
pub(super) fn factor(slow_start: &SlowStart, host: &Host, now: u64) -> f64 {
    let window = window(slow_start);
    match host.balance.age(now) {
        Some(age) if age < window => {
            let time = age.max(1) as f64 / window as f64;
            let grown = match slow_start.aggression {
                1.0 => time,
                aggression => time.powf(1.0 / aggression),
            };
            grown.max(slow_start.min_weight)
        }
        _ => 1.0,
    }
}

fn window(slow_start: &SlowStart) -> u64 {
    u64::try_from(slow_start.window.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::testing;

    fn factors(aggression: f64) -> Vec<f64> {
        let slow_start = SlowStart {
            window: Duration::from_secs(10),
            aggression,
            min_weight: 0.1,
        };
        let host = testing::host(1);
        host.balance.begin_at(1000);
        [1000, 1500, 3500, 6000, 10_999, 11_000]
            .map(|now| (factor(&slow_start, &host, now) * 1000.0).round() / 1000.0)
            .to_vec()
    }

    #[test]
    fn weight_grows_in_a_straight_line_from_its_minimum() {
        assert_eq!(factors(1.0), [0.1, 0.1, 0.25, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn aggression_bends_the_line_upwards() {
        assert_eq!(factors(2.0), [0.1, 0.224, 0.5, 0.707, 1.0, 1.0]);
    }

    #[test]
    fn a_host_that_never_was_healthy_is_not_new() {
        let slow_start = SlowStart {
            window: Duration::from_secs(10),
            aggression: 1.0,
            min_weight: 0.1,
        };
        let host = testing::host(1);
        assert!(!is_new(&slow_start, &host, 5));
        host.balance.begin_at(5);
        assert!(is_new(&slow_start, &host, 6));
        // Only a health check makes it new again.
        host.balance.begin_at(20_000);
        assert!(!is_new(&slow_start, &host, 20_000));
    }
}
