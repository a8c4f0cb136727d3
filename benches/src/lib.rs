//! The load harness: Envoy and Outrigger with the same YAML on one core, load and backend on the
//! other, in alternating rounds; CPU per request at saturation and at a fixed rate.
//!
//! A benchmark at saturation alone flatters: at a fixed rate lost batching and wake-ups cost every
//! proxy, so both count. Latency is counted from the time a request was due, not from when a slow
//! peer let it be sent.

pub mod backend;
pub mod config;
pub mod cores;
pub mod load;
pub mod report;
pub mod resilience;
pub mod run;
pub mod subject;
pub mod tcp;
