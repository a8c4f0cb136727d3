//! `cluster.<name>.outlier_detection.…`, under Envoy's names.

use super::monitor::Kind;
use crate::telemetry::stats::{Counter, Gauge, Scope};

/// Counters by kind, in the order of [`Kind`].
#[derive(Debug)]
pub(super) struct Stats {
    detected: [Counter; Kind::ALL.len()],
    enforced: [Counter; Kind::ALL.len()],
    pub(super) enforced_total: Counter,
    pub(super) overflow: Counter,
    pub(super) active: Gauge,
    /// The names that Envoy had before it told detected from enforced.
    pub(super) old_consecutive_5xx: Counter,
    pub(super) old_success_rate: Counter,
    pub(super) old_total: Counter,
    /// Stays zero: `detect_degraded_hosts` is refused.
    _detected_degradation: Counter,
}

impl Stats {
    pub(super) fn new(scope: &Scope) -> Self {
        let by_kind = |prefix: &str| {
            Kind::ALL.map(|kind| scope.counter(&format!("{prefix}_{}", kind.stat_name())))
        };
        Self {
            detected: by_kind("ejections_detected"),
            enforced: by_kind("ejections_enforced"),
            enforced_total: scope.counter("ejections_enforced_total"),
            overflow: scope.counter("ejections_overflow"),
            active: scope.gauge("ejections_active"),
            old_consecutive_5xx: scope.counter("ejections_consecutive_5xx"),
            old_success_rate: scope.counter("ejections_success_rate"),
            old_total: scope.counter("ejections_total"),
            _detected_degradation: scope.counter("ejections_detected_degradation"),
        }
    }

    pub(super) fn detected(&self, kind: Kind) -> &Counter {
        &self.detected[kind as usize % Kind::ALL.len()]
    }

    pub(super) fn enforced(&self, kind: Kind) -> &Counter {
        &self.enforced[kind as usize % Kind::ALL.len()]
    }
}
