//! `HttpConnectionManager`.

use std::{sync::Arc, time::Duration};

use outrigger_proto::{
    envoy::{
        config::core::v3::{
            SchemeHeaderTransformation, scheme_header_transformation::Transformation,
        },
        extensions::{
            filters::{
                http::router::v3::Router,
                network::http_connection_manager::v3::{
                    HttpConnectionManager as Proto, Rds, RequestIdExtension,
                    http_connection_manager as hcm,
                },
            },
            request_id::uuid::v3::UuidRequestIdConfig,
        },
    },
    google::protobuf::{Any, BoolValue},
};
use prost::Name;

use super::{access_log, http_filter, http_protocol, route, source, tracing, upgrade};
use crate::{
    config::http_connection_manager::{
        Codec, EscapedSlashes, HttpConnectionManager, RouteSource, ServerHeader, StripPort,
    },
    convert::{Cx, bool_or, u32_or},
    no_effect, unsupported,
};

/// Envoy's defaults.
const MAX_REQUEST_HEADERS_KB: u32 = 60;
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[expect(
    clippy::too_many_lines,
    reason = "one message taken apart: its fields are the length"
)]
pub(super) fn http_connection_manager(cx: &Cx<'_>, proto: Proto) -> Option<HttpConnectionManager> {
    cx.converts::<Proto>();
    cx.refuses::<Proto>(&["scoped_routes"]);
    cx.partly::<Proto>("codec_type", "AUTO, HTTP1, HTTP2");
    #[expect(deprecated, reason = "named to be refused")]
    let Proto {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration,
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation,
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config,
        skip_xff_append,
        via,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details,
        forward_client_cert_matcher,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload,
        add_proxy_protocol_connection_state,
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = proto;
    unsupported!(
        cx,
        Proto,
        [
            http1_safe_max_connection_duration,
            http3_protocol_options,
            stream_flush_timeout,
            drain_timeout_jitter,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            forward_client_cert_details,
            set_current_client_cert_details,
            forward_client_cert_matcher,
            proxy_100_continue,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            local_reply_config,
            path_normalization_options,
            proxy_status_config,
            typed_header_validation_config,
            append_local_overload,
            forward_proto_config
        ]
    );
    no_effect!(
        cx,
        Proto,
        "there is no PROXY protocol listener filter yet",
        [add_proxy_protocol_connection_state]
    );
    let common = http_protocol::common(
        &cx.field("common_http_protocol_options"),
        common_http_protocol_options,
    );
    if common.max_response_headers_kb.is_some() {
        cx.field("common_http_protocol_options")
            .field("max_response_headers_kb")
            .error("not supported: only clusters have it");
    }
    let routes = route_source(cx, route_specifier);
    let filters = http_filter::chain(&cx.field("http_filters"), http_filters, router);
    if let Some(RouteSource::Inline(routes)) = &routes {
        http_filter::check_settings(&cx.field("route_config"), &filters, routes);
    }
    let max_request_headers_kb = u32_or(max_request_headers_kb, MAX_REQUEST_HEADERS_KB);
    if !(1..=8192).contains(&max_request_headers_kb) {
        cx.field("max_request_headers_kb")
            .error("value must be inside range (0, 8192]");
    }
    let strip_port = match (strip_matching_host_port, strip_port_mode) {
        (true, Some(hcm::StripPortMode::StripAnyHostPort(true))) => {
            cx.field("strip_any_host_port")
                .error("must not be set together with strip_matching_host_port");
            StripPort::Any
        }
        (_, Some(hcm::StripPortMode::StripAnyHostPort(true))) => StripPort::Any,
        (true, _) => StripPort::Matching,
        (false, _) => StripPort::No,
    };
    let internal_cidrs = internal_address_config
        .map(|config| internal(&cx.field("internal_address_config"), config));
    Some(HttpConnectionManager {
        stat_prefix: cx.non_empty("stat_prefix", &stat_prefix),
        codec: codec(cx, codec_type)?,
        routes: routes?,
        filters,
        server_name: if server_name.is_empty() {
            http::HeaderValue::from_static("envoy")
        } else {
            cx.field("server_name").header_value(&server_name)?
        },
        server_header: match cx
            .enumeration("server_header_transformation", server_header_transformation)?
        {
            hcm::ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite,
            hcm::ServerHeaderTransformation::AppendIfAbsent => ServerHeader::AppendIfAbsent,
            hcm::ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
        },
        max_request_headers_kb,
        max_headers_count: common
            .max_headers_count
            .unwrap_or(http_protocol::MAX_HEADERS),
        idle_timeout: common.idle_timeout.unwrap_or(http_protocol::IDLE_TIMEOUT),
        max_connection_duration: common.max_connection_duration,
        max_stream_duration: common.max_stream_duration,
        max_requests_per_connection: common.max_requests.unwrap_or(0),
        headers_with_underscores: common.underscores,
        stream_idle_timeout: cx.duration_or(
            "stream_idle_timeout",
            stream_idle_timeout,
            STREAM_IDLE_TIMEOUT,
        ),
        request_timeout: cx.duration_or("request_timeout", request_timeout, Duration::ZERO),
        request_headers_timeout: cx.duration_or(
            "request_headers_timeout",
            request_headers_timeout,
            Duration::ZERO,
        ),
        drain_timeout: cx.duration_or("drain_timeout", drain_timeout, DRAIN_TIMEOUT),
        delayed_close_timeout: cx.duration_or(
            "delayed_close_timeout",
            delayed_close_timeout,
            DELAYED_CLOSE_TIMEOUT,
        ),
        http1: http_protocol::http1(&cx.field("http_protocol_options"), http_protocol_options),
        http2: http_protocol::http2(&cx.field("http2_protocol_options"), http2_protocol_options),
        access_log: access_log::access_logs(&cx.field("access_log"), access_log),
        tracing: tracing
            .and_then(|proto| tracing::tracing(&cx.field("tracing"), proto))
            .map(Arc::new),
        use_remote_address: bool_or(use_remote_address, false),
        xff_num_trusted_hops,
        skip_xff_append,
        internal_cidrs,
        via: if via.is_empty() {
            None
        } else {
            Some(cx.field("via").header_value(&via)?)
        },
        generate_request_id: bool_or(generate_request_id, true),
        preserve_external_request_id,
        always_set_request_id_in_response,
        pack_trace_reason: request_id(&cx.field("request_id_extension"), request_id_extension),
        normalize_path: bool_or(normalize_path, false),
        merge_slashes,
        escaped_slashes: escaped_slashes(cx, path_with_escaped_slashes_action)?,
        strip_port,
        strip_trailing_host_dot,
        append_x_forwarded_port,
        scheme_overwrite: scheme_header_transformation
            .and_then(|proto| scheme(&cx.field("scheme_header_transformation"), proto)),
        stream_error_on_invalid_http_message: bool_or(stream_error_on_invalid_http_message, false),
        proxy_100_continue,
        add_user_agent: bool_or(add_user_agent, false),
        upgrades: upgrade::upgrades(&cx.field("upgrade_configs"), upgrade_configs),
    })
}

fn codec(cx: &Cx<'_>, codec: i32) -> Option<Codec> {
    match cx.enumeration("codec_type", codec)? {
        hcm::CodecType::Auto => Some(Codec::Auto),
        hcm::CodecType::Http1 => Some(Codec::Http1),
        hcm::CodecType::Http2 => Some(Codec::Http2),
        hcm::CodecType::Http3 => {
            cx.field("codec_type").error("HTTP3 is not supported");
            None
        }
    }
}

fn escaped_slashes(cx: &Cx<'_>, action: i32) -> Option<EscapedSlashes> {
    Some(
        match cx.enumeration("path_with_escaped_slashes_action", action)? {
            hcm::PathWithEscapedSlashesAction::ImplementationSpecificDefault
            | hcm::PathWithEscapedSlashesAction::KeepUnchanged => EscapedSlashes::KeepUnchanged,
            hcm::PathWithEscapedSlashesAction::RejectRequest => EscapedSlashes::RejectRequest,
            hcm::PathWithEscapedSlashesAction::UnescapeAndRedirect => {
                EscapedSlashes::UnescapeAndRedirect
            }
            hcm::PathWithEscapedSlashesAction::UnescapeAndForward => {
                EscapedSlashes::UnescapeAndForward
            }
        },
    )
}

fn scheme(cx: &Cx<'_>, proto: SchemeHeaderTransformation) -> Option<http::uri::Scheme> {
    cx.converts::<SchemeHeaderTransformation>();
    let SchemeHeaderTransformation {
        match_upstream,
        transformation,
    } = proto;
    unsupported!(cx, SchemeHeaderTransformation, [match_upstream]);
    let Transformation::SchemeToOverwrite(scheme) = transformation?;
    match scheme.as_str() {
        "http" => Some(http::uri::Scheme::HTTP),
        "https" => Some(http::uri::Scheme::HTTPS),
        _ => {
            cx.field("scheme_to_overwrite")
                .error("value must be in list [http, https]");
            None
        }
    }
}

fn internal(cx: &Cx<'_>, config: hcm::InternalAddressConfig) -> Vec<(std::net::IpAddr, u8)> {
    cx.converts::<hcm::InternalAddressConfig>();
    let hcm::InternalAddressConfig {
        unix_sockets,
        cidr_ranges,
    } = config;
    no_effect!(
        cx,
        hcm::InternalAddressConfig,
        "there are no listeners on Unix sockets, which are refused",
        [unix_sockets]
    );
    let ranges = cx.field("cidr_ranges");
    cidr_ranges
        .into_iter()
        .enumerate()
        .filter_map(|(index, range)| ranges.index(index).cidr(range))
        .collect()
}

fn request_id(cx: &Cx<'_>, extension: Option<RequestIdExtension>) -> bool {
    cx.converts::<RequestIdExtension>();
    let Some(any) = extension.and_then(|RequestIdExtension { typed_config }| typed_config) else {
        return true;
    };
    let cx = cx.field("typed_config");
    if any.type_url != UuidRequestIdConfig::type_url() {
        cx.error(format!("`{}` is not supported", any.type_url));
        return true;
    }
    let Some(UuidRequestIdConfig {
        pack_trace_reason,
        use_request_id_for_trace_sampling,
    }) = cx.any::<UuidRequestIdConfig>(&any)
    else {
        return true;
    };
    cx.converts::<UuidRequestIdConfig>();
    let use_request_id_for_trace_sampling =
        use_request_id_for_trace_sampling.filter(|BoolValue { value }| !*value);
    unsupported!(cx, UuidRequestIdConfig, [use_request_id_for_trace_sampling]);
    bool_or(pack_trace_reason, true)
}

fn route_source(cx: &Cx<'_>, specifier: Option<hcm::RouteSpecifier>) -> Option<RouteSource> {
    match specifier {
        Some(hcm::RouteSpecifier::RouteConfig(config)) => {
            route::route_configuration(&cx.field("route_config"), config, true)
                .map(|config| RouteSource::Inline(Arc::new(config)))
        }
        Some(hcm::RouteSpecifier::Rds(rds)) => {
            let cx = cx.field("rds");
            cx.converts::<Rds>();
            let Rds {
                config_source,
                route_config_name,
            } = rds;
            let name = cx.non_empty("route_config_name", &route_config_name);
            let source = cx.required("config_source", config_source)?;
            let source = source::config_source(&cx.field("config_source"), source)?;
            Some(RouteSource::Rds { name, source })
        }
        Some(hcm::RouteSpecifier::ScopedRoutes(_)) => {
            cx.field("scoped_routes").error("not supported");
            None
        }
        None => {
            cx.field("route_specifier").error("value is required");
            None
        }
    }
}

/// The filter that ends the chain, if it is this one.
fn router(cx: &Cx<'_>, any: &Any) -> Option<()> {
    if any.type_url != Router::type_url() {
        return None;
    }
    if let Some(router) = cx.any::<Router>(any) {
        check_router(cx, router);
    }
    Some(())
}

/// No setting of the router is supported yet but the defaults.
fn check_router(cx: &Cx<'_>, router: Router) {
    cx.converts::<Router>();
    #[expect(deprecated, reason = "Envoy still accepts start_child_span")]
    let Router {
        dynamic_stats,
        start_child_span,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    } = router;
    // Statistics are always dynamic.
    let dynamic_stats = dynamic_stats.filter(|BoolValue { value }| !*value);
    unsupported!(
        cx,
        Router,
        [
            dynamic_stats,
            start_child_span,
            upstream_log,
            upstream_log_options,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
            reject_connect_request_early_data
        ]
    );
}
