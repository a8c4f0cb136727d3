//! The data plane: an Envoy-compatible sidecar proxy.
//!
//! `ARCHITECTURE.md` follows one request and one configuration update through these modules, and says
//! which of them may import which. `config`, `convert` and `bootstrap` are pure: no I/O, no clock.

#[cfg(test)]
mod allocations;

pub mod admin;
pub mod app;
pub mod args;
pub mod bootstrap;
pub mod config;
pub mod convert;
pub mod filters;
pub mod http;
pub mod listener;
pub mod relay;
pub mod router;
pub mod snapshot;
pub mod telemetry;
pub mod upstream;
pub mod worker;
pub mod xds;
