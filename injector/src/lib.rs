//! What makes a pod's traffic go through a sidecar: the change of the pod, who gets it, and the rules that
//! take over its connections.
//!
//! `spec`, `decide`, `manifest` and the rules in `redirect` are pure: values in, values out. Only
//! `redirect::apply`, `redirect::verify`, `hook` and `webhook` touch the machine.

pub mod decide;
pub mod hook;
pub mod manifest;
pub mod redirect;
pub mod spec;
pub mod webhook;

mod problem;

pub use problem::Problem;
