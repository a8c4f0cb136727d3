//! `http.<stat_prefix>.…` statistics, resolved when a connection manager is built.

use ::http::StatusCode;

use crate::telemetry::stats::{Counter, Gauge, Histogram, Registry, Scope, Unit};

macro_rules! stats {
    ($(#[$doc:meta])* $name:ident { $($kind:ident $field:ident = $metric:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[allow(missing_docs, reason = "each field is the metric that it is named after")]
        pub struct $name { $(pub $field: stats!(@type $kind),)* }

        impl $name {
            /// Handles below the scope `prefix`.
            #[must_use]
            pub fn new(registry: &Registry, prefix: &str) -> Self {
                let scope = registry.scope(prefix);
                Self { $($field: stats!(@make $kind scope $metric),)* }
            }
        }
    };
    (@type counter) => { Counter };
    (@type gauge) => { Gauge };
    (@type milliseconds) => { Histogram };
    (@type responses) => { Responses };
    (@make counter $scope:ident $metric:literal) => { $scope.counter($metric) };
    (@make gauge $scope:ident $metric:literal) => { $scope.gauge($metric) };
    (@make responses $scope:ident $metric:literal) => { Responses::new(&$scope, $metric) };
    (@make milliseconds $scope:ident $metric:literal) => {
        $scope.histogram($metric, Unit::Milliseconds)
    };
}

stats! {
    /// Statistics of one connection manager (`http.<stat_prefix>`).
    HcmStats {
        counter cx_total = "downstream_cx_total",
        counter cx_http1_total = "downstream_cx_http1_total",
        counter cx_http2_total = "downstream_cx_http2_total",
        counter cx_destroy = "downstream_cx_destroy",
        counter cx_destroy_remote = "downstream_cx_destroy_remote",
        counter cx_destroy_local = "downstream_cx_destroy_local",
        counter cx_destroy_active_rq = "downstream_cx_destroy_active_rq",
        counter cx_destroy_local_active_rq = "downstream_cx_destroy_local_active_rq",
        counter cx_destroy_remote_active_rq = "downstream_cx_destroy_remote_active_rq",
        gauge cx_active = "downstream_cx_active",
        gauge cx_http1_active = "downstream_cx_http1_active",
        gauge cx_http2_active = "downstream_cx_http2_active",
        counter cx_protocol_error = "downstream_cx_protocol_error",
        counter cx_not_http = "downstream_cx_not_http",
        counter cx_silent = "downstream_cx_silent",
        milliseconds cx_length_ms = "downstream_cx_length_ms",
        counter cx_rx_bytes_total = "downstream_cx_rx_bytes_total",
        counter cx_tx_bytes_total = "downstream_cx_tx_bytes_total",
        counter cx_drain_close = "downstream_cx_drain_close",
        counter cx_idle_timeout = "downstream_cx_idle_timeout",
        counter cx_max_duration_reached = "downstream_cx_max_duration_reached",
        counter cx_upgrades_total = "downstream_cx_upgrades_total",
        gauge cx_upgrades_active = "downstream_cx_upgrades_active",
        counter cx_max_requests_reached = "downstream_cx_max_requests_reached",
        counter rq_total = "downstream_rq_total",
        counter rq_http1_total = "downstream_rq_http1_total",
        counter rq_http2_total = "downstream_rq_http2_total",
        gauge rq_active = "downstream_rq_active",
        counter rq_response_before_rq_complete = "downstream_rq_response_before_rq_complete",
        counter rq_rx_reset = "downstream_rq_rx_reset",
        counter rq_tx_reset = "downstream_rq_tx_reset",
        counter rq_non_relative_path = "downstream_rq_non_relative_path",
        counter rq_too_large = "downstream_rq_too_large",
        counter rq_failed_path_normalization = "downstream_rq_failed_path_normalization",
        counter rq_redirected_with_normalized_path = "downstream_rq_redirected_with_normalized_path",
        counter rq_idle_timeout = "downstream_rq_idle_timeout",
        counter rq_max_duration_reached = "downstream_rq_max_duration_reached",
        counter rq_timeout = "downstream_rq_timeout",
        counter rq_header_timeout = "downstream_rq_header_timeout",
        counter rq_too_many_premature_resets = "downstream_rq_too_many_premature_resets",
        counter rq_ws_on_non_ws_route = "downstream_rq_ws_on_non_ws_route",
        milliseconds rq_time = "downstream_rq_time",
        responses rq = "downstream_rq",
    }
}

stats! {
    /// Statistics of the router filter of a connection manager, same scope.
    RouterStats {
        counter no_route = "no_route",
        counter no_cluster = "no_cluster",
        counter rq_redirect = "rq_redirect",
        counter rq_direct_response = "rq_direct_response",
        counter rq_total = "rq_total",
        counter rq_reset_after_downstream_response_started =
            "rq_reset_after_downstream_response_started",
    }
}

/// Finished responses, all of them and by class.
#[derive(Debug)]
pub struct Responses {
    completed: Counter,
    classes: [Counter; 5],
}

impl Responses {
    /// `<prefix>_completed`, `<prefix>_1xx` to `<prefix>_5xx`.
    #[must_use]
    pub fn new(scope: &Scope, prefix: &str) -> Self {
        Self {
            completed: scope.counter(&format!("{prefix}_completed")),
            classes: [1, 2, 3, 4, 5].map(|class| scope.counter(&format!("{prefix}_{class}xx"))),
        }
    }

    /// Counts a finished response.
    pub fn count(&self, status: StatusCode) {
        self.completed.inc();
        let class = usize::from(status.as_u16() / 100);
        if let Some(counter) = class
            .checked_sub(1)
            .and_then(|index| self.classes.get(index))
        {
            counter.inc();
        }
    }
}
