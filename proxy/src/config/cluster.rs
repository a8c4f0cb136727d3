//! Clusters and their endpoints (`envoy.config.cluster.v3`, `envoy.config.endpoint.v3`).

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use super::load_balancing::{LbOptions, LbPolicy};
use super::{
    health_check::HealthCheck,
    http_connection_manager::{Http1Options, Http2Options},
    outlier_detection::OutlierDetection,
    source::ConfigSource,
};

/// `envoy.config.cluster.v3.Cluster`.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Unique.
    pub name: Arc<str>,
    /// The mesh object that limits it, where our control plane has said it:
    /// `metadata.filter_metadata["outrigger.dev"].origin`.
    pub origin: Option<Arc<str>>,
    /// Name in statistics: `alt_stat_name`, or `name`; `:` becomes `_`.
    pub stat_name: Arc<str>,
    /// The EDS service name, if it differs from `name`.
    pub discovery: Discovery,
    /// TCP connect. Default 5 s.
    pub connect_timeout: Duration,
    /// The algorithm.
    pub lb_policy: LbPolicy,
    /// What algorithms share.
    pub lb_options: LbOptions,
    /// Default and high priority.
    pub circuit_breakers: CircuitBreakers,
    /// What is spoken to hosts.
    pub protocol: UpstreamProtocol,
    /// `common_http_protocol_options.idle_timeout`: default 1 h, zero is none.
    pub idle_timeout: Duration,
    /// Close a connection after this many requests; zero is no limit.
    pub max_requests_per_connection: u32,
    /// `common_http_protocol_options.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration`.
    pub max_connection_duration: Option<Duration>,
    /// `common_http_protocol_options.max_headers_count` of a response, default 100.
    pub max_headers_count: u32,
    /// `common_http_protocol_options.max_response_headers_kb`: default 60, and 80 of HTTP/1.
    pub max_response_headers_kb: Option<u32>,
    /// Soft limit of buffers per connection, bytes. Default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// Below this percentage of healthy hosts all are used. Default 50.
    pub healthy_panic_threshold: u32,
    /// Hosts that fail are left out for a while.
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    /// Hosts are asked how they are.
    pub health_check: Option<Arc<HealthCheck>>,
    /// A host that is taken away goes at once, whatever its checks say.
    pub ignore_health_on_host_removal: bool,
    /// New hosts do not count, not even as unhealthy ones, until they are checked.
    pub ignore_new_hosts_until_first_hc: bool,
    /// Socket keep-alive towards hosts.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// What connections to hosts come from.
    pub sources: Sources,
}

/// `envoy.config.core.v3.BindConfig`: at most one source address for each family; without any, the kernel
/// chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(pub Vec<SocketAddr>);

/// `envoy.config.core.v3.TcpKeepalive`; unset values are the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

/// `Cluster.cluster_discovery_type`.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// Addresses from the load assignment.
    Static(LoadAssignment),
    /// Names from the load assignment; every address of a name is a host.
    StrictDns(Dns),
    /// Wherever each connection was going to.
    OriginalDst(OriginalDst),
    /// From EDS.
    Eds {
        /// The resource's name.
        service_name: Arc<str>,
        /// Where it comes from.
        source: ConfigSource,
    },
}

/// Where an ORIGINAL_DST cluster's hosts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalDst {
    /// The header of HTTP requests that says the host, if it is there.
    pub http_header: Option<http::HeaderName>,
    /// Instead of the destination's port.
    pub port: Option<u16>,
    /// Hosts that were not used for that long are forgotten. Default 5 s.
    pub cleanup_interval: Duration,
}

/// The names of a STRICT_DNS cluster.
#[derive(Clone, Debug)]
pub struct Dns {
    /// Host names and ports.
    pub assignment: LoadAssignment,
    /// Default 5 s.
    pub refresh_rate: Duration,
    /// Use the record's TTL instead.
    pub respect_ttl: bool,
    /// Which address families.
    pub family: DnsLookupFamily,
}

/// `Cluster.DnsLookupFamily`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsLookupFamily {
    /// IPv6, else IPv4.
    #[default]
    Auto,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// IPv4, else IPv6.
    V4Preferred,
    /// Both.
    All,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadAssignment {
    /// The cluster's (EDS service's) name.
    pub cluster_name: Arc<str>,
    /// In order of definition; priority 0 is used unless it has no healthy host.
    pub localities: Vec<LocalityEndpoints>,
    /// `policy.overprovisioning_factor`, percent. Default 140.
    pub overprovisioning_factor: u32,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalityEndpoints {
    /// Region, zone, sub-zone.
    pub locality: Locality,
    /// 0 is the highest.
    pub priority: u32,
    /// `load_balancing_weight`, if set.
    pub weight: Option<u32>,
    /// The hosts.
    pub endpoints: Vec<Endpoint>,
}

/// `envoy.config.core.v3.Locality`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Sub-zone.
    pub sub_zone: Arc<str>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// For `host_rewrite: auto` and health checks.
    pub hostname: Arc<str>,
    /// Relative to others; at least 1.
    pub weight: u32,
    /// As EDS says.
    pub health: HealthStatus,
    /// `metadata.filter_metadata["envoy.lb"].hash_key`: what consistent hashing knows it by.
    pub hash_key: Option<Arc<str>>,
    /// How and where it is checked.
    pub health_check: HealthCheckTarget,
}

/// `envoy.config.endpoint.v3.Endpoint.HealthCheckConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheckTarget {
    /// Instead of the endpoint's address.
    pub address: Option<SocketAddr>,
    /// Instead of its port.
    pub port: Option<u16>,
    /// Host header of its checks; empty is the cluster's.
    pub hostname: Arc<str>,
    /// It is not checked, and counts as healthy.
    pub is_disabled: bool,
}

/// Address of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An address.
    Socket(SocketAddr),
    /// A name to resolve (STRICT_DNS only).
    Name {
        /// To resolve.
        host: Arc<str>,
        /// Of every address.
        port: u16,
    },
}

/// `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// Counts as healthy.
    #[default]
    Unknown,
    /// Healthy.
    Healthy,
    /// Unhealthy.
    Unhealthy,
    /// Counts as unhealthy.
    Draining,
    /// Counts as unhealthy.
    Timeout,
    /// Degraded.
    Degraded,
}

/// `envoy.config.cluster.v3.CircuitBreakers`.
#[derive(Clone, Debug, Default)]
pub struct CircuitBreakers {
    /// For `RoutingPriority::DEFAULT`.
    pub default: Thresholds,
    /// For `RoutingPriority::HIGH`.
    pub high: Thresholds,
}

/// `CircuitBreakers.Thresholds`.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Default 1024.
    pub max_connections: u32,
    /// Default 1024.
    pub max_pending_requests: u32,
    /// Default 1024.
    pub max_requests: u32,
    /// Default 3.
    pub max_retries: u32,
    /// Pools of connections over all workers. Default: no limit.
    pub max_connection_pools: Option<u32>,
    /// `per_host_thresholds[].max_connections`. Default: no limit.
    pub max_connections_per_host: Option<u32>,
    /// Instead of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// `CircuitBreakers.Thresholds.RetryBudget`.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryBudget {
    /// Retries in relation to requests. Default 20.
    pub percent: f64,
    /// Requests and retries that began within this time count; zero: those in flight.
    pub interval: Duration,
    /// So many retries are always possible. Default 3.
    pub min_concurrency: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            max_connection_pools: None,
            max_connections_per_host: None,
            retry_budget: None,
        }
    }
}

/// What is spoken to a cluster's hosts.
#[derive(Clone, Debug)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1(Http1Options),
    /// HTTP/2, by prior knowledge.
    Http2(Http2Options),
    /// Whatever the downstream request came in (`use_downstream_protocol_config`).
    Downstream {
        /// For HTTP/1 requests.
        http1: Http1Options,
        /// For HTTP/2 requests.
        http2: Http2Options,
    },
}
