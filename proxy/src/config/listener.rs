//! Listeners (`envoy.config.listener.v3.Listener`).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    access_log::AccessLog, chain_match::ChainMatcher, cluster::TcpKeepalive,
    http_connection_manager::HttpConnectionManager, tcp_proxy::TcpProxy,
};

/// `envoy.config.listener.v3.Listener`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Unique; a listener without one is named by its address.
    pub name: Arc<str>,
    /// First the `address`, then `additional_addresses`; port 0 is chosen by the system.
    pub addresses: Vec<SocketAddr>,
    /// Those of `addresses` that are of IPv6 and take IPv4 too (`ipv4_compat`).
    pub dual_stack: Vec<SocketAddr>,
    /// `stat_prefix`; default is the address with `.`→`.` as Envoy prints it (`0.0.0.0_8080`).
    pub stat_prefix: Option<Arc<str>>,
    /// In order of definition, then the default chain, if there is one.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// Finds the place of a connection's chain.
    pub matcher: ChainMatcher,
    /// Look at connections before their chain is chosen, in this order.
    pub listener_filters: Vec<ListenerFilter>,
    /// How long they may take; none is no limit. Default 15 s.
    pub listener_filters_timeout: Option<Duration>,
    /// After that time the connection goes on with what is known of it.
    pub continue_on_listener_filters_timeout: bool,
    /// How the chain is chosen while the client says nothing; none is to wait for it.
    pub protocol_choice: Option<ProtocolChoice>,
    /// Hands connections to the listener whose address they were going to.
    pub use_original_dst: bool,
    /// Whether it has a socket; else it only takes what others hand over.
    pub bind_to_port: bool,
    /// IP_TRANSPARENT: takes connections to any address.
    pub transparent: bool,
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

impl Listener {
    /// A listener that does nothing.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            addresses: Vec::new(),
            dual_stack: Vec::new(),
            stat_prefix: None,
            filter_chains: Vec::new(),
            matcher: ChainMatcher::default(),
            listener_filters: Vec::new(),
            listener_filters_timeout: None,
            continue_on_listener_filters_timeout: false,
            protocol_choice: None,
            use_original_dst: false,
            bind_to_port: true,
            transparent: false,
            per_connection_buffer_limit_bytes: 0,
            direction: TrafficDirection::Unspecified,
            drain_type: DrainType::Default,
            tcp_backlog_size: None,
            reuse_port: false,
            tcp_keepalive: None,
            freebind: false,
            access_log: Vec::new(),
        }
    }
}

/// `metadata.filter_metadata["outrigger.protocol_choice"]`: while a client says nothing, the host of the chain
/// that would be taken then is connected already, and may speak first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolChoice {
    /// How long the client must have been silent. Default 5 ms.
    pub connect_after: Duration,
    /// How long a destination whose host spoke first is connected to at once. Default 10 min; zero is never.
    pub learn_for: Duration,
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
    /// `envoy.filters.network.tcp_proxy`.
    TcpProxy(Arc<TcpProxy>),
}

impl NetworkFilter {
    /// The connection manager, if it is one.
    #[must_use]
    pub fn http(&self) -> Option<&Arc<HttpConnectionManager>> {
        match self {
            Self::HttpConnectionManager(manager) => Some(manager),
            Self::TcpProxy(_) => None,
        }
    }
}

/// Listener filters that we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerFilter {
    /// `envoy.filters.listener.original_dst`: where the connection was going to.
    OriginalDst,
    /// `envoy.filters.listener.tls_inspector`: whether it speaks TLS, to whom, and what within.
    TlsInspector {
        /// The longest ClientHello, bytes.
        max_client_hello_size: usize,
        /// A ClientHello that makes no sense ends the connection.
        closes_on_errors: bool,
    },
    /// `envoy.filters.listener.http_inspector`: whether it speaks HTTP, and which.
    HttpInspector,
    /// `envoy.filters.listener.original_src`: connections to hosts come from the client's address.
    OriginalSrc {
        /// What the kernel routes the answers by; zero is none.
        mark: u32,
    },
}
