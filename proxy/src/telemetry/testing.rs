//! Parts that tests of several modules need.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use super::{
    stats::Registry,
    stream_info::{ConnectionInfo, StreamInfo},
};
use crate::{
    config::{
        self,
        cluster::{
            CircuitBreakers, Discovery, Endpoint, EndpointAddress, HealthCheckTarget, HealthStatus,
            LbOptions, LbPolicy, LoadAssignment, LocalityEndpoints, UpstreamProtocol,
        },
        http_connection_manager::Http1Options,
        listener::Listener,
    },
    upstream::Cluster,
};

/// A listener without filter chains.
pub(crate) fn listener() -> Listener {
    Listener {
        addresses: vec!["127.0.0.1:18080".parse().unwrap()],
        per_connection_buffer_limit_bytes: 1 << 20,
        reuse_port: true,
        ..Listener::named("l1")
    }
}

/// The record of a stream that has just begun.
pub(crate) fn stream_info() -> StreamInfo {
    let connection = ConnectionInfo {
        id: 7,
        remote: "10.0.0.1:4444".parse().unwrap(),
        local: "127.0.0.1:18080".parse().unwrap(),
        real_local: "127.0.0.1:18080".parse().unwrap(),
        is_redirected: false,
        source: None,
        server_name: None,
        listener: Arc::new(listener()),
        start: Instant::now(),
    };
    let mut info = StreamInfo::new(Rc::new(connection), http::Version::HTTP_11);
    info.start_time = UNIX_EPOCH + Duration::new(1_795_568_811, 874_510_000);
    info
}

/// A STATIC cluster with hosts at `addresses`.
pub(crate) fn cluster(name: &str, addresses: &[SocketAddr], registry: &Registry) -> Arc<Cluster> {
    let endpoint = |address: &SocketAddr| Endpoint {
        address: EndpointAddress::Socket(*address),
        hostname: "".into(),
        weight: 1,
        health: HealthStatus::Unknown,
        hash_key: None,
        health_check: HealthCheckTarget::default(),
    };
    let assignment = LoadAssignment {
        cluster_name: name.into(),
        localities: vec![LocalityEndpoints {
            endpoints: addresses.iter().map(endpoint).collect(),
            ..LocalityEndpoints::default()
        }],
        overprovisioning_factor: 140,
    };
    let config = config::cluster::Cluster {
        name: name.into(),
        origin: None,
        stat_name: name.replace(':', "_").into(),
        discovery: Discovery::Static(assignment),
        connect_timeout: Duration::from_secs(5),
        lb_policy: LbPolicy::RoundRobin,
        lb_options: LbOptions::default(),
        circuit_breakers: CircuitBreakers::default(),
        protocol: UpstreamProtocol::Http1(Http1Options::default()),
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
    };
    Cluster::new(Arc::new(config), registry, None)
}
