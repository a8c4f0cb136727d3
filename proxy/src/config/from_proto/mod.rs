//! Conversions from Envoy's messages, one file for each area.
//!
//! Each function takes its message apart exhaustively, reports every problem at its path, and
//! returns `None` only where nothing useful could be built.

mod access_log;
mod bind_config;
mod bootstrap;
mod cluster;
mod discovery;
mod endpoint;
mod filter_chain;
pub(crate) mod fraction;
mod hash_policy;
pub(crate) mod header;
mod health_check;
mod http_connection_manager;
mod http_filter;
mod http_protocol;
mod listener;
mod listener_filter;
mod load_balancing;
pub(crate) mod matcher;
mod mirror;
mod outlier_detection;
mod protocol_choice;
mod retry;
mod route;
mod route_action;
mod source;
mod support;
mod tcp_proxy;
mod tracing;
mod upgrade;

pub use bootstrap::bootstrap;
pub use cluster::cluster;
pub use discovery::check_numeric;
pub use endpoint::load_assignment;
pub use listener::listener;
pub(crate) use matcher::{header_matcher, string_matcher};
pub use route::route_configuration;
pub use support::{Table, support_page, support_table};

#[cfg(test)]
mod tests;
