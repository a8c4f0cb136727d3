//! `Listener`s of a sidecar that is dialled: one for what its workload calls, one for each port it serves.

use std::net::SocketAddr;

use outrigger_proto::envoy::config::{
    core::v3::TrafficDirection, listener::v3 as api, route::v3 as route_api,
};

use super::{
    cluster,
    inbound::{self, INBOUND_LISTENER, served_ports},
    manager::{Profile, http_chain, rds},
    wire,
};
use crate::{
    model::Model,
    scope::{Inbound, Node},
};

/// The name of the listener that workloads send requests to.
pub const OUTBOUND_LISTENER: &str = "outbound";
/// The name of the routes of [`OUTBOUND_LISTENER`].
pub const OUTBOUND_ROUTES: &str = "outbound";

/// All listeners of a node.
pub(super) fn listeners(node: &Node) -> Vec<api::Listener> {
    let profile = Profile::of(node);
    let outbound = node.metadata.outbound.map(|address| {
        let direction = TrafficDirection::Outbound;
        listener(&profile, OUTBOUND_LISTENER, direction, address)
    });
    let inbound = node.metadata.inbound.iter().map(|inbound| {
        let name = inbound_listener_name(inbound);
        listener(&profile, &name, TrafficDirection::Inbound, inbound.listen)
    });
    outbound.into_iter().chain(inbound).collect()
}

/// The routes of a node's inbound listeners.
pub(super) fn inbound_route_tables<'a>(
    model: &'a Model,
    node: &'a Node,
) -> impl Iterator<Item = route_api::RouteConfiguration> + 'a {
    let profile = Profile::of(node);
    node.metadata.inbound.iter().map(move |inbound| {
        inbound::routes(
            model,
            &profile,
            &inbound_listener_name(inbound),
            (
                &cluster::inbound_name(inbound.app.port()),
                inbound.app.port(),
            ),
            &served_ports(model, node, inbound),
        )
    })
}

/// Also the name of its routes.
fn inbound_listener_name(inbound: &Inbound) -> String {
    format!("{INBOUND_LISTENER}|{}", inbound.listen.port())
}

fn listener(
    profile: &Profile,
    name: &str,
    direction: TrafficDirection,
    address: SocketAddr,
) -> api::Listener {
    api::Listener {
        name: name.to_owned(),
        address: Some(wire::address(address)),
        filter_chains: vec![http_chain(profile, name, direction, rds(name))],
        traffic_direction: direction.into(),
        ..Default::default()
    }
}
