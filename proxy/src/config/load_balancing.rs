//! How a cluster's hosts are chosen from: the algorithm and what all algorithms share.

use std::time::Duration;

use super::hash_policy::HashPolicy;

/// Which algorithm picks a host, from `lb_policy` or `load_balancing_policy`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LbPolicy {
    /// Weighted round robin.
    #[default]
    RoundRobin,
    /// The one with fewest active requests; with weights, Envoy's weight scaled by
    /// `active_request_bias`.
    LeastRequest {
        /// Hosts looked at for each pick; at least 2. None looks at all of them (`FULL_SCAN`).
        choice_count: Option<u32>,
        /// How much active requests lower a host's weight; 0 is weighted round robin.
        active_request_bias: f64,
    },
    /// Uniform; as in Envoy, weights do not count.
    Random,
    /// The host that follows the request's hash on a ring.
    RingHash {
        /// Fewest entries of the ring.
        minimum_ring_size: u64,
        /// Most entries of the ring.
        maximum_ring_size: u64,
        /// What places hosts on the ring.
        hash_function: HashFunction,
        /// What both consistent hashes share.
        consistent: Consistent,
    },
    /// The host that a table has for the request's hash.
    Maglev {
        /// Entries of the table, a prime.
        table_size: u64,
        /// What both consistent hashes share.
        consistent: Consistent,
    },
    /// The cluster knows by itself where to (`CLUSTER_PROVIDED`).
    ClusterProvided,
    /// The one of lowest latency times requests in progress, of a few picked at random.
    PeakEwma(PeakEwma),
}

impl LbPolicy {
    /// Whether the request's hash says the host.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        matches!(self, Self::RingHash { .. } | Self::Maglev { .. })
    }
}

/// `RingHash.HashFunction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    /// xxHash64.
    #[default]
    XxHash,
    /// MurmurHash2 with the seed of libstdc++.
    MurmurHash2,
}

/// `ConsistentHashingLbConfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consistent {
    /// A host without a hash key of its own is known by its name, not its address.
    pub use_hostname: bool,
    /// Bounds each host's load to this percentage of the average.
    pub balance_factor: Option<u32>,
}

/// `outrigger.extensions.load_balancing_policies.peak_ewma.v1alpha1.PeakEwma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeakEwma {
    /// How fast what was measured is forgotten: after this time a third of it counts. Default 10 s.
    pub decay_time: Duration,
    /// Stands for the latency of a host that was never used. Default 30 ms.
    pub default_rtt: Duration,
    /// Hosts looked at for each pick; at least 2, the default.
    pub choice_count: u32,
}

/// What algorithms share, apart from the algorithm itself.
#[derive(Clone, Debug, Default)]
pub struct LbOptions {
    /// New hosts begin with less than their weight.
    pub slow_start: Option<SlowStart>,
    /// Localities are chosen by their weights first.
    pub locality_weighted: bool,
    /// Answer nothing rather than use unhealthy hosts.
    pub fail_traffic_on_panic: bool,
    /// What hosts are chosen by, instead of the route's policies, unless empty.
    pub hash_policy: Vec<HashPolicy>,
}

/// `SlowStartConfig`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long a host is new; not zero.
    pub window: Duration,
    /// The shape of the way up: 1 is a straight line.
    pub aggression: f64,
    /// The part of its weight that a host begins with, 0 to 1.
    pub min_weight: f64,
}
