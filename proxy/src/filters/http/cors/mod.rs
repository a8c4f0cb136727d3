//! `envoy.filters.http.cors` (`envoy.extensions.filters.http.cors.v3.Cors`, per route `CorsPolicy`):
//! cross-origin resource sharing. It answers preflight requests and tells browsers what they may read.
//!
//! Each property comes from the most specific level that sets it. Where no level has settings for the
//! filter, the deprecated `cors` fields of routes and virtual hosts count.

mod config;
mod filter;
#[cfg(test)]
mod tests;

pub use config::{Config, LEGACY_NAME, RouteConfig, legacy};
pub use filter::{Filter, Route};
