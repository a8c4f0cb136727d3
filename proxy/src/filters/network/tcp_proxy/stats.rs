//! `tcp.<stat_prefix>.…` statistics.

use crate::telemetry::stats::{Counter, Gauge, Scope};

/// Handles, resolved when the filter is built.
#[derive(Debug)]
pub struct TcpProxyStats {
    /// `downstream_cx_total`
    pub cx_total: Counter,
    /// `downstream_cx_no_route`: there was no such cluster.
    pub cx_no_route: Counter,
    /// `downstream_cx_rx_bytes_total`
    pub rx_bytes_total: Counter,
    /// `downstream_cx_tx_bytes_total`
    pub tx_bytes_total: Counter,
    /// `idle_timeout`
    pub idle_timeout: Counter,
    /// `max_downstream_connection_duration`
    pub max_duration: Counter,
    /// `downstream_flow_control_paused_reading_total`: bytes that a host did not take at once are not counted
    /// by us, since nothing is read ahead of it.
    _paused: Counter,
    _resumed: Counter,
    _upstream_flush_total: Counter,
    _upstream_flush_active: Gauge,
    _rx_buffered: Gauge,
    _tx_buffered: Gauge,
}

impl TcpProxyStats {
    /// Handles below `scope` (`tcp.<stat_prefix>`).
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        Self {
            cx_total: scope.counter("downstream_cx_total"),
            cx_no_route: scope.counter("downstream_cx_no_route"),
            rx_bytes_total: scope.counter("downstream_cx_rx_bytes_total"),
            tx_bytes_total: scope.counter("downstream_cx_tx_bytes_total"),
            idle_timeout: scope.counter("idle_timeout"),
            max_duration: scope.counter("max_downstream_connection_duration"),
            _paused: scope.counter("downstream_flow_control_paused_reading_total"),
            _resumed: scope.counter("downstream_flow_control_resumed_reading_total"),
            _upstream_flush_total: scope.counter("upstream_flush_total"),
            _upstream_flush_active: scope.gauge("upstream_flush_active"),
            _rx_buffered: scope.gauge("downstream_cx_rx_bytes_buffered"),
            _tx_buffered: scope.gauge("downstream_cx_tx_bytes_buffered"),
        }
    }
}
