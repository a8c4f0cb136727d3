//! `ConfigSource`, `ApiConfigSource`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use outrigger_proto::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource as Proto, GrpcService,
    HeaderValue, PathConfigSource, SelfConfigSource, WatchedDirectory, api_config_source::ApiType,
    config_source::ConfigSourceSpecifier, grpc_service,
};

use crate::{
    config::source::{AdsConfig, ConfigSource, PathSource, SourceKind},
    convert::Cx,
    no_effect, unsupported,
};

/// Envoy's default of `initial_fetch_timeout`.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// A reference to discovered resources.
pub(super) fn config_source(cx: &Cx<'_>, source: Proto) -> Option<ConfigSource> {
    cx.converts::<Proto>();
    cx.refuses::<Proto>(&["path", "api_config_source"]);
    let Proto {
        authorities,
        initial_fetch_timeout,
        resource_api_version,
        config_source_specifier,
    } = source;
    unsupported!(cx, Proto, [authorities]);
    api_version(cx, "resource_api_version", resource_api_version);
    let initial_fetch_timeout = cx.duration_or(
        "initial_fetch_timeout",
        initial_fetch_timeout,
        INITIAL_FETCH_TIMEOUT,
    );
    let kind = match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})) => SourceKind::Ads,
        Some(ConfigSourceSpecifier::Self_(SelfConfigSource {
            transport_api_version,
        })) => {
            api_version(
                &cx.field("self"),
                "transport_api_version",
                transport_api_version,
            );
            SourceKind::Ads
        }
        Some(ConfigSourceSpecifier::PathConfigSource(source)) => {
            SourceKind::Path(path_source(&cx.field("path_config_source"), source)?)
        }
        #[expect(deprecated, reason = "Envoy refuses it too; named here to say so")]
        Some(ConfigSourceSpecifier::Path(_)) => {
            cx.field("path")
                .error("not supported; use path_config_source");
            return None;
        }
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => {
            cx.field("api_config_source")
                .error("not supported; use ads with dynamic_resources.ads_config");
            return None;
        }
        None => {
            cx.field("config_source_specifier")
                .error("value is required");
            return None;
        }
    };
    Some(ConfigSource {
        kind,
        initial_fetch_timeout,
    })
}

fn path_source(cx: &Cx<'_>, source: PathConfigSource) -> Option<PathSource> {
    cx.converts::<PathConfigSource>();
    let PathConfigSource {
        path,
        watched_directory,
        poll_interval,
    } = source;
    unsupported!(cx, PathConfigSource, [poll_interval]);
    if path.is_empty() {
        cx.field("path")
            .error("value length must be at least 1 characters");
        return None;
    }
    let watched_directory = watched_directory.map(|WatchedDirectory { path, watch_modify }| {
        let cx = cx.field("watched_directory");
        unsupported!(cx, WatchedDirectory, [watch_modify]);
        PathBuf::from(path)
    });
    Some(PathSource {
        path: PathBuf::from(path),
        watched_directory,
    })
}

/// The stream that all `ads` sources share.
pub(super) fn ads_config(cx: &Cx<'_>, source: ApiConfigSource) -> Option<AdsConfig> {
    cx.converts::<ApiConfigSource>();
    cx.partly::<ApiConfigSource>("api_type", "GRPC, DELTA_GRPC");
    let ApiConfigSource {
        api_type,
        transport_api_version,
        cluster_names,
        grpc_services,
        refresh_delay,
        request_timeout,
        rate_limit_settings,
        set_node_on_first_message_only,
        config_validators,
    } = source;
    unsupported!(
        cx,
        ApiConfigSource,
        [
            cluster_names,
            refresh_delay,
            request_timeout,
            rate_limit_settings,
            config_validators
        ]
    );
    no_effect!(
        cx,
        ApiConfigSource,
        "the node is always sent on the first message only",
        [set_node_on_first_message_only]
    );
    api_version(cx, "transport_api_version", transport_api_version);
    let delta = match ApiType::try_from(api_type) {
        Ok(ApiType::Grpc) => false,
        Ok(ApiType::DeltaGrpc) => true,
        _ => {
            cx.field("api_type")
                .error("not supported; use GRPC or DELTA_GRPC");
            return None;
        }
    };
    if grpc_services.is_empty() {
        cx.field("grpc_services")
            .error("value must contain at least 1 item");
        return None;
    }
    let services = cx.field("grpc_services");
    let mut ads = AdsConfig {
        delta,
        clusters: Vec::new(),
        authority: None,
    };
    for (index, service) in grpc_services.into_iter().enumerate() {
        let at = services.index(index);
        let grpc = envoy_grpc(&at, service)?;
        if !grpc.initial_metadata.is_empty() {
            at.field("initial_metadata")
                .error("not supported on the aggregated stream");
        }
        ads.clusters.push(grpc.cluster);
        ads.authority = ads.authority.or(grpc.authority);
    }
    Some(ads)
}

/// A gRPC service reached through one of our clusters.
pub(super) struct EnvoyGrpcService {
    pub(super) cluster: Arc<str>,
    pub(super) authority: Option<Arc<str>>,
    pub(super) timeout: Option<Duration>,
    pub(super) initial_metadata: Vec<(http::HeaderName, http::HeaderValue)>,
}

pub(super) fn envoy_grpc(cx: &Cx<'_>, service: GrpcService) -> Option<EnvoyGrpcService> {
    cx.converts::<GrpcService>();
    cx.refuses::<GrpcService>(&["google_grpc"]);
    let GrpcService {
        timeout,
        initial_metadata,
        retry_policy,
        target_specifier,
    } = service;
    unsupported!(cx, GrpcService, [retry_policy]);
    let timeout = cx.optional_duration("timeout", timeout);
    let metadata_cx = cx.field("initial_metadata");
    let initial_metadata = initial_metadata
        .into_iter()
        .enumerate()
        .filter_map(|(index, header)| header_pair(&metadata_cx.index(index), header))
        .collect();
    match target_specifier {
        Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc)) => {
            let cx = cx.field("envoy_grpc");
            cx.converts::<grpc_service::EnvoyGrpc>();
            let grpc_service::EnvoyGrpc {
                cluster_name,
                authority,
                retry_policy,
                max_receive_message_length,
                skip_envoy_headers,
            } = grpc;
            unsupported!(
                cx,
                grpc_service::EnvoyGrpc,
                [retry_policy, max_receive_message_length]
            );
            no_effect!(
                cx,
                grpc_service::EnvoyGrpc,
                "no x-envoy headers are sent on these streams",
                [skip_envoy_headers]
            );
            Some(EnvoyGrpcService {
                cluster: cx.non_empty("cluster_name", &cluster_name),
                authority: (!authority.is_empty()).then(|| Arc::from(authority)),
                timeout,
                initial_metadata,
            })
        }
        Some(grpc_service::TargetSpecifier::GoogleGrpc(_)) => {
            cx.field("google_grpc")
                .error("not supported; use envoy_grpc");
            None
        }
        None => {
            cx.field("target_specifier").error("value is required");
            None
        }
    }
}

/// A literal header.
pub(super) fn header_pair(
    cx: &Cx<'_>,
    header: HeaderValue,
) -> Option<(http::HeaderName, http::HeaderValue)> {
    cx.converts::<HeaderValue>();
    let HeaderValue {
        key,
        value,
        raw_value,
    } = header;
    let name = cx.field("key").header_name(&key);
    let value = if raw_value.is_empty() {
        cx.field("value").header_value(&value)
    } else {
        let parsed = http::HeaderValue::from_bytes(&raw_value).ok();
        if parsed.is_none() {
            cx.field("raw_value").error("not a valid header value");
        }
        parsed
    };
    Some((name?, value?))
}

fn api_version(cx: &Cx<'_>, field: &str, version: i32) {
    if !matches!(
        ApiVersion::try_from(version),
        Ok(ApiVersion::Auto | ApiVersion::V3)
    ) {
        cx.field(field).error("not supported; use V3");
    }
}
