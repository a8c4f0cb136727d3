//! The control plane: sources, xDS server, traces and status APIs.

pub mod api;
pub mod otlp_receiver;
