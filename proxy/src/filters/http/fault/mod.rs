//! `envoy.filters.http.fault` (`envoy.extensions.filters.http.fault.v3.HTTPFault`, per route the same
//! message, which replaces the filter's own): delays requests, answers them with an error, slows
//! responses down.
//!
//! `filter_metadata` is refused but for `outrigger.dev: {origin: OBJECT}`, the object that reasons name. Runtime keys have no effect: there is no runtime.

mod config;
mod filter;
mod slow;
#[cfg(test)]
mod tests;

pub use config::{Abort, Amount, Config, Delay, RouteConfig};
pub use filter::{Filter, Route};
