//! `TrafficPolicy`: how requests are sent to a service.

use serde::Deserialize;

use super::{Percent, PolicySpec, Span, TargetRef};
use crate::model::Kind;

/// `spec` of a `TrafficPolicy`. Each part comes whole from the closest policy that has it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSpec {
    /// What it is attached to.
    pub target_refs: Vec<TargetRef>,
    /// Connections to the service's hosts.
    #[serde(default)]
    pub connection: Option<Connection>,
    /// Limits of what is in progress at once, of each caller's sidecar.
    #[serde(default)]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Which hosts are left out for a while.
    #[serde(default)]
    pub outlier_detection: Option<OutlierDetection>,
    /// Which host gets a request.
    #[serde(default)]
    pub load_balancer: Option<LoadBalancer>,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// What is tried again.
    #[serde(default)]
    pub retries: Option<Retries>,
    /// Who stays with which backend of a split.
    #[serde(default)]
    pub stickiness: Option<Stickiness>,
}

impl PolicySpec for TrafficSpec {
    const KIND: Kind = Kind::TrafficPolicy;

    fn targets(&self) -> &[TargetRef] {
        &self.target_refs
    }

    fn about_requests(&self) -> Option<&'static str> {
        let connection = self.connection.as_ref();
        let balancer = self.load_balancer.as_ref();
        [
            (self.timeouts.is_some(), "timeouts"),
            (self.retries.is_some(), "retries"),
            (self.stickiness.is_some(), "stickiness"),
            (
                connection.is_some_and(|connection| connection.idle_timeout.is_some()),
                "connection.idleTimeout",
            ),
            (
                connection.is_some_and(|one| one.max_requests_per_connection.is_some()),
                "connection.maxRequestsPerConnection",
            ),
            (
                balancer.is_some_and(|balancer| balancer.consistent_hash.is_some()),
                "loadBalancer.consistentHash",
            ),
        ]
        .into_iter()
        .find_map(|(is_set, field)| is_set.then_some(field))
    }
}

/// `spec.connection`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    /// To all hosts of the service.
    pub max_connections: Option<u32>,
    /// To each single host.
    pub max_connections_per_host: Option<u32>,
    /// For TCP and what comes before the first request.
    pub connect_timeout: Option<Span>,
    /// A connection without requests is closed after this.
    pub idle_timeout: Option<Span>,
    /// A connection is replaced after this many requests.
    pub max_requests_per_connection: Option<u32>,
    /// The kernel's probes on idle connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// `spec.connection.tcpKeepalive`; what is not said is the kernel's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// Unanswered probes until the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Span>,
    /// Between probes.
    pub interval: Option<Span>,
}

/// `spec.circuitBreaker`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// Requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// Requests in progress.
    pub max_requests: Option<u32>,
    /// Retries in progress; instead of the retry budget.
    pub max_retries: Option<u32>,
    /// Connection pools.
    pub max_connection_pools: Option<u32>,
}

/// `spec.outlierDetection`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Answers 5xx in a row, and what counts as such.
    pub consecutive_5xx: Option<u32>,
    /// Answers 502, 503, 504 in a row.
    pub consecutive_gateway_failures: Option<u32>,
    /// Failures of our own side in a row: connecting, resets, timeouts.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Whether failures of our own side count apart from the service's answers.
    pub split_local_origin_errors: Option<bool>,
    /// Hosts that do far worse than the others.
    pub success_rate: Option<SuccessRate>,
    /// Hosts that fail more than a fixed share.
    pub failure_percentage: Option<FailurePercentage>,
    /// How often hosts are compared, and ejected ones considered for return.
    pub interval: Option<Span>,
    /// The first ejection; the n-th lasts n times as long.
    pub base_ejection_time: Option<Span>,
    /// The longest ejection.
    pub max_ejection_time: Option<Span>,
    /// At random on top, so that hosts do not return together.
    pub max_ejection_time_jitter: Option<Span>,
    /// The largest share of hosts that is out at once.
    pub max_ejection_percent: Option<u32>,
    /// Whether one host may always be ejected, however few there are.
    pub always_eject_one_host: Option<bool>,
}

/// `spec.outlierDetection.successRate`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRate {
    /// So many hosts must have the volume.
    pub minimum_hosts: Option<u32>,
    /// So many requests to a host in an interval.
    pub request_volume: Option<u32>,
    /// Standard deviations below the mean that are too much.
    pub standard_deviations: Option<f64>,
}

/// `spec.outlierDetection.failurePercentage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailurePercentage {
    /// A host that fails so many of 100 requests is ejected.
    pub threshold: Option<u32>,
    /// So many hosts must have the volume.
    pub minimum_hosts: Option<u32>,
    /// So many requests to a host in an interval.
    pub request_volume: Option<u32>,
}

/// `spec.loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// How a host is chosen.
    #[serde(rename = "type")]
    pub kind: LoadBalancerType,
    /// Of how many hosts, chosen at random, the best is taken (`peakEwma`, `leastRequest`).
    pub choices: Option<u32>,
    /// How fast old latencies are forgotten (`peakEwma`).
    pub decay: Option<Span>,
    /// What a request's host depends on (`ringHash`, `maglev`).
    pub consistent_hash: Option<ConsistentHash>,
    /// New hosts get their share step by step.
    pub slow_start: Option<SlowStart>,
}

/// `spec.loadBalancer.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadBalancerType {
    /// The lower of two latencies, each weighed by what is in progress.
    #[default]
    PeakEwma,
    /// In turn.
    RoundRobin,
    /// The fewer requests in progress of two.
    LeastRequest,
    /// Any.
    Random,
    /// By hash, on a ring of hosts.
    RingHash,
    /// By hash, by a table of hosts.
    Maglev,
}

impl LoadBalancerType {
    /// Whether the request's hash decides.
    pub fn is_hash(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// `spec.loadBalancer.consistentHash`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// What is hashed, all of it together.
    pub on: Vec<HashOn>,
    /// Entries of the ring at least (`ringHash`).
    pub minimum_ring_size: Option<u64>,
    /// Entries of the ring at most (`ringHash`).
    pub maximum_ring_size: Option<u64>,
    /// Entries of the table, a prime number (`maglev`).
    pub table_size: Option<u64>,
    /// No host gets more than this share of the mean, in percent.
    pub balance_factor: Option<u32>,
}

/// One thing that is hashed: exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HashOn {
    /// The value of this header.
    pub header: Option<String>,
    /// The value of this cookie.
    pub cookie: Option<CookieHash>,
    /// The caller's address.
    pub source_ip: Option<bool>,
    /// The value of this query parameter.
    pub query_parameter: Option<String>,
    /// Whether what follows is left out if this is there.
    pub terminal: bool,
}

/// A cookie to hash; made for clients that have none if it has a life time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieHash {
    /// Its name.
    pub name: String,
    /// How long a generated one lives; 0s is until the browser is closed.
    pub ttl: Option<Span>,
    /// Where a generated one is sent.
    pub path: Option<String>,
}

/// `spec.loadBalancer.slowStart`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SlowStart {
    /// How long it takes.
    pub window: Span,
    /// How the share grows; 1 is evenly.
    pub aggression: Option<f64>,
    /// Where it starts.
    pub min_weight: Option<Percent>,
}

/// `spec.timeouts`; 0s is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// The whole request with all its tries.
    pub request: Option<Span>,
    /// A stream on which nothing moves.
    pub idle: Option<Span>,
    /// A stream, however busy.
    pub max_stream_duration: Option<Span>,
}

/// `spec.retries`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retries {
    /// Tries after the first; 0 is none at all.
    pub attempts: Option<u32>,
    /// Envoy's names of conditions, and status codes.
    pub on: Option<Vec<String>>,
    /// One try.
    pub per_try_timeout: Option<Span>,
    /// One try in which nothing moves.
    pub per_try_idle_timeout: Option<Span>,
    /// Between tries.
    pub backoff: Option<Backoff>,
    /// How many retries there may be among all requests.
    pub budget: Option<RetryBudget>,
}

/// `spec.retries.backoff`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Backoff {
    /// Up to this before the first retry.
    pub base: Span,
    /// Never longer.
    pub max: Option<Span>,
    /// Whether a host's `Retry-After` decides.
    pub honor_retry_after: bool,
}

/// `spec.retries.budget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Retries among 100 requests in progress.
    pub percent: Option<Percent>,
    /// So many retries at once are always allowed.
    pub min_concurrency: Option<u32>,
    /// Requests count for this long, not only while they are in progress.
    pub interval: Option<Span>,
}

/// `spec.stickiness`: exactly what one hash is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stickiness {
    /// What tells users apart, all of it together.
    pub on: Vec<HashOn>,
}
