//! `cluster.<name>.health_check.…`, under Envoy's names.

use crate::telemetry::stats::{Counter, Gauge, Scope};

#[derive(Debug)]
pub(super) struct Stats {
    /// Checks begun.
    pub(super) attempt: Counter,
    /// Checks passed.
    pub(super) success: Counter,
    /// Checks failed, and failures without a check.
    pub(super) failure: Counter,
    /// Those by `x-envoy-immediate-health-check-fail`.
    pub(super) passive_failure: Counter,
    /// Those without an answer.
    pub(super) network_failure: Counter,
    /// Answers whose service name was looked at.
    pub(super) verify_cluster: Counter,
    /// Hosts that pass.
    pub(super) healthy: Gauge,
    /// Hosts that say that they are degraded.
    pub(super) degraded: Gauge,
}

impl Stats {
    pub(super) fn new(scope: &Scope) -> Self {
        Self {
            attempt: scope.counter("attempt"),
            success: scope.counter("success"),
            failure: scope.counter("failure"),
            passive_failure: scope.counter("passive_failure"),
            network_failure: scope.counter("network_failure"),
            verify_cluster: scope.counter("verify_cluster"),
            healthy: scope.gauge("healthy"),
            degraded: scope.gauge("degraded"),
        }
    }
}
