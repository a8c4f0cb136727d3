//! What a workload serves: its ports, their routes and the policies of the services that they are of.

use std::time::Duration;

use outrigger_proto::envoy::config::route::v3 as api;

use super::{
    filters,
    manager::{Profile, decorator},
    wire,
};
use crate::{
    model::{Model, NamespacedName},
    resolve::ServiceAddress,
    scope::{Inbound, Node},
};

/// What names of listeners and routes for a workload's own ports begin with.
pub const INBOUND_LISTENER: &str = "inbound";

/// Everything to the workload: the routes named `name`, to `cluster` at `port`, for callers of `services`.
pub(super) fn routes(
    model: &Model,
    profile: &Profile,
    name: &str,
    (cluster, port): (&str, u16),
    services: &[ServiceAddress],
) -> api::RouteConfiguration {
    let settings = filters::of_inbound(model, services);
    let operation = format!("{}:{port}/*", profile.service_name());
    api::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![api::VirtualHost {
            typed_per_filter_config: filters::in_order(&settings),
            ..everything_to(name, cluster, Some(operation))
        }],
        validate_clusters: Some(wire::boolean(false)),
        ..Default::default()
    }
}

/// A virtual host that sends every request to `cluster`.
pub(super) fn everything_to(
    name: &str,
    cluster: &str,
    operation: Option<String>,
) -> api::VirtualHost {
    let action = api::RouteAction {
        cluster_specifier: Some(api::route_action::ClusterSpecifier::Cluster(
            cluster.to_owned(),
        )),
        // The caller's sidecar keeps time.
        timeout: Some(wire::duration(Duration::ZERO)),
        ..Default::default()
    };
    let route = api::Route {
        name: name.to_owned(),
        r#match: Some(api::RouteMatch {
            path_specifier: Some(api::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(api::route::Action::Route(action)),
        decorator: operation.map(decorator),
        ..Default::default()
    };
    api::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..Default::default()
    }
}

/// The ports of services that a workload serves there: those whose endpoints lead to the listener,
/// then those of the service that the node names. Of a service with several ports, only an endpoint tells
/// which one it is.
pub(super) fn served_ports(model: &Model, node: &Node, inbound: &Inbound) -> Vec<ServiceAddress> {
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
