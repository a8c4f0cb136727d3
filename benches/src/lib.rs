//! The load harness beside Envoy, and micro-benchmarks.
