//! The HTTP APIs of the control plane.

pub mod health;
pub mod jaeger;
pub mod mesh;
