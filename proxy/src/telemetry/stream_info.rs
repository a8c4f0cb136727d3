//! The record of one stream: everything that access logs, spans and header formats may ask.
//!
//! A stream owns its [`StreamInfo`], fills it in on the way, and hands it to the loggers once, when
//! the last byte is sent or the stream is reset.

use std::{
    borrow::Cow,
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, StatusCode, Version};

use crate::{config, upstream};

pub use super::flags::ResponseFlags;

/// The client's address, for connections to hosts that are to come from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The client's.
    pub address: IpAddr,
    /// `SO_MARK`; zero is none.
    pub mark: u32,
}

/// One downstream connection; shared by its streams.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique in this process.
    pub id: u64,
    /// The peer, as the socket says.
    pub remote: SocketAddr,
    /// The address that was connected to, before it was redirected here.
    pub local: SocketAddr,
    /// The address of the socket itself.
    pub real_local: SocketAddr,
    /// Whether the kernel told where the connection was going to.
    pub is_redirected: bool,
    /// What connections to hosts are to come from, if not from the proxy's own address.
    pub source: Option<Source>,
    /// The name that a TLS client asked for.
    pub server_name: Option<Box<str>>,
    /// The listener that accepted it.
    pub listener: Arc<config::listener::Listener>,
    /// When it was accepted.
    pub start: Instant,
}

/// One request and its response.
#[derive(Debug)]
pub struct StreamInfo {
    /// The connection it came on.
    pub connection: Rc<ConnectionInfo>,
    /// Unique in this process; `%STREAM_ID%` without a request id.
    pub start: Instant,
    /// The same moment by the wall clock.
    pub start_time: SystemTime,
    /// What the downstream speaks.
    pub protocol: Version,
    /// The client's address, after `x-forwarded-for` was taken into account.
    pub downstream_remote: SocketAddr,
    /// The chosen route.
    pub route: Option<Arc<config::route::Route>>,
    /// Name of the virtual host of the route.
    pub virtual_host: Option<Arc<str>>,
    /// Name of the route configuration.
    pub route_table: Option<Arc<str>>,
    /// What happened on the other side.
    pub upstream: UpstreamInfo,
    /// Why something went wrong.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Option<Cow<'static, str>>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination_details: Option<Cow<'static, str>>,
    /// `%OUTRIGGER_REASON%`: object, rule and limit of a local reply.
    pub reason: Option<Box<str>>,
    /// The status sent downstream.
    pub response_code: Option<StatusCode>,
    /// The value of `x-request-id`.
    pub request_id: Option<HeaderValue>,
    /// Body bytes received from the client. Shared with the body on its way upstream.
    pub bytes_received: Rc<Cell<u64>>,
    /// Body bytes sent to the client.
    pub bytes_sent: Cell<u64>,
    /// Moments on the client's side.
    pub downstream: DownstreamTimings,
    /// It asked how we are: it is left out of the connection manager's counts of responses.
    pub is_health_check: bool,
    /// The span of this request, if it is traced or has context to pass on.
    pub trace: Option<Box<super::span::ActiveSpan>>,
}

/// Moments of the downstream side.
#[derive(Clone, Debug, Default)]
pub struct DownstreamTimings {
    /// The last byte of the request came in. Shared with the body on its way upstream.
    pub last_rx: Rc<Cell<Option<Instant>>>,
    /// The first byte of the response went out.
    pub first_tx: Option<Instant>,
    /// The last byte of the response went out.
    pub last_tx: Option<Instant>,
}

/// The upstream side of the last attempt.
#[derive(Debug, Default)]
pub struct UpstreamInfo {
    /// The chosen cluster.
    pub cluster: Option<Arc<upstream::Cluster>>,
    /// The chosen host.
    pub host: Option<Arc<upstream::Host>>,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
    /// What the host speaks.
    pub protocol: Option<Version>,
    /// How often the request was tried.
    pub attempts: u32,
    /// Unique in this process.
    pub connection_id: Option<u64>,
    /// Why there was no connection.
    pub transport_failure: Option<Box<str>>,
    /// The first byte of the request went out.
    pub first_tx: Option<Instant>,
    /// The last byte of the request went out. Shared with the body on its way upstream.
    pub last_tx: Rc<Cell<Option<Instant>>>,
    /// The first byte of the response came in.
    pub first_rx: Option<Instant>,
    /// The last byte of the response came in.
    pub last_rx: Option<Instant>,
}

impl StreamInfo {
    /// The record of a stream that starts now.
    #[must_use]
    pub fn new(connection: Rc<ConnectionInfo>, protocol: Version) -> Self {
        let downstream_remote = connection.remote;
        Self {
            connection,
            start: Instant::now(),
            start_time: SystemTime::now(),
            protocol,
            downstream_remote,
            route: None,
            virtual_host: None,
            route_table: None,
            upstream: UpstreamInfo::default(),
            flags: ResponseFlags::default(),
            details: None,
            termination_details: None,
            reason: None,
            response_code: None,
            request_id: None,
            bytes_received: Rc::default(),
            bytes_sent: Cell::new(0),
            downstream: DownstreamTimings::default(),
            is_health_check: false,
            trace: None,
        }
    }

    /// The record of a connection that ends, for access logs of connections.
    #[must_use]
    pub fn of_connection(connection: Rc<ConnectionInfo>) -> Self {
        let start = connection.start;
        let mut info = Self::new(connection, Version::HTTP_09);
        info.start = start;
        if let Some(start_time) = info.start_time.checked_sub(start.elapsed()) {
            info.start_time = start_time;
        }
        info
    }

    /// The name of the chosen cluster.
    #[must_use]
    pub fn cluster_name(&self) -> Option<&Arc<str>> {
        self.upstream
            .cluster
            .as_ref()
            .map(|cluster| &cluster.config.name)
    }

    /// The time since the start of the stream.
    #[must_use]
    pub fn since_start(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.start)
    }
}
