//! The `HttpConnectionManager` of every listener: filters, spans and the access log.

use std::time::Duration;

use outrigger_proto::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, access_log},
            core::v3::{self as core, TrafficDirection},
            listener::v3 as api,
            route::v3 as route_api,
            trace::v3::{OpenTelemetryConfig, tracing},
        },
        extensions::{
            access_loggers::file::v3::FileAccessLog,
            filters::network::http_connection_manager::v3::{
                self as hcm, HttpConnectionManager, http_connection_manager as manager,
            },
        },
        r#type::v3::Percent,
    },
    google::protobuf::Any,
};

use super::{filters, wire};
use crate::scope::{Node, Tracing};

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const OPEN_TELEMETRY: &str = "envoy.tracers.opentelemetry";
const FILE_ACCESS_LOG: &str = "envoy.access_loggers.file";

/// What listeners say of the node that they are for. Those of equal workloads are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// `reviews.shop`, as spans name their service.
    service_name: String,
    tracing: Option<Tracing>,
    access_log: Option<String>,
    intercepted: bool,
}

impl Profile {
    /// Of that node.
    pub fn of(node: &Node) -> Self {
        let metadata = &node.metadata;
        Self {
            service_name: service_name(node),
            tracing: metadata.tracing.clone(),
            access_log: metadata.access_log.clone(),
            intercepted: metadata.interception.is_some(),
        }
    }

    pub(super) fn service_name(&self) -> &str {
        &self.service_name
    }
}

/// Routes that come apart from the listener, so that a change of routes closes no connection.
pub(super) fn rds(name: &str) -> manager::RouteSpecifier {
    manager::RouteSpecifier::Rds(hcm::Rds {
        config_source: Some(wire::ads()),
        route_config_name: name.to_owned(),
    })
}

/// A filter chain that serves HTTP.
pub(super) fn http_chain(
    profile: &Profile,
    stat_prefix: &str,
    direction: TrafficDirection,
    routes: manager::RouteSpecifier,
) -> api::FilterChain {
    let manager = http_connection_manager(profile, stat_prefix, direction, routes);
    let filter = api::Filter {
        name: HTTP_CONNECTION_MANAGER.to_owned(),
        config_type: Some(api::filter::ConfigType::TypedConfig(wire::any(&manager))),
    };
    api::FilterChain {
        filters: vec![filter],
        ..Default::default()
    }
}

fn http_connection_manager(
    profile: &Profile,
    stat_prefix: &str,
    direction: TrafficDirection,
    routes: manager::RouteSpecifier,
) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: stat_prefix.replace('|', "_"),
        route_specifier: Some(routes),
        http_filters: match direction {
            TrafficDirection::Inbound => filters::inbound(),
            TrafficDirection::Outbound | TrafficDirection::Unspecified => filters::outbound(),
        },
        tracing: tracing(profile),
        access_log: access_log(profile).into_iter().collect(),
        // A sidecar is not the server that the client talks to.
        server_header_transformation: manager::ServerHeaderTransformation::PassThrough.into(),
        // Paths are compared in one form only, so that no spelling slips past a rule.
        normalize_path: Some(wire::boolean(true)),
        upgrade_configs: vec![manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        // Without a sidecar nobody would end a stream for its silence.
        stream_idle_timeout: profile.intercepted.then(|| wire::duration(Duration::ZERO)),
        ..Default::default()
    }
}

/// The name of a span. Peers need not be told: they name their own.
pub(super) fn decorator(operation: String) -> route_api::Decorator {
    route_api::Decorator {
        operation,
        propagate: Some(wire::boolean(false)),
    }
}

/// `reviews.shop`, as spans name their service.
fn service_name(node: &Node) -> String {
    let metadata = &node.metadata;
    let name = [
        &metadata.service,
        &metadata.workload,
        &node.cluster,
        &node.id,
    ]
    .into_iter()
    .find(|name| !name.is_empty());
    let name = name.map_or("unknown", String::as_str);
    format!("{name}.{}", metadata.namespace)
}

/// A client span for each request that leaves and a server span for each that arrives: the
/// direction of the listener decides, so there is no separate upstream span.
fn tracing(profile: &Profile) -> Option<manager::Tracing> {
    let wanted = profile.tracing.as_ref()?;
    let target = core::grpc_service::EnvoyGrpc {
        cluster_name: wanted.cluster.clone(),
        ..Default::default()
    };
    let exporter = OpenTelemetryConfig {
        grpc_service: Some(core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)),
            ..Default::default()
        }),
        service_name: profile.service_name.clone(),
        ..Default::default()
    };
    let provider = tracing::Http {
        name: OPEN_TELEMETRY.to_owned(),
        config_type: Some(tracing::http::ConfigType::TypedConfig(wire::any(&exporter))),
    };
    Some(manager::Tracing {
        random_sampling: Some(Percent {
            value: f64::from(wanted.sampling),
        }),
        provider: Some(provider),
        ..Default::default()
    })
}

/// In Envoy's default format.
pub(super) fn access_log(profile: &Profile) -> Option<AccessLog> {
    let path = profile.access_log.clone()?;
    let file: Any = wire::any(&FileAccessLog {
        path,
        ..Default::default()
    });
    Some(AccessLog {
        name: FILE_ACCESS_LOG.to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(file)),
        ..Default::default()
    })
}
