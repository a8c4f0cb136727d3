//! Clusters for tests.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{Cluster, Host, HostSpec};
use crate::{
    config::cluster::{
        CircuitBreakers, Cluster as Config, Discovery, Endpoint, EndpointAddress,
        HealthCheckTarget, HealthStatus, LbOptions, LbPolicy, LoadAssignment, Locality,
        LocalityEndpoints, UpstreamProtocol,
    },
    telemetry::stats::Registry,
};

pub(crate) fn assignment(endpoints: &[(SocketAddr, u32)]) -> LoadAssignment {
    let endpoints = endpoints.iter().map(|(address, weight)| Endpoint {
        address: EndpointAddress::Socket(*address),
        hostname: Arc::from(""),
        weight: *weight,
        health: HealthStatus::Unknown,
        hash_key: None,
        health_check: HealthCheckTarget::default(),
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
        origin: None,
        name: Arc::from("c"),
        stat_name: Arc::from("c"),
        discovery: Discovery::Static(assignment(endpoints)),
        connect_timeout: Duration::from_secs(5),
        lb_policy: LbPolicy::RoundRobin,
        lb_options: LbOptions::default(),
        circuit_breakers: CircuitBreakers::default(),
        protocol,
        idle_timeout: Duration::from_secs(3600),
        max_requests_per_connection: 0,
        max_stream_duration: None,
        max_connection_duration: None,
        max_headers_count: 100,
        max_response_headers_kb: None,
        per_connection_buffer_limit_bytes: 1 << 20,
        healthy_panic_threshold: 50,
        outlier_detection: None,
        health_check: None,
        ignore_health_on_host_removal: false,
        ignore_new_hosts_until_first_hc: false,
        tcp_keepalive: None,
        sources: Default::default(),
    }
}

pub(crate) fn cluster(config: Config) -> Arc<Cluster> {
    Cluster::new(Arc::new(config), &Registry::new(1), None)
}

/// A host as sources define it.
pub(crate) fn spec(last: u8) -> HostSpec {
    HostSpec {
        address: SocketAddr::from(([10, 0, 0, last], 80)),
        hostname: Arc::from(""),
        locality: Locality::default(),
        priority: 0,
        weight: 1,
        health: HealthStatus::Unknown,
        health_check: HealthCheckTarget::default(),
        hash_key: None,
    }
}

/// A host of no cluster.
pub(crate) fn host(last: u8) -> Host {
    Host::new(&spec(last))
}
