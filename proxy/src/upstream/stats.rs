//! A cluster's statistics, under Envoy's names.

use super::CodeStats;
use crate::telemetry::stats::{Counter, Gauge, Histogram, Scope, Unit};

macro_rules! cluster_stats {
    (
        counters { $($(#[$counter_doc:meta])* $counter:ident,)* }
        gauges { $($(#[$gauge_doc:meta])* $gauge:ident,)* }
    ) => {
        /// Handles to `cluster.<name>.…`, resolved when the cluster is built.
        #[derive(Debug)]
        pub struct ClusterStats {
            /// Where they live.
            pub scope: Scope,
            /// By response code.
            pub codes: CodeStats,
            $($(#[$counter_doc])* pub $counter: Counter,)*
            $($(#[$gauge_doc])* pub $gauge: Gauge,)*
            /// From start to established, milliseconds.
            pub upstream_cx_connect_ms: Histogram,
            /// Life of connections, milliseconds.
            pub upstream_cx_length_ms: Histogram,
            /// Requests of one connection.
            pub upstream_rq_per_cx: Histogram,
        }

        impl ClusterStats {
            /// Resolves all handles below `scope` (`cluster.<name>`).
            #[must_use]
            pub fn new(scope: Scope) -> Self {
                Self {
                    $($counter: scope.counter(stringify!($counter)),)*
                    $($gauge: scope.gauge(stringify!($gauge)),)*
                    upstream_cx_connect_ms: scope.histogram("upstream_cx_connect_ms", Unit::Milliseconds),
                    upstream_cx_length_ms: scope.histogram("upstream_cx_length_ms", Unit::Milliseconds),
                    upstream_rq_per_cx: scope.histogram("upstream_rq_per_cx", Unit::Unspecified),
                    codes: CodeStats::new(&scope),
                    scope,
                }
            }
        }
    };
}

cluster_stats! {
    counters {
        /// Picks made in panic.
        lb_healthy_panic,
        /// Updates that changed the hosts.
        membership_change,
        /// DNS or EDS updates tried.
        update_attempt,
        /// Updates that worked.
        update_success,
        /// Updates that failed.
        update_failure,
        /// Updates without hosts.
        update_empty,
        /// Updates that changed nothing.
        update_no_rebuild,
        /// Connections made.
        upstream_cx_total,
        /// HTTP/1 connections made.
        upstream_cx_http1_total,
        /// HTTP/2 connections made.
        upstream_cx_http2_total,
        /// Failed connection attempts.
        upstream_cx_connect_fail,
        /// Connections for which no attempt was left.
        upstream_cx_connect_attempts_exceeded,
        /// Connection attempts that ran out of time.
        upstream_cx_connect_timeout,
        /// Connections closed for being idle.
        upstream_cx_idle_timeout,
        /// Connections closed for their age.
        upstream_cx_max_duration_reached,
        /// Connections that were wanted beyond `max_connections`.
        upstream_cx_overflow,
        /// Pools that were wanted beyond `max_connection_pools`.
        upstream_cx_pool_overflow,
        /// Connections closed after their last allowed request.
        upstream_cx_max_requests,
        /// Picks without a host.
        upstream_cx_none_healthy,
        /// Connections that ended.
        upstream_cx_destroy,
        /// Ended by us.
        upstream_cx_destroy_local,
        /// Ended by the peer.
        upstream_cx_destroy_remote,
        /// Ended with requests in flight.
        upstream_cx_destroy_with_active_rq,
        /// Ended by us with requests in flight.
        upstream_cx_destroy_local_with_active_rq,
        /// Ended by the peer with requests in flight.
        upstream_cx_destroy_remote_with_active_rq,
        /// Connections that broke the protocol.
        upstream_cx_protocol_error,
        /// Connections closed by GOAWAY or `connection: close`.
        upstream_cx_close_notify,
        /// Bytes received.
        upstream_cx_rx_bytes_total,
        /// Bytes sent.
        upstream_cx_tx_bytes_total,
        /// Bodies that were too large to be kept for a retry, or copies that were too slow.
        retry_or_shadow_abandoned,
        /// Requests sent.
        upstream_rq_total,
        /// Requests that waited for a connection.
        upstream_rq_pending_total,
        /// Requests refused by `max_pending_requests`.
        upstream_rq_pending_overflow,
        /// Requests refused by `max_requests`.
        upstream_rq_active_overflow,
        /// Requests failed while waiting for a connection.
        upstream_rq_pending_failure_eject,
        /// Requests given up while waiting for a connection.
        upstream_rq_cancelled,
        /// Requests that ran into the route's timeout.
        upstream_rq_timeout,
        /// Requests that ran into `max_stream_duration`.
        upstream_rq_max_duration_reached,
        /// Requests tried again.
        upstream_rq_retry,
        /// Tries after a back-off of random length.
        upstream_rq_retry_backoff_exponential,
        /// Tries after a back-off that the response asked for.
        upstream_rq_retry_backoff_ratelimited,
        /// Tries that ran into `per_try_timeout`.
        upstream_rq_per_try_timeout,
        /// Tries that ran into `per_try_idle_timeout`.
        upstream_rq_per_try_idle_timeout,
        /// Requests sent again because a kept connection was lost before they were read.
        upstream_rq_resent,
        /// Requests for which no try was left.
        upstream_rq_retry_limit_exceeded,
        /// Requests not tried again because of `max_retries`.
        upstream_rq_retry_overflow,
        /// Requests that a later try answered.
        upstream_rq_retry_success,
        /// Updates that were refused.
        update_rejected,
        /// Requests reset by the peer.
        upstream_rq_rx_reset,
        /// Requests reset by us.
        upstream_rq_tx_reset,
    }
    gauges {
        /// Connections open.
        upstream_cx_active,
        /// Requests in flight.
        upstream_rq_active,
        /// Requests that wait for a connection.
        upstream_rq_pending_active,
        /// Hosts.
        membership_total,
        /// Healthy hosts.
        membership_healthy,
        /// Degraded hosts.
        membership_degraded,
        /// Excluded hosts (none: no active health checks yet).
        membership_excluded,
        /// The largest weight.
        max_host_weight,
    }
}
