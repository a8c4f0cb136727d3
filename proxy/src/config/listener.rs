//! Listeners (`envoy.config.listener.v3.Listener`).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    access_log::AccessLog, cluster::TcpKeepalive, http_connection_manager::HttpConnectionManager,
};

/// `envoy.config.listener.v3.Listener`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Unique; a listener without one is named by its address.
    pub name: Arc<str>,
    /// First the `address`, then `additional_addresses`; port 0 is chosen by the system.
    pub addresses: Vec<SocketAddr>,
    /// `stat_prefix`; default is the address with `.`→`.` as Envoy prints it (`0.0.0.0_8080`).
    pub stat_prefix: Option<Arc<str>>,
    /// In order of definition. (This slice: exactly one, without match.)
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// Soft limit of buffers per connection, bytes. Default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// `traffic_direction`.
    pub direction: TrafficDirection,
    /// `drain_type`.
    pub drain_type: DrainType,
    /// `tcp_backlog_size`.
    pub tcp_backlog_size: Option<u32>,
    /// SO_REUSEPORT with a socket per worker (default true).
    pub reuse_port: bool,
    /// Keep-alive of accepted sockets.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Bind to an address that is not there yet (`freebind`).
    pub freebind: bool,
    /// Connection-level access logs.
    pub access_log: Vec<AccessLog>,
}

/// `envoy.config.core.v3.TrafficDirection`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not said: spans are server spans, as for inbound.
    #[default]
    Unspecified,
    /// To the application.
    Inbound,
    /// From the application: spans are client spans.
    Outbound,
}

/// `Listener.DrainType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainType {
    /// On removal, `/drain_listeners`, shutdown and failed health check.
    #[default]
    Default,
    /// Only on removal and modification.
    ModifyOnly,
}

/// `envoy.config.listener.v3.FilterChain`.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// May be empty.
    pub name: Arc<str>,
    /// The terminal network filter.
    pub filter: NetworkFilter,
    /// `transport_socket_connect_timeout`.
    pub transport_socket_connect_timeout: Option<Duration>,
}

/// Network filters that we have.
#[derive(Clone, Debug)]
pub enum NetworkFilter {
    /// `envoy.filters.network.http_connection_manager`.
    HttpConnectionManager(Arc<HttpConnectionManager>),
}
