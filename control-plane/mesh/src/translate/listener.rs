//! `Listener`s of a sidecar: one for what its workload calls, one for each port it serves.

use std::{net::SocketAddr, time::Duration};

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

use super::{cluster, filters, wire};
use crate::{
    model::{Model, NamespacedName},
    resolve::ServiceAddress,
    scope::{Inbound, Node},
};

/// The name of the listener that workloads send requests to.
pub const OUTBOUND_LISTENER: &str = "outbound";
/// What names of listeners for a workload's own ports begin with.
pub const INBOUND_LISTENER: &str = "inbound";
/// The name of the routes of [`OUTBOUND_LISTENER`].
pub const OUTBOUND_ROUTES: &str = "outbound";

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const OPEN_TELEMETRY: &str = "envoy.tracers.opentelemetry";
const FILE_ACCESS_LOG: &str = "envoy.access_loggers.file";

/// All listeners of a node. Their routes come apart from them, so that a change of routes closes no
/// connection.
pub(super) fn listeners(node: &Node) -> Vec<api::Listener> {
    let outbound = node.metadata.outbound.map(|address| {
        let rds = rds(OUTBOUND_ROUTES);
        let direction = TrafficDirection::Outbound;
        listener(node, OUTBOUND_LISTENER, direction, address, rds)
    });
    let inbound = node.metadata.inbound.iter().map(|inbound| {
        let name = inbound_listener_name(inbound);
        let direction = TrafficDirection::Inbound;
        listener(node, &name, direction, inbound.listen, rds(&name))
    });
    outbound.into_iter().chain(inbound).collect()
}

/// The routes of a node's inbound listeners.
pub(super) fn inbound_route_tables<'a>(
    model: &'a Model,
    node: &'a Node,
) -> impl Iterator<Item = route_api::RouteConfiguration> + 'a {
    node.metadata
        .inbound
        .iter()
        .map(|inbound| inbound_routes(model, node, inbound))
}

/// Also the name of its routes.
fn inbound_listener_name(inbound: &Inbound) -> String {
    format!("{INBOUND_LISTENER}|{}", inbound.listen.port())
}

fn rds(name: &str) -> manager::RouteSpecifier {
    manager::RouteSpecifier::Rds(hcm::Rds {
        config_source: Some(wire::ads()),
        route_config_name: name.to_owned(),
    })
}

fn listener(
    node: &Node,
    name: &str,
    direction: TrafficDirection,
    address: SocketAddr,
    routes: manager::RouteSpecifier,
) -> api::Listener {
    let filter = api::Filter {
        name: HTTP_CONNECTION_MANAGER.to_owned(),
        config_type: Some(api::filter::ConfigType::TypedConfig(wire::any(
            &http_connection_manager(node, name, direction, routes),
        ))),
    };
    api::Listener {
        name: name.to_owned(),
        address: Some(wire::address(address)),
        filter_chains: vec![api::FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        traffic_direction: direction.into(),
        ..Default::default()
    }
}

fn http_connection_manager(
    node: &Node,
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
        tracing: tracing(node),
        access_log: access_log(node).into_iter().collect(),
        // A sidecar is not the server that the client talks to.
        server_header_transformation: manager::ServerHeaderTransformation::PassThrough.into(),
        // Paths are compared in one form only, so that no spelling slips past a rule.
        normalize_path: Some(wire::boolean(true)),
        upgrade_configs: vec![manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Everything to the workload.
fn inbound_routes(model: &Model, node: &Node, inbound: &Inbound) -> route_api::RouteConfiguration {
    let name = inbound_listener_name(inbound);
    let settings = filters::of_inbound(model, &served_ports(model, node, inbound));
    let action = route_api::RouteAction {
        cluster_specifier: Some(route_api::route_action::ClusterSpecifier::Cluster(
            cluster::inbound_name(inbound),
        )),
        // The caller's sidecar keeps time.
        timeout: Some(wire::duration(Duration::ZERO)),
        ..Default::default()
    };
    let route = route_api::Route {
        name: name.clone(),
        r#match: Some(route_api::RouteMatch {
            path_specifier: Some(route_api::route_match::PathSpecifier::Prefix(
                "/".to_owned(),
            )),
            ..Default::default()
        }),
        action: Some(route_api::route::Action::Route(action)),
        decorator: Some(decorator(format!(
            "{}:{}/*",
            service_name(node),
            inbound.app.port()
        ))),
        ..Default::default()
    };
    let virtual_host = route_api::VirtualHost {
        name: name.clone(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        typed_per_filter_config: filters::in_order(&settings),
        ..Default::default()
    };
    route_api::RouteConfiguration {
        name,
        virtual_hosts: vec![virtual_host],
        validate_clusters: Some(wire::boolean(false)),
        ..Default::default()
    }
}

/// The ports of services that a workload serves there: those whose endpoints lead to the listener,
/// then those of the service that the node names. Of a service with several ports, only an endpoint tells
/// which one it is.
fn served_ports(model: &Model, node: &Node, inbound: &Inbound) -> Vec<ServiceAddress> {
    let own = &node.metadata;
    let is_own = |service: &NamespacedName| {
        *service.name == *own.service && *service.namespace == *own.namespace
    };
    let mut ports = Vec::new();
    for by_endpoint in [true, false] {
        for (service, entry) in model.services() {
            let http = || {
                entry
                    .ports
                    .iter()
                    .filter(|slot| slot.port.protocol.is_http())
            };
            for slot in http() {
                let leads_here = slot.endpoints.contains(&inbound.listen);
                let is_named = is_own(service) && http().count() == 1;
                if (by_endpoint && leads_here) || (!by_endpoint && !leads_here && is_named) {
                    ports.push(ServiceAddress {
                        service: service.clone(),
                        port: slot.port.number,
                    });
                }
            }
        }
    }
    ports
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
fn tracing(node: &Node) -> Option<manager::Tracing> {
    let wanted = node.metadata.tracing.as_ref()?;
    let target = core::grpc_service::EnvoyGrpc {
        cluster_name: wanted.cluster.clone(),
        ..Default::default()
    };
    let exporter = OpenTelemetryConfig {
        grpc_service: Some(core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)),
            ..Default::default()
        }),
        service_name: service_name(node),
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
fn access_log(node: &Node) -> Option<AccessLog> {
    let path = node.metadata.access_log.clone()?;
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
