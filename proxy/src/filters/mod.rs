//! Filters of requests and of connections.

pub mod http;
pub mod network;
