//! Clusters at run time: hosts, load balancing, circuit breakers, connection pools.
//!
//! Clusters, hosts and circuit-breaker counts are shared by all workers through atomics and
//! immutable sets; pools and the state of load balancers belong to one worker.

mod circuit;
mod cluster;
mod codes;
pub mod destinations;
mod dial;
pub mod dns;
pub mod health;
mod host;
mod host_set;
pub mod lb;
pub mod outlier;
pub mod pool;
mod priority_load;
mod stats;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use circuit::RetryPermit;
pub use circuit::{Circuit, Resource, Resources, Retries, Usage};
pub use cluster::Cluster;
pub use codes::CodeStats;
pub use destinations::Destinations;
pub(crate) use dial::dial;
pub use health::HealthFlags;
pub use host::{Health, Host, HostSpec, HostStats};
pub use host_set::{Candidates, HostSet, Inputs};
pub use stats::ClusterStats;

/// Why a client's address cannot be kept.
pub(crate) const NO_SOURCE: &str =
    "original_src keeps the client's address only towards ORIGINAL_DST clusters";
