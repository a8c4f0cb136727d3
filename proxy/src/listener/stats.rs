//! `listener.<address>.…` statistics.

use crate::telemetry::stats::{Counter, Gauge, Histogram, Scope, Unit};

/// Statistics of one listener.
#[derive(Debug)]
pub struct ListenerStats {
    /// `downstream_cx_total`
    pub cx_total: Counter,
    /// `downstream_cx_active`
    pub cx_active: Gauge,
    /// `downstream_cx_destroy`
    pub cx_destroy: Counter,
    /// `downstream_cx_length_ms`
    pub cx_length_ms: Histogram,
    /// `downstream_cx_overflow`
    pub cx_overflow: Counter,
    /// `no_filter_chain_match`
    pub no_filter_chain_match: Counter,
}

impl ListenerStats {
    /// Handles below `scope` (`listener.<address>`).
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        Self {
            cx_total: scope.counter("downstream_cx_total"),
            cx_active: scope.gauge("downstream_cx_active"),
            cx_destroy: scope.counter("downstream_cx_destroy"),
            cx_length_ms: scope.histogram("downstream_cx_length_ms", Unit::Milliseconds),
            cx_overflow: scope.counter("downstream_cx_overflow"),
            no_filter_chain_match: scope.counter("no_filter_chain_match"),
        }
    }
}
