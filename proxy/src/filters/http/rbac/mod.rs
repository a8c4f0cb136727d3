//! `envoy.filters.http.rbac`: allows and denies requests by policies.
//!
//! Supported are `rules` and `shadow_rules` with all permissions and principals that need neither
//! metadata, CEL nor the unified matcher, which are refused by their path. There is no TLS yet, so that
//! `authenticated` never matches, as in Envoy on a plain connection.

mod config;
mod filter;
mod rules;
#[cfg(test)]
mod tests;

pub use config::{Action, Condition, Config, Config as RouteConfig, Network, Policy, Rules};
pub use filter::{Filter, Route};
