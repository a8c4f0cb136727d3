//! `ClusterLoadAssignment`s.

use std::net::SocketAddr;

use outrigger_proto::envoy::config::endpoint::v3 as api;

use super::wire;

/// Addresses of one cluster, all in one locality.
pub(super) fn assignment(name: &str, addresses: &[SocketAddr]) -> api::ClusterLoadAssignment {
    let lb_endpoints: Vec<_> = addresses.iter().copied().map(lb_endpoint).collect();
    let locality = api::LocalityLbEndpoints {
        lb_endpoints,
        ..Default::default()
    };
    let endpoints = if addresses.is_empty() {
        Vec::new()
    } else {
        vec![locality]
    };
    api::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints,
        ..Default::default()
    }
}

fn lb_endpoint(address: SocketAddr) -> api::LbEndpoint {
    let endpoint = api::Endpoint {
        address: Some(wire::address(address)),
        ..Default::default()
    };
    api::LbEndpoint {
        host_identifier: Some(api::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}
