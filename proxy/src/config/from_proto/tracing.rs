//! Tracing of a connection manager and of a route, and the OpenTelemetry tracer.

use std::{sync::Arc, time::Duration};

use outrigger_proto::envoy::{
    config::{
        core::v3::{HeaderValueOption, HttpService, HttpUri, http_uri::HttpUpstreamType},
        route::v3::Tracing as RouteProto,
        trace::v3::{
            OpenTelemetryConfig,
            tracing::{Http, http::ConfigType},
        },
    },
    extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as Proto,
    r#type::{
        tracing::v3::{CustomTag as TagProto, custom_tag},
        v3::{FractionalPercent, Percent, fractional_percent::DenominatorType},
    },
};
use prost::Name;

use super::source;
use crate::{
    config::{
        format::Format,
        tracing::{CustomTag, CustomTagValue, Exporter, OpenTelemetry, RouteTracing, Tracing},
    },
    convert::{Cx, bool_or, u32_or},
    no_effect, unsupported,
};

/// Envoy's defaults.
const MAX_PATH_TAG_LENGTH: u32 = 256;
const SERVICE_NAME: &str = "unknown_service:envoy";
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn tracing(cx: &Cx<'_>, proto: Proto) -> Option<Tracing> {
    cx.converts::<Proto>();
    let Proto {
        client_sampling,
        random_sampling,
        overall_sampling,
        verbose,
        max_path_tag_length,
        custom_tags,
        provider,
        spawn_upstream_span,
        operation,
        upstream_operation,
        no_context_propagation,
    } = proto;
    unsupported!(cx, Proto, [upstream_operation, no_context_propagation]);
    let provider = match provider {
        Some(proto) => Some(provider_of(&cx.field("provider"), proto)?),
        None => None,
    };
    let operation = match operation.as_str() {
        "" => None,
        text => match Format::parse(text) {
            Ok(format) => Some(format),
            Err(reason) => {
                cx.field("operation").error(reason);
                None
            }
        },
    };
    Some(Tracing {
        provider,
        client_sampling: percent(cx, "client_sampling", client_sampling),
        random_sampling: percent(cx, "random_sampling", random_sampling),
        overall_sampling: percent(cx, "overall_sampling", overall_sampling),
        verbose,
        max_path_tag_length: u32_or(max_path_tag_length, MAX_PATH_TAG_LENGTH),
        custom_tags: custom_tags_of(&cx.field("custom_tags"), custom_tags),
        spawn_upstream_span: bool_or(spawn_upstream_span, false),
        operation,
    })
}

pub(super) fn route_tracing(cx: &Cx<'_>, proto: RouteProto) -> Option<RouteTracing> {
    cx.converts::<RouteProto>();
    let RouteProto {
        client_sampling,
        random_sampling,
        overall_sampling,
        custom_tags,
        operation,
        upstream_operation,
    } = proto;
    unsupported!(cx, RouteProto, [operation, upstream_operation]);
    Some(RouteTracing {
        client_sampling: fraction(cx, "client_sampling", client_sampling),
        random_sampling: fraction(cx, "random_sampling", random_sampling),
        overall_sampling: fraction(cx, "overall_sampling", overall_sampling),
        custom_tags: custom_tags_of(&cx.field("custom_tags"), custom_tags),
    })
}

fn percent(cx: &Cx<'_>, field: &str, percent: Option<Percent>) -> f64 {
    match percent {
        None => 100.0,
        Some(Percent { value }) if (0.0..=100.0).contains(&value) => value,
        Some(_) => {
            cx.field(field).error("value must be inside range [0, 100]");
            100.0
        }
    }
}

fn fraction(cx: &Cx<'_>, field: &str, percent: Option<FractionalPercent>) -> Option<f64> {
    let FractionalPercent {
        numerator,
        denominator,
    } = percent?;
    let cx = cx.field(field);
    let denominator = match cx.enumeration("denominator", denominator)? {
        DenominatorType::Hundred => 100.0,
        DenominatorType::TenThousand => 10_000.0,
        DenominatorType::Million => 1_000_000.0,
    };
    Some((f64::from(numerator) * 100.0 / denominator).min(100.0))
}

fn custom_tags_of(cx: &Cx<'_>, tags: Vec<TagProto>) -> Vec<CustomTag> {
    tags.into_iter()
        .enumerate()
        .filter_map(|(index, tag)| custom_tag(&cx.index(index), tag))
        .collect()
}

fn custom_tag(cx: &Cx<'_>, tag: TagProto) -> Option<CustomTag> {
    cx.converts::<TagProto>();
    cx.refuses::<TagProto>(&["environment", "metadata", "value"]);
    let TagProto { tag, r#type } = tag;
    let tag = cx.non_empty("tag", &tag);
    let value = match r#type {
        Some(custom_tag::Type::Literal(custom_tag::Literal { value })) => {
            CustomTagValue::Literal(cx.field("literal").non_empty("value", &value))
        }
        Some(custom_tag::Type::RequestHeader(custom_tag::Header {
            name,
            default_value,
        })) => CustomTagValue::RequestHeader {
            name: cx
                .field("request_header")
                .field("name")
                .header_name(&name)?,
            default: (!default_value.is_empty()).then(|| Arc::from(default_value)),
        },
        Some(custom_tag::Type::Environment(_)) => {
            cx.field("environment").error("not supported");
            return None;
        }
        Some(custom_tag::Type::Metadata(_)) => {
            cx.field("metadata").error("not supported");
            return None;
        }
        Some(custom_tag::Type::Value(_)) => {
            cx.field("value").error("not supported");
            return None;
        }
        None => {
            cx.field("type").error("value is required");
            return None;
        }
    };
    Some(CustomTag { tag, value })
}

fn provider_of(cx: &Cx<'_>, provider: Http) -> Option<OpenTelemetry> {
    cx.converts::<Http>();
    cx.partly::<Http>("typed_config", "OpenTelemetryConfig");
    let Http { name, config_type } = provider;
    no_effect!(cx, Http, "names the provider only", [name]);
    if name.is_empty() {
        cx.field("name")
            .error("value length must be at least 1 characters");
    }
    let at = cx.field("typed_config");
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        at.error("value is required");
        return None;
    };
    if any.type_url != OpenTelemetryConfig::type_url() {
        at.error(format!(
            "`{}` is not supported; use envoy.config.trace.v3.OpenTelemetryConfig",
            any.type_url
        ));
        return None;
    }
    open_telemetry(&at, at.any(&any)?)
}

fn open_telemetry(cx: &Cx<'_>, config: OpenTelemetryConfig) -> Option<OpenTelemetry> {
    cx.converts::<OpenTelemetryConfig>();
    let OpenTelemetryConfig {
        grpc_service,
        http_service,
        exporter,
        service_name,
        resource_detectors,
        sampler,
        max_cache_size,
        set_telemetry_sdk_resource_attributes,
        set_service_name_resource_attribute,
        set_instrumentation_scope,
    } = config;
    unsupported!(
        cx,
        OpenTelemetryConfig,
        [
            exporter,
            resource_detectors,
            sampler,
            max_cache_size,
            set_telemetry_sdk_resource_attributes,
            set_service_name_resource_attribute,
            set_instrumentation_scope
        ]
    );
    let exporter = match (grpc_service, http_service) {
        (Some(service), None) => {
            let service = source::envoy_grpc(&cx.field("grpc_service"), service)?;
            if !service.initial_metadata.is_empty() {
                cx.field("grpc_service")
                    .field("initial_metadata")
                    .error("not supported");
            }
            Exporter::Grpc {
                cluster: service.cluster,
                authority: service.authority,
                timeout: service.timeout.unwrap_or(EXPORT_TIMEOUT),
            }
        }
        (None, Some(service)) => http_service_of(&cx.field("http_service"), service)?,
        (Some(_), Some(_)) => {
            cx.error("OpenTelemetry Tracer cannot have both gRPC and HTTP exporters configured");
            return None;
        }
        (None, None) => {
            cx.error("one of grpc_service and http_service is required");
            return None;
        }
    };
    Some(OpenTelemetry {
        service_name: if service_name.is_empty() {
            Arc::from(SERVICE_NAME)
        } else {
            Arc::from(service_name)
        },
        exporter,
    })
}

fn http_service_of(cx: &Cx<'_>, service: HttpService) -> Option<Exporter> {
    cx.converts::<HttpService>();
    let HttpService {
        http_uri,
        request_headers_to_add,
        formatters,
    } = service;
    unsupported!(cx, HttpService, [formatters]);
    let headers_cx = cx.field("request_headers_to_add");
    let mut headers = Vec::with_capacity(request_headers_to_add.len());
    for (index, option) in request_headers_to_add.into_iter().enumerate() {
        let at = headers_cx.index(index);
        #[expect(deprecated, reason = "named to be refused")]
        let HeaderValueOption {
            header,
            append,
            append_action,
            keep_empty_value,
        } = option;
        // There is nothing yet to append to: every way to add a header is the same.
        let _ = append_action;
        if append.is_some() {
            at.field("append").error("not supported; use append_action");
        }
        if keep_empty_value {
            at.field("keep_empty_value").error("not supported here");
        }
        let header = at.required("header", header)?;
        let (name, value) = source::header_pair(&at.field("header"), header)?;
        headers.push((
            Arc::from(name.as_str()),
            Arc::from(String::from_utf8_lossy(value.as_bytes())),
        ));
    }
    let HttpUri {
        uri,
        timeout,
        http_upstream_type,
    } = cx.required("http_uri", http_uri)?;
    let cx = cx.field("http_uri");
    cx.converts::<HttpUri>();
    let Some(HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
        cx.field("cluster").error("value is required");
        return None;
    };
    let parsed = uri
        .parse::<http::Uri>()
        .ok()
        .filter(|uri| uri.authority().is_some());
    let Some(parsed) = parsed else {
        cx.field("uri")
            .error(format!("`{uri}` is not an absolute http URI"));
        return None;
    };
    Some(Exporter::Http {
        cluster: cx.non_empty("cluster", &cluster),
        authority: Arc::from(parsed.authority().map_or("", http::uri::Authority::as_str)),
        path: Arc::from(
            parsed
                .path_and_query()
                .map_or("/", http::uri::PathAndQuery::as_str),
        ),
        timeout: cx.duration_or("timeout", timeout, EXPORT_TIMEOUT),
        headers,
    })
}
