//! `envoy.filters.http.fault` (`envoy.extensions.filters.http.fault.v3.HTTPFault`, per route the same
//! message, which replaces the filter's own): delays requests, answers them with an error, slows
//! responses down.
//!
//! Refused: `filter_metadata`. Runtime keys have no effect: there is no runtime.

mod config;
mod filter;
mod slow;
#[cfg(test)]
mod tests;

pub use config::{Abort, Amount, Config, Delay, RouteConfig};
pub use filter::{Filter, Route};
