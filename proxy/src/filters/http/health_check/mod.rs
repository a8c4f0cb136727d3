//! `envoy.filters.http.health_check` (`envoy.extensions.filters.http.health_check.v3.HealthCheck`):
//! answers health checks of this proxy. It has no per-route settings.

mod config;
mod filter;
#[cfg(test)]
mod tests;

pub use config::{Config, Mode, RouteConfig};
pub use filter::{Filter, Route};
