//! HTTP protocol options of both ends.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_proto::{
    envoy::{
        config::core::v3::{
            Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions, KeepaliveSettings,
            http_protocol_options::HeadersWithUnderscoresAction,
            http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat},
        },
        extensions::upstreams::http::v3::{
            HttpProtocolOptions as UpstreamOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
                explicit_http_config::ProtocolConfig,
            },
        },
    },
    google::protobuf::Any,
};

use super::hash_policy;
use crate::{
    config::{
        cluster::UpstreamProtocol,
        hash_policy::HashPolicy,
        http_connection_manager::{
            HeaderCase, Http1Options, Http2Keepalive, Http2Options, UnderscoreAction,
        },
    },
    convert::{Cx, bool_or, u32_or},
    no_effect, unsupported,
};

/// The key of `typed_extension_protocol_options`.
const UPSTREAM_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Envoy's default of both ends' `idle_timeout`.
/// Envoy's default limit of headers in a head.
pub(super) const MAX_HEADERS: u32 = 100;
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What `HttpProtocolOptions` says for either end.
#[derive(Default)]
pub(super) struct Common {
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_headers_count: Option<u32>,
    pub(super) max_response_headers_kb: Option<u32>,
    pub(super) max_stream_duration: Option<Duration>,
    pub(super) underscores: UnderscoreAction,
    pub(super) max_requests: Option<u32>,
}

pub(super) fn common(cx: &Cx<'_>, options: Option<HttpProtocolOptions>) -> Common {
    cx.converts::<HttpProtocolOptions>();
    let HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = options.unwrap_or_default();
    unsupported!(cx, HttpProtocolOptions, [max_connection_duration_jitter]);
    cx.partly::<HttpProtocolOptions>("max_response_headers_kb", "of clusters");
    let max_response_headers_kb = max_response_headers_kb.map(|wrapper| wrapper.value);
    if max_response_headers_kb.is_some_and(|max| !(1..=8192).contains(&max)) {
        cx.field("max_response_headers_kb")
            .error("value must be inside range (0, 8192]");
    }
    let underscores = match cx.enumeration(
        "headers_with_underscores_action",
        headers_with_underscores_action,
    ) {
        Some(HeadersWithUnderscoresAction::RejectRequest) => UnderscoreAction::RejectRequest,
        Some(HeadersWithUnderscoresAction::DropHeader) => UnderscoreAction::DropHeader,
        Some(HeadersWithUnderscoresAction::Allow) | None => UnderscoreAction::Allow,
    };
    if max_headers_count.is_some_and(|count| count.value == 0) {
        cx.field("max_headers_count")
            .error("value must be greater than or equal to 1");
    }
    Common {
        idle_timeout: cx.optional_duration("idle_timeout", idle_timeout),
        max_connection_duration: cx
            .optional_duration("max_connection_duration", max_connection_duration)
            .filter(|duration| !duration.is_zero()),
        max_headers_count: max_headers_count.map(|wrapper| wrapper.value),
        max_response_headers_kb,
        max_stream_duration: cx
            .optional_duration("max_stream_duration", max_stream_duration)
            .filter(|duration| !duration.is_zero()),
        underscores,
        max_requests: max_requests_per_connection.map(|wrapper| wrapper.value),
    }
}

pub(super) fn http1(cx: &Cx<'_>, options: Option<Http1ProtocolOptions>) -> Http1Options {
    cx.converts::<Http1ProtocolOptions>();
    #[expect(deprecated, reason = "named to be refused")]
    let Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = options.unwrap_or_default();
    unsupported!(
        cx,
        Http1ProtocolOptions,
        [
            override_stream_error_on_invalid_http_message,
            send_fully_qualified_url,
            allow_chunked_length,
            ignore_http_11_upgrade
        ]
    );
    no_effect!(
        cx,
        Http1ProtocolOptions,
        "chooses between two parsers of Envoy's",
        [use_balsa_parser]
    );
    no_effect!(
        cx,
        Http1ProtocolOptions,
        "every method that RFC 9110 allows is accepted",
        [allow_custom_methods]
    );
    Http1Options {
        accept_http_10,
        default_host_for_http_10: (!default_host_for_http_10.is_empty())
            .then(|| Arc::from(default_host_for_http_10)),
        header_case: header_key_format.map_or(HeaderCase::Lower, |format| {
            header_case(&cx.field("header_key_format"), format)
        }),
        enable_trailers,
        allow_chunked_length,
        disallow_absolute_url: !bool_or(allow_absolute_url, true),
    }
}

fn header_case(cx: &Cx<'_>, format: HeaderKeyFormat) -> HeaderCase {
    cx.converts::<HeaderKeyFormat>();
    cx.refuses::<HeaderKeyFormat>(&["stateful_formatter"]);
    match format.header_format {
        Some(HeaderFormat::ProperCaseWords(_)) => HeaderCase::ProperCase,
        Some(HeaderFormat::StatefulFormatter(config)) => {
            cx.field("stateful_formatter")
                .error(format!("`{}` is not supported", config.name));
            HeaderCase::Lower
        }
        None => HeaderCase::Lower,
    }
}

pub(super) fn http2(cx: &Cx<'_>, options: Option<Http2ProtocolOptions>) -> Http2Options {
    cx.converts::<Http2ProtocolOptions>();
    #[expect(deprecated, reason = "named to be refused or without effect")]
    let Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = options.unwrap_or_default();
    unsupported!(
        cx,
        Http2ProtocolOptions,
        [
            allow_connect,
            allow_metadata,
            custom_settings_parameters,
            max_metadata_size,
            enable_huffman_encoding,
            max_header_field_size_kb,
            disallow_obs_text
        ]
    );
    no_effect!(
        cx,
        Http2ProtocolOptions,
        "the HTTP/2 library has its own flood limits, which are always on",
        [
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            stream_reset_burst,
            stream_reset_rate
        ]
    );
    no_effect!(
        cx,
        Http2ProtocolOptions,
        "chooses between two codecs of Envoy's",
        [use_oghttp2_codec]
    );
    no_effect!(
        cx,
        Http2ProtocolOptions,
        "an invalid message always resets its stream only",
        [
            stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message
        ]
    );
    let defaults = Http2Options::default();
    let window = |field: &str, value, default| {
        let value = u32_or(value, default);
        if !(65_535..=2_147_483_647).contains(&value) {
            cx.field(field)
                .error("value must be inside range [65535, 2147483647]");
        }
        value
    };
    let streams = u32_or(max_concurrent_streams, defaults.max_concurrent_streams);
    if !(1..=2_147_483_647).contains(&streams) {
        cx.field("max_concurrent_streams")
            .error("value must be inside range [1, 2147483647]");
    }
    Http2Options {
        hpack_table_size: u32_or(hpack_table_size, defaults.hpack_table_size),
        max_concurrent_streams: streams,
        initial_stream_window_size: window(
            "initial_stream_window_size",
            initial_stream_window_size,
            defaults.initial_stream_window_size,
        ),
        initial_connection_window_size: window(
            "initial_connection_window_size",
            initial_connection_window_size,
            defaults.initial_connection_window_size,
        ),
        allow_connect: false,
        keepalive: connection_keepalive
            .and_then(|proto| keepalive(&cx.field("connection_keepalive"), proto)),
        stream_error_on_invalid_http_message: bool_or(
            override_stream_error_on_invalid_http_message,
            stream_error_on_invalid_http_messaging,
        ),
    }
}

fn keepalive(cx: &Cx<'_>, settings: KeepaliveSettings) -> Option<Http2Keepalive> {
    cx.converts::<KeepaliveSettings>();
    let KeepaliveSettings {
        interval,
        timeout,
        interval_jitter,
        connection_idle_interval,
    } = settings;
    unsupported!(cx, KeepaliveSettings, [connection_idle_interval]);
    let timeout = cx.required("timeout", timeout)?;
    Some(Http2Keepalive {
        interval: cx.optional_duration("interval", interval),
        timeout: cx.field("timeout").duration(timeout)?,
        interval_jitter_percent: interval_jitter.map_or(15.0, |percent| percent.value),
        connection_idle_interval: cx
            .optional_duration("connection_idle_interval", connection_idle_interval),
    })
}

/// The cluster's own fields, deprecated in favour of the typed options.
pub(super) struct Deprecated {
    pub(super) common: Option<HttpProtocolOptions>,
    pub(super) http1: Option<Http1ProtocolOptions>,
    pub(super) http2: Option<Http2ProtocolOptions>,
    pub(super) downstream_selected: bool,
}

/// What is spoken upstream and for how long.
pub(super) struct Upstream {
    pub(super) protocol: UpstreamProtocol,
    pub(super) idle_timeout: Duration,
    pub(super) max_requests: Option<u32>,
    pub(super) max_stream_duration: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_headers_count: Option<u32>,
    pub(super) max_response_headers_kb: Option<u32>,
    pub(super) hash_policy: Vec<HashPolicy>,
}

/// Typed options if there are any, else the cluster's own fields, as Envoy chooses.
pub(super) fn upstream(
    cx: &Cx<'_>,
    deprecated: Deprecated,
    typed: HashMap<String, Any>,
) -> Option<Upstream> {
    let at = cx.field("typed_extension_protocol_options");
    let mut options = None;
    // Out of a map they come in any order; errors are told in one.
    let mut typed = typed.into_iter().collect::<Vec<_>>();
    typed.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (key, any) in &typed {
        let entry = at.key(key);
        if key == UPSTREAM_OPTIONS {
            options = Some(entry.any::<UpstreamOptions>(any)?);
        } else {
            entry.error("not supported");
        }
    }
    if let Some(options) = options {
        return typed_upstream(&at.key(UPSTREAM_OPTIONS), options);
    }
    let common = common(&cx.field("common_http_protocol_options"), deprecated.common);
    let has_http2 = deprecated.http2.is_some();
    if has_http2 && deprecated.http1.is_some() && !deprecated.downstream_selected {
        cx.field("http2_protocol_options").error(
            "Both HTTP1 and HTTP2 options may only be configured with non-default 'protocol_selection' values",
        );
    }
    let http1 = http1(&cx.field("http_protocol_options"), deprecated.http1);
    let http2 = http2(&cx.field("http2_protocol_options"), deprecated.http2);
    let protocol = match (deprecated.downstream_selected, has_http2) {
        (true, _) => UpstreamProtocol::Downstream { http1, http2 },
        (false, true) => UpstreamProtocol::Http2(http2),
        (false, false) => UpstreamProtocol::Http1(http1),
    };
    Some(with_common(protocol, &common))
}

fn with_common(protocol: UpstreamProtocol, common: &Common) -> Upstream {
    Upstream {
        protocol,
        idle_timeout: common.idle_timeout.unwrap_or(IDLE_TIMEOUT),
        max_requests: common.max_requests,
        max_stream_duration: common.max_stream_duration,
        max_connection_duration: common.max_connection_duration,
        max_headers_count: common.max_headers_count,
        max_response_headers_kb: common.max_response_headers_kb,
        hash_policy: Vec::new(),
    }
}

fn typed_upstream(cx: &Cx<'_>, options: UpstreamOptions) -> Option<Upstream> {
    cx.converts::<UpstreamOptions>();
    cx.refuses::<UpstreamOptions>(&["auto_config"]);
    let UpstreamOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = options;
    unsupported!(
        cx,
        UpstreamOptions,
        [
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            retry_policy
        ]
    );
    let common = common(
        &cx.field("common_http_protocol_options"),
        common_http_protocol_options,
    );
    let protocol = match upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => {
            explicit(&cx.field("explicit_http_config"), config)?
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
            let cx = cx.field("use_downstream_protocol_config");
            cx.converts::<UseDownstreamHttpConfig>();
            let UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = config;
            unsupported!(cx, UseDownstreamHttpConfig, [http3_protocol_options]);
            UpstreamProtocol::Downstream {
                http1: http1(&cx.field("http_protocol_options"), http_protocol_options),
                http2: http2(&cx.field("http2_protocol_options"), http2_protocol_options),
            }
        }
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            cx.field("auto_config")
                .error("not supported: it needs TLS with ALPN to the upstream");
            return None;
        }
        None => {
            cx.field("upstream_protocol_options")
                .error("value is required");
            return None;
        }
    };
    Some(Upstream {
        hash_policy: hash_policy::policies(&cx.field("hash_policy"), hash_policy),
        ..with_common(protocol, &common)
    })
}

fn explicit(cx: &Cx<'_>, config: ExplicitHttpConfig) -> Option<UpstreamProtocol> {
    cx.converts::<ExplicitHttpConfig>();
    cx.refuses::<ExplicitHttpConfig>(&["http3_protocol_options"]);
    match config.protocol_config {
        Some(ProtocolConfig::HttpProtocolOptions(options)) => Some(UpstreamProtocol::Http1(http1(
            &cx.field("http_protocol_options"),
            Some(options),
        ))),
        Some(ProtocolConfig::Http2ProtocolOptions(options)) => Some(UpstreamProtocol::Http2(
            http2(&cx.field("http2_protocol_options"), Some(options)),
        )),
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            cx.field("http3_protocol_options").error("not supported");
            None
        }
        None => {
            cx.field("protocol_config").error("value is required");
            None
        }
    }
}
