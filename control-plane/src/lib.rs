//! The control plane: sources, xDS server, traces and status APIs.
//!
//! [`sources`] read what users write and give it to one writer, which makes the next version of the
//! mesh model; [`serving`] translates that and serves it to proxies; [`otlp_receiver`] takes in
//! their spans; [`api`] tells about all of it. [`app`] starts and stops them.

pub mod api;
pub mod app;
pub mod args;
pub mod check;
pub mod otlp_receiver;
pub mod serving;
pub mod sources;

pub use app::{Addresses, ControlPlane};
pub use args::Args;
