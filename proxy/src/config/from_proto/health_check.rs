//! `HealthCheck`, `Endpoint.HealthCheckConfig`.

use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, uri::PathAndQuery};
use outrigger_proto::envoy::{
    config::{
        core::v3::{
            HeaderValueOption, HealthCheck as Proto, RequestMethod, TypedExtensionConfig,
            health_check::{
                GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload as PayloadProto,
                TcpHealthCheck, payload::Payload,
            },
        },
        endpoint::v3::endpoint::HealthCheckConfig,
    },
    extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink,
    r#type::v3::{CodecClientType, Int64Range},
};
use outrigger_proto::google::protobuf::UInt64Value;
use prost::Name;

use super::{header, matcher, outlier_detection::positive};
use crate::{
    config::{
        cluster::HealthCheckTarget,
        header::HeaderAddition,
        health_check::{
            CheckHeaders, Checker, GrpcCheck, HealthCheck, HttpCheck, Intervals, TcpCheck,
        },
    },
    convert::{Cx, bool_or, u32_or},
    unsupported,
};

/// Envoy's default of `no_traffic_interval`.
const NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);
/// Envoy's default of `response_buffer_size`.
const RESPONSE_BUFFER_SIZE: u64 = 1024;

/// The one health check of a cluster.
pub(super) fn health_check(cx: &Cx<'_>, checks: Vec<Proto>) -> Option<Arc<HealthCheck>> {
    let list = cx.field("health_checks");
    if checks.len() > 1 {
        list.index(1).error("Multiple health checks not supported");
    }
    let check = checks.into_iter().next()?;
    one(&list.index(0), check).map(Arc::new)
}

#[expect(
    clippy::too_many_lines,
    reason = "one message taken apart: its fields are the length"
)]
fn one(cx: &Cx<'_>, proto: Proto) -> Option<HealthCheck> {
    cx.converts::<Proto>();
    cx.refuses::<Proto>(&["custom_health_check"]);
    let raw = Arc::new(proto.clone());
    #[expect(deprecated, reason = "Envoy still accepts `event_log_path`")]
    let Proto {
        timeout,
        interval,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent,
        unhealthy_threshold,
        healthy_threshold,
        alt_port,
        reuse_connection,
        no_traffic_interval,
        no_traffic_healthy_interval,
        unhealthy_interval,
        unhealthy_edge_interval,
        healthy_edge_interval,
        event_log_path,
        event_logger,
        event_service,
        always_log_health_check_failures,
        always_log_health_check_success,
        tls_options,
        transport_socket_match_criteria,
        health_checker,
    } = proto;
    unsupported!(
        cx,
        Proto,
        [
            alt_port,
            event_service,
            tls_options,
            transport_socket_match_criteria
        ]
    );
    let interval = cx.required("interval", interval);
    let interval = positive(cx, "interval", interval, NO_TRAFFIC_INTERVAL);
    let unhealthy = positive(cx, "unhealthy_interval", unhealthy_interval, interval);
    let no_traffic = positive(
        cx,
        "no_traffic_interval",
        no_traffic_interval,
        NO_TRAFFIC_INTERVAL,
    );
    let intervals = Intervals {
        healthy: interval,
        unhealthy,
        unhealthy_edge: positive(
            cx,
            "unhealthy_edge_interval",
            unhealthy_edge_interval,
            unhealthy,
        ),
        healthy_edge: positive(cx, "healthy_edge_interval", healthy_edge_interval, interval),
        no_traffic,
        no_traffic_healthy: positive(
            cx,
            "no_traffic_healthy_interval",
            no_traffic_healthy_interval,
            no_traffic,
        ),
        initial_jitter: cx.duration_or("initial_jitter", initial_jitter, Duration::ZERO),
        jitter: cx.duration_or("interval_jitter", interval_jitter, Duration::ZERO),
        jitter_percent: interval_jitter_percent,
    };
    let timeout = cx.required("timeout", timeout);
    let timeout = positive(cx, "timeout", timeout, interval);
    let unhealthy_threshold = cx.required("unhealthy_threshold", unhealthy_threshold);
    let healthy_threshold = cx.required("healthy_threshold", healthy_threshold);
    let event_logs = event_logs(cx, event_log_path, event_logger);
    let checker = match health_checker {
        Some(HealthChecker::HttpHealthCheck(proto)) => {
            Checker::Http(Box::new(http_check(&cx.field("http_health_check"), proto)?))
        }
        Some(HealthChecker::TcpHealthCheck(proto)) => {
            Checker::Tcp(tcp_check(&cx.field("tcp_health_check"), proto))
        }
        Some(HealthChecker::GrpcHealthCheck(proto)) => {
            Checker::Grpc(grpc_check(&cx.field("grpc_health_check"), proto))
        }
        Some(HealthChecker::CustomHealthCheck(_)) => {
            cx.field("custom_health_check").error("not supported");
            return None;
        }
        None => {
            cx.field("health_checker").error("value is required");
            return None;
        }
    };
    Some(HealthCheck {
        timeout,
        intervals,
        unhealthy_threshold: u32_or(unhealthy_threshold, 1),
        healthy_threshold: u32_or(healthy_threshold, 1),
        reuse_connection: bool_or(reuse_connection, true),
        checker,
        event_logs,
        always_log_failures: always_log_health_check_failures,
        always_log_successes: always_log_health_check_success,
        raw,
    })
}

/// Files: by path, or as sinks.
fn event_logs(cx: &Cx<'_>, path: String, sinks: Vec<TypedExtensionConfig>) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if !path.is_empty() {
        paths.push(PathBuf::from(path));
    }
    let list = cx.field("event_logger");
    for (index, sink) in sinks.into_iter().enumerate() {
        let at = list.index(index);
        at.converts::<TypedExtensionConfig>();
        let TypedExtensionConfig {
            name: _,
            typed_config,
        } = sink;
        let at = at.field("typed_config");
        let Some(any) = typed_config else {
            at.error("value is required");
            continue;
        };
        if any.type_url != HealthCheckEventFileSink::type_url() {
            at.error(format!("`{}` is not a supported event sink", any.type_url));
            continue;
        }
        at.converts::<HealthCheckEventFileSink>();
        if let Some(HealthCheckEventFileSink { event_log_path }) = at.any(&any) {
            paths.push(PathBuf::from(event_log_path));
        }
    }
    paths
}

fn http_check(cx: &Cx<'_>, proto: HttpHealthCheck) -> Option<HttpCheck> {
    cx.converts::<HttpHealthCheck>();
    let HttpHealthCheck {
        host,
        path,
        send,
        receive,
        response_buffer_size,
        request_headers_to_add,
        request_headers_to_remove,
        expected_statuses,
        retriable_statuses,
        codec_client_type,
        service_name_matcher,
        method,
    } = proto;
    if !host.is_empty() {
        let _checked = cx.field("host").header_value(&host);
    }
    let parsed = match PathAndQuery::try_from(path.as_str()) {
        Ok(parsed) if path.starts_with('/') => Some(parsed),
        _ => {
            cx.field("path")
                .error(format!("`{path}` is not a path: it must begin with `/`"));
            None
        }
    };
    cx.partly::<HttpHealthCheck>("codec_client_type", "HTTP1, HTTP2");
    let is_http2 = match cx.enumeration("codec_client_type", codec_client_type)? {
        CodecClientType::Http1 => false,
        CodecClientType::Http2 => true,
        CodecClientType::Http3 => {
            cx.field("codec_client_type")
                .error("HTTP3 is not supported");
            return None;
        }
    };
    let method = http_method(cx, method)?;
    let send = send
        .map(|proto| payload(&cx.field("send"), proto))
        .unwrap_or_default();
    let has_body = matches!(
        method,
        Method::POST | Method::PUT | Method::PATCH | Method::OPTIONS
    );
    if !send.is_empty() && !has_body {
        cx.field("send").error(format!(
            "{method} method does not support request body payload"
        ));
    }
    let mut expected = statuses(&cx.field("expected_statuses"), expected_statuses);
    if expected.is_empty() {
        expected.push(200..201);
    }
    let service_name = match service_name_matcher {
        Some(proto) => Some(matcher::string_matcher(
            &cx.field("service_name_matcher"),
            proto,
        )?),
        None => None,
    };
    Some(HttpCheck {
        host: Arc::from(host),
        path: parsed?,
        method,
        send,
        receive: payloads(&cx.field("receive"), receive),
        response_buffer_size: match response_buffer_size {
            None => Some(RESPONSE_BUFFER_SIZE),
            Some(UInt64Value { value: 0 }) => None,
            Some(UInt64Value { value }) => Some(value),
        },
        headers: headers(
            cx,
            "request",
            request_headers_to_add,
            request_headers_to_remove,
        ),
        expected,
        retriable: statuses(&cx.field("retriable_statuses"), retriable_statuses),
        is_http2,
        service_name,
    })
}

fn http_method(cx: &Cx<'_>, method: i32) -> Option<Method> {
    Some(match cx.enumeration("method", method)? {
        RequestMethod::MethodUnspecified | RequestMethod::Get => Method::GET,
        RequestMethod::Head => Method::HEAD,
        RequestMethod::Post => Method::POST,
        RequestMethod::Put => Method::PUT,
        RequestMethod::Delete => Method::DELETE,
        RequestMethod::Options => Method::OPTIONS,
        RequestMethod::Trace => Method::TRACE,
        RequestMethod::Patch => Method::PATCH,
        RequestMethod::Connect => {
            cx.field("method").error("CONNECT is not a health check");
            return None;
        }
    })
}

fn grpc_check(cx: &Cx<'_>, proto: GrpcHealthCheck) -> GrpcCheck {
    cx.converts::<GrpcHealthCheck>();
    let GrpcHealthCheck {
        service_name,
        authority,
        initial_metadata,
    } = proto;
    if !authority.is_empty() {
        let _checked = cx.field("authority").header_value(&authority);
    }
    let at = cx.field("initial_metadata");
    let add = initial_metadata.into_iter().enumerate();
    let add = add.filter_map(|(index, option)| {
        let at = at.index(index);
        plain(&at, header::addition(&at, option)?)
    });
    GrpcCheck {
        service_name: Arc::from(service_name),
        authority: Arc::from(authority),
        metadata: CheckHeaders {
            remove: Vec::new(),
            add: add.collect(),
        },
    }
}

fn tcp_check(cx: &Cx<'_>, proto: TcpHealthCheck) -> TcpCheck {
    cx.converts::<TcpHealthCheck>();
    let TcpHealthCheck {
        send,
        receive,
        proxy_protocol_config,
    } = proto;
    unsupported!(cx, TcpHealthCheck, [proxy_protocol_config]);
    TcpCheck {
        send: send
            .map(|proto| payload(&cx.field("send"), proto))
            .unwrap_or_default(),
        receive: payloads(&cx.field("receive"), receive),
    }
}

fn payloads(cx: &Cx<'_>, protos: Vec<PayloadProto>) -> Vec<Bytes> {
    let protos = protos.into_iter().enumerate();
    protos
        .map(|(index, proto)| payload(&cx.index(index), proto))
        .collect()
}

/// Text is hexadecimal.
fn payload(cx: &Cx<'_>, proto: PayloadProto) -> Bytes {
    cx.converts::<PayloadProto>();
    let PayloadProto { payload } = proto;
    match payload {
        Some(Payload::Binary(bytes)) => bytes.into(),
        Some(Payload::Text(text)) => match hex(&text) {
            Some(bytes) => bytes.into(),
            None => {
                cx.field("text")
                    .error(format!("invalid hex string '{text}'"));
                Bytes::new()
            }
        },
        None => {
            cx.field("payload").error("value is required");
            Bytes::new()
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<Vec<u8>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    (rest.is_empty() && !pairs.is_empty())
        .then(|| pairs.iter().map(|[high, low]| high * 16 + low).collect())
}

fn statuses(cx: &Cx<'_>, ranges: Vec<Int64Range>) -> Vec<Range<u16>> {
    let mut converted = Vec::new();
    for (index, range) in ranges.into_iter().enumerate() {
        let at = cx.index(index);
        at.converts::<Int64Range>();
        let Int64Range { start, end } = range;
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(start), Ok(end)) if 100 <= start && start < end && end <= 600 => {
                converted.push(start..end);
            }
            _ => at.error(format!(
                "Invalid http status range: [{start}, {end}) is not within [100, 600)"
            )),
        }
    }
    converted
}

fn headers(
    cx: &Cx<'_>,
    direction: &str,
    add: Vec<HeaderValueOption>,
    remove: Vec<String>,
) -> CheckHeaders {
    let mutations = header::mutations(cx, direction, add, remove);
    let field = format!("{direction}_headers_to_add");
    let list = cx.field(&field);
    let add = mutations.add.into_iter().enumerate();
    CheckHeaders {
        remove: mutations.remove,
        add: add
            .filter_map(|(index, addition)| plain(&list.index(index), addition))
            .collect(),
    }
}

fn plain(
    cx: &Cx<'_>,
    addition: HeaderAddition,
) -> Option<(
    http::HeaderName,
    HeaderValue,
    crate::config::header::AppendAction,
)> {
    let HeaderAddition {
        name,
        value,
        action,
        keep_empty,
    } = addition;
    let at = cx.field("header");
    let at = at.field("value");
    let Some(text) = value.literal() else {
        at.error("command operators are not supported in health checks");
        return None;
    };
    if text.is_empty() && !keep_empty {
        return None;
    }
    Some((name, at.header_value(text)?, action))
}

/// Where and as whom one endpoint is checked.
pub(super) fn target(cx: &Cx<'_>, proto: HealthCheckConfig) -> HealthCheckTarget {
    cx.converts::<HealthCheckConfig>();
    let HealthCheckConfig {
        port_value,
        hostname,
        address,
        disable_active_health_check,
    } = proto;
    let port = u16::try_from(port_value).unwrap_or_else(|_| {
        cx.field("port_value")
            .error("value must be less than or equal to 65535");
        0
    });
    if !hostname.is_empty() {
        let _checked = cx.field("hostname").header_value(&hostname);
    }
    HealthCheckTarget {
        address: address.and_then(|proto| cx.field("address").numeric_address(proto)),
        port: (port != 0).then_some(port),
        hostname: Arc::from(hostname),
        is_disabled: disable_active_health_check,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_hexadecimal() {
        assert_eq!(hex("00fF10").unwrap(), [0, 255, 16]);
        assert!(hex("0").is_none() && hex("xy").is_none() && hex("").is_none());
    }
}
