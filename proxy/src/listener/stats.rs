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
    /// `downstream_pre_cx_active`: connections that listener filters look at.
    pub pre_cx_active: Gauge,
    /// `downstream_pre_cx_timeout`
    pub pre_cx_timeout: Counter,
    /// `downstream_listener_filter_remote_close`
    pub filter_remote_close: Counter,
    /// `downstream_listener_filter_error`
    pub filter_error: Counter,
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
            pre_cx_active: scope.gauge("downstream_pre_cx_active"),
            pre_cx_timeout: scope.counter("downstream_pre_cx_timeout"),
            filter_remote_close: scope.counter("downstream_listener_filter_remote_close"),
            filter_error: scope.counter("downstream_listener_filter_error"),
        }
    }
}
