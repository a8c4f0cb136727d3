//! `envoy.filters.http.local_ratelimit`
//! (`envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`, per route the same message, with
//! a token bucket of its own): refuses requests that come faster than a token bucket fills.
//!
//! Refused: `descriptors` and what belongs to them, `local_cluster_rate_limit`.

mod bucket;
mod config;
mod filter;
#[cfg(test)]
mod tests;

pub use bucket::TokenBucket;
pub use config::{Bucket, Config, RouteConfig};
pub use filter::{Filter, Route};
