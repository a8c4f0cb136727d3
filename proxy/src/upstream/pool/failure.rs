//! Why a request could not be sent, or got no answer.

use std::fmt;

/// What happened to a request on its way to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A circuit breaker is open.
    Overflow(Limit),
    /// There was no connection; nothing was sent.
    Connect(ConnectFailure),
    /// The connection ended before the response.
    ConnectionTermination,
    /// The peer reset the stream.
    RemoteReset,
    /// The peer refused the stream: nothing was processed.
    RefusedStream,
    /// The peer broke the protocol.
    Protocol,
    /// The request's body failed on the downstream side.
    Request,
}

/// A threshold of the circuit breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `max_pending_requests`
    Pending,
    /// `max_requests`
    Requests,
    /// `max_connections`, of the cluster or the host
    Connections,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectFailure {
    /// `connect_timeout` passed.
    pub(crate) is_timeout: bool,
    /// The address to come from could not be had, so that no host was asked.
    pub(crate) is_local: bool,
    /// The system's text, such as `Connection refused`.
    pub(crate) reason: Box<str>,
}

impl Failure {
    /// A failed attempt to send on an HTTP/1 connection.
    pub(super) fn from_http1(error: &hyper::Error) -> Self {
        if error.is_parse() {
            Self::Protocol
        } else if error.is_user() {
            Self::Request
        } else {
            Self::ConnectionTermination
        }
    }

    /// A failed HTTP/2 stream.
    pub(crate) fn from_http2(error: &h2::Error) -> Self {
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Self::RefusedStream,
            _ if error.is_reset() && error.is_remote() => Self::RemoteReset,
            // The peer's GOAWAY names the last stream that it serves: this one came later.
            _ if error.is_go_away() && error.is_remote() => Self::RefusedStream,
            _ if error.is_library() => Self::Protocol,
            _ => Self::ConnectionTermination,
        }
    }
}

impl ConnectFailure {
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`. As in Envoy, what is late has no reason.
    pub(crate) fn transport_failure(&self) -> Option<String> {
        match (self.is_timeout, self.is_local) {
            (true, _) => None,
            (false, true) => Some(self.reason.to_string()),
            (false, false) => Some(format!("delayed connect error: {}", self.reason)),
        }
    }
}

impl Limit {
    /// The threshold's name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "max_pending_requests",
            Self::Requests => "max_requests",
            Self::Connections => "max_connections",
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
