//! Tracing of an HTTP connection manager, and the OpenTelemetry tracer
//! (`HttpConnectionManager.Tracing`, `envoy.config.trace.v3.OpenTelemetryConfig`).

use std::{sync::Arc, time::Duration};

use super::format::Format;

/// `HttpConnectionManager.Tracing`.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Where spans go; none only propagates context.
    pub provider: Option<OpenTelemetry>,
    /// Percent of requests with `x-client-trace-id` traced. Default 100.
    pub client_sampling: f64,
    /// Percent traced at random. Default 100.
    pub random_sampling: f64,
    /// Cap over both. Default 100.
    pub overall_sampling: f64,
    /// The moments of a stream as events of its spans (`verbose`).
    pub verbose: bool,
    /// `max_path_tag_length`, default 256.
    pub max_path_tag_length: u32,
    /// `custom_tags`.
    pub custom_tags: Vec<CustomTag>,
    /// A separate span for each upstream request.
    pub spawn_upstream_span: bool,
    /// Operation (span name) format, if set.
    pub operation: Option<Format>,
}

/// `envoy.config.route.v3.Tracing`.
#[derive(Clone, Debug)]
pub struct RouteTracing {
    /// Percent.
    pub client_sampling: Option<f64>,
    /// Percent.
    pub random_sampling: Option<f64>,
    /// Percent.
    pub overall_sampling: Option<f64>,
    /// More tags.
    pub custom_tags: Vec<CustomTag>,
}

/// `envoy.type.tracing.v3.CustomTag`.
#[derive(Clone, Debug)]
pub struct CustomTag {
    /// Attribute name.
    pub tag: Arc<str>,
    /// Its value.
    pub value: CustomTagValue,
}

/// Kinds of [`CustomTag`].
#[derive(Clone, Debug)]
pub enum CustomTagValue {
    /// A literal or an environment variable's value, read when the configuration is loaded.
    Literal(Arc<str>),
    /// A request header, with the value to use where it is missing.
    RequestHeader {
        /// Which header.
        name: http::HeaderName,
        /// Instead of a missing one.
        default: Option<Arc<str>>,
    },
}

/// `envoy.config.trace.v3.OpenTelemetryConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpenTelemetry {
    /// `service.name` resource attribute. Default `unknown_service:envoy`.
    pub service_name: Arc<str>,
    /// How batches are sent.
    pub exporter: Exporter,
}

/// How spans leave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Exporter {
    /// `grpc_service.envoy_grpc`.
    Grpc {
        /// Through which cluster.
        cluster: Arc<str>,
        /// `:authority`, if not the cluster's name.
        authority: Option<Arc<str>>,
        /// Of one export.
        timeout: Duration,
    },
    /// `http_service`: POST of protobuf to this URI through a cluster.
    Http {
        /// Through which cluster.
        cluster: Arc<str>,
        /// `host`.
        authority: Arc<str>,
        /// Path and query.
        path: Arc<str>,
        /// Of one export.
        timeout: Duration,
        /// More headers.
        headers: Vec<(Arc<str>, Arc<str>)>,
    },
}
