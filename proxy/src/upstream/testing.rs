//! Clusters for tests.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::Cluster;
use crate::{
    config::cluster::{
        CircuitBreakers, Cluster as Config, Discovery, Endpoint, EndpointAddress, HealthStatus,
        LbPolicy, LoadAssignment, LocalityEndpoints, UpstreamProtocol,
    },
    telemetry::stats::Registry,
};

pub(crate) fn assignment(endpoints: &[(SocketAddr, u32)]) -> LoadAssignment {
    let endpoints = endpoints.iter().map(|(address, weight)| Endpoint {
        address: EndpointAddress::Socket(*address),
        hostname: Arc::from(""),
        weight: *weight,
        health: HealthStatus::Unknown,
    });
    LoadAssignment {
        cluster_name: Arc::from("c"),
        localities: vec![LocalityEndpoints {
            endpoints: endpoints.collect(),
            ..LocalityEndpoints::default()
        }],
        overprovisioning_factor: 140,
    }
}

pub(crate) fn config(endpoints: &[(SocketAddr, u32)], protocol: UpstreamProtocol) -> Config {
    Config {
        name: Arc::from("c"),
        stat_name: Arc::from("c"),
        discovery: Discovery::Static(assignment(endpoints)),
        connect_timeout: Duration::from_secs(5),
        lb_policy: LbPolicy::RoundRobin,
        circuit_breakers: CircuitBreakers::default(),
        protocol,
        idle_timeout: Duration::from_secs(3600),
        max_requests_per_connection: 0,
        max_stream_duration: None,
        max_connection_duration: None,
        per_connection_buffer_limit_bytes: 1 << 20,
        healthy_panic_threshold: 50.0,
        tcp_keepalive: None,
    }
}

pub(crate) fn cluster(config: Config) -> Arc<Cluster> {
    Cluster::new(Arc::new(config), &Registry::new(1), None)
}
