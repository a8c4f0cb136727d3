//! The HTTP connection manager
//! (`envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`).

use std::{sync::Arc, time::Duration};

use super::{
    access_log::AccessLog, route::RouteConfiguration, source::ConfigSource, tracing::Tracing,
    upgrade::Upgrade,
};

/// Configuration of one HTTP connection manager.
#[derive(Clone, Debug)]
pub struct HttpConnectionManager {
    /// `http.<stat_prefix>.`
    pub stat_prefix: Arc<str>,
    /// What the downstream speaks.
    pub codec: Codec,
    /// Where routes come from.
    pub routes: RouteSource,
    /// In order; the last is the router.
    pub filters: Vec<HttpFilter>,
    /// `server_name`, default `envoy`.
    pub server_name: http::HeaderValue,
    /// What happens with the `server` header.
    pub server_header: ServerHeader,
    /// `max_request_headers_kb`, default 60.
    pub max_request_headers_kb: u32,
    /// `common_http_protocol_options.max_headers_count`, default 100.
    pub max_headers_count: u32,
    /// Default 1 h; zero is none.
    pub idle_timeout: Duration,
    /// `common_http_protocol_options.max_connection_duration`.
    pub max_connection_duration: Option<Duration>,
    /// `common_http_protocol_options.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// `common_http_protocol_options.max_requests_per_connection`; zero is no limit.
    pub max_requests_per_connection: u32,
    /// Names with underscores.
    pub headers_with_underscores: UnderscoreAction,
    /// Default 5 min; zero is none.
    pub stream_idle_timeout: Duration,
    /// Whole request received; zero is none (default).
    pub request_timeout: Duration,
    /// Request headers received; zero is none (default).
    pub request_headers_timeout: Duration,
    /// Between the first GOAWAY and the last. Default 5 s.
    pub drain_timeout: Duration,
    /// Default 1 s.
    pub delayed_close_timeout: Duration,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// Access logs, in order.
    pub access_log: Vec<AccessLog>,
    /// Spans of this connection manager.
    pub tracing: Option<Arc<Tracing>>,
    /// Trust the connection's address, not `x-forwarded-for`.
    pub use_remote_address: bool,
    /// How many addresses of `x-forwarded-for`, from the right, are trusted proxies.
    pub xff_num_trusted_hops: u32,
    /// With `use_remote_address`, do not append to `x-forwarded-for`.
    pub skip_xff_append: bool,
    /// Which addresses are internal; empty is Envoy 1.40's default (loopback/RFC 1918 rules as run).
    pub internal_cidrs: Option<Vec<(std::net::IpAddr, u8)>>,
    /// Appended to `via`, if set.
    pub via: Option<http::HeaderValue>,
    /// Make an `x-request-id` where there is none (default true).
    pub generate_request_id: bool,
    /// Keep an `x-request-id` from an external client.
    pub preserve_external_request_id: bool,
    /// Put `x-request-id` into responses.
    pub always_set_request_id_in_response: bool,
    /// The trace reason is packed into the UUID (`request_id_extension.pack_trace_reason`).
    pub pack_trace_reason: bool,
    /// RFC 3986 path normalisation.
    pub normalize_path: bool,
    /// `//` → `/`.
    pub merge_slashes: bool,
    /// `%2F` and `%5C` in paths.
    pub escaped_slashes: EscapedSlashes,
    /// Strip the port of `host`.
    pub strip_port: StripPort,
    /// Strip a trailing dot of `host`.
    pub strip_trailing_host_dot: bool,
    /// `append_x_forwarded_port`.
    pub append_x_forwarded_port: bool,
    /// `scheme_header_transformation.scheme_to_overwrite`.
    pub scheme_overwrite: Option<http::uri::Scheme>,
    /// Whether an invalid HTTP/2 message resets only its stream.
    pub stream_error_on_invalid_http_message: bool,
    /// Proxy `100 Continue` instead of answering it.
    pub proxy_100_continue: bool,
    /// `add_user_agent`: `x-envoy-downstream-service-cluster` and user agent.
    pub add_user_agent: bool,
    /// To what connections may switch, unless a route says otherwise.
    pub upgrades: Vec<Upgrade>,
}

/// `HttpConnectionManager.CodecType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// By the first bytes.
    #[default]
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// `HttpConnectionManager.route_specifier`.
#[derive(Clone, Debug)]
pub enum RouteSource {
    /// `route_config`.
    Inline(Arc<RouteConfiguration>),
    /// `rds`.
    Rds {
        /// `route_config_name`.
        name: Arc<str>,
        /// Where it comes from.
        source: ConfigSource,
    },
}

/// An HTTP filter with its place and name.
#[derive(Clone, Debug)]
pub struct HttpFilter {
    /// The name of this instance.
    pub name: Arc<str>,
    /// Off unless a route's settings switch it on.
    pub is_disabled: bool,
    /// Its configuration.
    pub config: crate::filters::http::Config,
}

/// `ServerHeaderTransformation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// Ours always.
    #[default]
    Overwrite,
    /// Ours where there is none.
    AppendIfAbsent,
    /// Leave it.
    PassThrough,
}

/// `HttpProtocolOptions.HeadersWithUnderscoresAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscoreAction {
    /// Allow.
    #[default]
    Allow,
    /// Answer 400 (HTTP/1) or reset (HTTP/2).
    RejectRequest,
    /// Drop the header.
    DropHeader,
}

/// `PathWithEscapedSlashesAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Leave.
    #[default]
    KeepUnchanged,
    /// 400.
    RejectRequest,
    /// Unescape and redirect with 307.
    UnescapeAndRedirect,
    /// Unescape and go on.
    UnescapeAndForward,
}

/// `strip_matching_host_port`, `strip_port_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// Leave.
    #[default]
    No,
    /// When it is the listener's port.
    Matching,
    /// Always.
    Any,
}

/// `envoy.config.core.v3.Http1ProtocolOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http1Options {
    /// Accept HTTP/1.0 requests.
    pub accept_http_10: bool,
    /// Host for HTTP/1.0 requests without one.
    pub default_host_for_http_10: Option<Arc<str>>,
    /// `header_key_format`.
    pub header_case: HeaderCase,
    /// Pass trailers on.
    pub enable_trailers: bool,
    /// Allow both `content-length` and `transfer-encoding: chunked` (the former is removed).
    pub allow_chunked_length: bool,
    /// `allow_absolute_url`, default true.
    pub disallow_absolute_url: bool,
}

/// `Http1ProtocolOptions.HeaderKeyFormat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// Lower case.
    #[default]
    Lower,
    /// `proper_case_words`.
    ProperCase,
    /// `preserve_case` formatter.
    Preserve,
}

/// `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Options {
    /// Default 4096.
    pub hpack_table_size: u32,
    /// Default 1024 (Envoy 1.40).
    pub max_concurrent_streams: u32,
    /// Default 16 MiB (Envoy 1.40).
    pub initial_stream_window_size: u32,
    /// Default 24 MiB (Envoy 1.40).
    pub initial_connection_window_size: u32,
    /// Allow CONNECT with `:protocol`.
    pub allow_connect: bool,
    /// PINGs.
    pub keepalive: Option<Http2Keepalive>,
    /// `override_stream_error_on_invalid_http_message`.
    pub stream_error_on_invalid_http_message: bool,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 16 * 1024 * 1024,
            initial_connection_window_size: 24 * 1024 * 1024,
            allow_connect: false,
            keepalive: None,
            stream_error_on_invalid_http_message: false,
        }
    }
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Keepalive {
    /// Between PINGs; none sends only on idle resumption.
    pub interval: Option<Duration>,
    /// Without answer within this, the connection is closed.
    pub timeout: Duration,
    /// Percent of the interval added at random. Default 15.
    pub interval_jitter_percent: f64,
    /// PING before the first request after this idle time.
    pub connection_idle_interval: Option<Duration>,
}
