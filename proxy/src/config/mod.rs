//! The validated, immutable form of the configuration.
//!
//! Types here hold meaning, not wire shape: whatever Envoy's messages leave open (wrappers, oneofs,
//! defaults) is settled when they are built, so that request code never asks again. Converting
//! from Envoy's messages lives beside each type (`config/<name>/convert.rs` or the lower half of the
//! file) and uses [`crate::convert`] for paths and errors.
//!
//! This is the *config half*: no tokio, no hyper, no I/O, no clock. `--mode validate`, the control
//! plane's tests and fuzzing share it.

pub mod access_log;
pub mod bootstrap;
pub mod chain_match;
pub mod cluster;
pub mod format;
pub mod fraction;
pub mod from_proto;
pub mod hash_policy;
pub mod header;
pub mod health_check;
pub mod http_connection_manager;
pub mod listener;
pub mod load_balancing;
pub mod matcher;
pub mod mirror;
pub mod outlier_detection;
pub mod per_filter;
pub mod retry;
pub mod route;
pub mod source;
pub mod tcp_proxy;
pub mod tracing;
pub mod upgrade;
