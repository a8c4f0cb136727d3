//! The HTTP APIs of the control plane.

pub mod jaeger;
