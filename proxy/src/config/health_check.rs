//! Active health checks (`envoy.config.core.v3.HealthCheck`).

use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, uri::PathAndQuery};

use super::{header::AppendAction, matcher::StringMatcher};

/// How the hosts of a cluster are asked how they are.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// For one check.
    pub timeout: Duration,
    /// When to ask.
    pub intervals: Intervals,
    /// Failures in a row that make a host unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_threshold: u32,
    /// Whether a connection serves several checks. Default true.
    pub reuse_connection: bool,
    /// What is asked.
    pub checker: Checker,
    /// Files for events.
    pub event_logs: Vec<PathBuf>,
    /// Failures are events always, not only the first one.
    pub always_log_failures: bool,
    /// So are successes.
    pub always_log_successes: bool,
    /// What it was made from: two checks are equal if these are.
    pub raw: Arc<outrigger_proto::envoy::config::core::v3::HealthCheck>,
}

impl PartialEq for HealthCheck {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

/// The times between two checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Of healthy hosts.
    pub healthy: Duration,
    /// Of unhealthy hosts.
    pub unhealthy: Duration,
    /// After a failure that has not made a host unhealthy yet, or has just done so.
    pub unhealthy_edge: Duration,
    /// After a success that has not made a host healthy yet.
    pub healthy_edge: Duration,
    /// While no connection was ever made to the cluster. Default 60 s.
    pub no_traffic: Duration,
    /// The same, of healthy hosts.
    pub no_traffic_healthy: Duration,
    /// The first check waits up to this long, at random.
    pub initial_jitter: Duration,
    /// Added to each interval, at random.
    pub jitter: Duration,
    /// The same, in percent of the interval.
    pub jitter_percent: u32,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Checker {
    /// An HTTP request.
    Http(Box<HttpCheck>),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcCheck),
    /// A connection, or a few bytes on it.
    Tcp(TcpCheck),
}

/// `HealthCheck.HttpHealthCheck`.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    /// Host header; the cluster's name if empty.
    pub host: Arc<str>,
    /// Path and query.
    pub path: PathAndQuery,
    /// GET by default.
    pub method: Method,
    /// The request's body.
    pub send: Bytes,
    /// What the response's body must hold, in this order.
    pub receive: Vec<Bytes>,
    /// How much of the body is looked at; `None` is all.
    pub response_buffer_size: Option<u64>,
    /// Changes of the request's headers.
    pub headers: CheckHeaders,
    /// Statuses of a healthy host. Default 200.
    pub expected: Vec<Range<u16>>,
    /// Statuses that count towards `unhealthy_threshold`; others make a host unhealthy at once.
    pub retriable: Vec<Range<u16>>,
    /// Spoken over HTTP/2.
    pub is_http2: bool,
    /// What `x-envoy-upstream-healthchecked-cluster` must say.
    pub service_name: Option<StringMatcher>,
}

/// `HealthCheck.GrpcHealthCheck`.
#[derive(Clone, Debug)]
pub struct GrpcCheck {
    /// The service that is asked for; all if empty.
    pub service_name: Arc<str>,
    /// `:authority`; the cluster's name if empty.
    pub authority: Arc<str>,
    /// Metadata of the call.
    pub metadata: CheckHeaders,
}

/// `HealthCheck.TcpHealthCheck`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpCheck {
    /// Sent at once.
    pub send: Bytes,
    /// What must come, in this order; nothing is the connection alone.
    pub receive: Vec<Bytes>,
}

/// Changes of the headers of a check: plain text, since there is no stream that operators could ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckHeaders {
    /// Removed first.
    pub remove: Vec<HeaderName>,
    /// Then added.
    pub add: Vec<(HeaderName, HeaderValue, AppendAction)>,
}
