//! The data plane: an Envoy-compatible sidecar proxy.
//!
//! `ARCHITECTURE.md` follows one request and one configuration update through these modules.
//! Modules import downwards only:
//! `app ► admin ► worker ► listener ► http ► {filters/http, router} ► upstream ► telemetry ► snapshot
//! ► config half` (`config`, `convert`, `bootstrap`: pure, no I/O).

pub mod admin;
pub mod app;
pub mod args;
pub mod bootstrap;
pub mod config;
pub mod convert;
pub mod filters;
pub mod http;
pub mod listener;
pub mod router;
pub mod snapshot;
pub mod telemetry;
pub mod upstream;
pub mod worker;
pub mod xds;
