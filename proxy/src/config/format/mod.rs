//! Format strings with command operators (`SubstitutionFormatString`), parsed.
//!
//! Used by access logs, header mutations and span names; `telemetry::format` evaluates them. An
//! operator that is unknown, or that Envoy has and we do not measure, is an error by name: a log never
//! silently says `-` for something that was not implemented.

mod parse;
mod time;

use std::sync::Arc;

pub use parse::FormatError;
pub use time::{TimeFormat, TimePiece};

/// A parsed format. Clones share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    pieces: Arc<[Piece]>,
    omits_empty: bool,
}

/// A part of a [`Format`].
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Printed as it is.
    Literal(Box<str>),
    /// A command operator, cut to this many bytes if a length was given.
    Operator(Operator, Option<usize>),
}

impl Format {
    /// Parses a format string.
    ///
    /// # Errors
    /// An operator is unknown, not supported or misused, or a `%` is not closed.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        parse::pieces(text).map(|pieces| Self {
            pieces: pieces.into(),
            omits_empty: false,
        })
    }

    /// Envoy's access-log format where none is configured, with its line end.
    #[must_use]
    pub fn default_access_log() -> Self {
        Self::parse(parse::DEFAULT_ACCESS_LOG).expect("the default format is valid")
    }

    /// The same format with `omit_empty_values` as given: operators without a value print nothing in
    /// place of `-`.
    #[must_use]
    pub fn omitting_empty(self, omits_empty: bool) -> Self {
        Self {
            omits_empty,
            ..self
        }
    }

    /// Whether access logs print nothing for operators without a value.
    #[must_use]
    pub fn omits_empty(&self) -> bool {
        self.omits_empty
    }

    /// The parts in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The whole text, if there is no operator in it.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match &*self.pieces {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The operators in order.
    pub fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Operator(operator, _) => Some(operator),
            Piece::Literal(_) => None,
        })
    }
}

/// A header that an operator reads: the first of the two that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderOperand {
    /// Read first.
    pub name: HeaderField,
    /// Read where the first is missing.
    pub alternative: Option<HeaderField>,
}

/// A header or pseudo-header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderField {
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`, also as `host`.
    Authority,
    /// `:path`.
    Path,
    /// `:status`.
    Status,
    /// An ordinary header.
    Name(http::HeaderName),
    /// A pseudo-header that no message of ours has.
    Absent(Box<str>),
}

/// Which part of an address is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPart {
    /// Address and port.
    Whole,
    /// The address alone.
    WithoutPort,
    /// The port alone.
    Port,
}

/// How a gRPC status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcStatusFormat {
    /// `DeadlineExceeded`.
    CamelCase,
    /// `DEADLINE_EXCEEDED`.
    SnakeCase,
    /// `4`.
    Number,
}

/// Which part of a path `%PATH%` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathQuery {
    /// With the query.
    Keep,
    /// Without it.
    Drop,
}

/// Which header `%PATH%` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathSource {
    /// `:path`.
    Path,
    /// `x-envoy-original-path`.
    Original,
    /// The original where there is one.
    OriginalOrPath,
}

/// A moment of a stream, for `%COMMON_DURATION%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimePoint {
    /// `DS_RX_BEG`: the request started.
    DownstreamRxBegin,
    /// `DS_RX_END`: the request was received.
    DownstreamRxEnd,
    /// `US_TX_BEG`: its first byte went upstream.
    UpstreamTxBegin,
    /// `US_TX_END`: its last byte went upstream.
    UpstreamTxEnd,
    /// `US_RX_BEG`: the first byte of the response came.
    UpstreamRxBegin,
    /// `US_RX_END`: the last byte of the response came.
    UpstreamRxEnd,
    /// `DS_TX_BEG`: the first byte of the response went downstream.
    DownstreamTxBegin,
    /// `DS_TX_END`: the last byte of the response went downstream.
    DownstreamTxEnd,
}

/// The unit of `%COMMON_DURATION%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `ms`.
    Milliseconds,
    /// `us`.
    Microseconds,
    /// `ns`.
    Nanoseconds,
}

/// What is printed in place of a command operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// `REQ(X?Y)`.
    Request(HeaderOperand),
    /// `REQ_WITHOUT_QUERY(X?Y)`.
    RequestWithoutQuery(HeaderOperand),
    /// `RESP(X?Y)`.
    Response(HeaderOperand),
    /// `TRAILER(X?Y)`.
    Trailer(HeaderOperand),
    /// `PATH(WQ|NQ:PATH|ORIG|ORIG_OR_PATH)`.
    Path(PathQuery, PathSource),
    /// `QUERY_PARAM(X)`.
    QueryParam(Box<str>),
    /// `QUERY_PARAMS(ORIG)`.
    QueryParams,
    /// `START_TIME(format)`.
    StartTime(TimeFormat),
    /// `START_TIME_LOCAL(format)`.
    StartTimeLocal(TimeFormat),
    /// `EMIT_TIME(format)`.
    EmitTime(TimeFormat),
    /// `EMIT_TIME_LOCAL(format)`.
    EmitTimeLocal(TimeFormat),
    /// `BYTES_RECEIVED`.
    BytesReceived,
    /// `BYTES_SENT`.
    BytesSent,
    /// `PROTOCOL`.
    Protocol,
    /// `UPSTREAM_PROTOCOL`.
    UpstreamProtocol,
    /// `RESPONSE_CODE`.
    ResponseCode,
    /// `RESPONSE_CODE_DETAILS`; spaces become underscores unless `(ALLOW_WHITESPACES)`.
    ResponseCodeDetails {
        /// Leave spaces.
        allow_whitespace: bool,
    },
    /// `CONNECTION_TERMINATION_DETAILS`.
    ConnectionTerminationDetails,
    /// `RESPONSE_FLAGS`.
    ResponseFlags,
    /// `RESPONSE_FLAGS_LONG`.
    ResponseFlagsLong,
    /// `DURATION`.
    Duration,
    /// `REQUEST_DURATION`.
    RequestDuration,
    /// `REQUEST_TX_DURATION`.
    RequestTxDuration,
    /// `RESPONSE_DURATION`.
    ResponseDuration,
    /// `RESPONSE_TX_DURATION`.
    ResponseTxDuration,
    /// `COMMON_DURATION(from:to:precision)`.
    CommonDuration(TimePoint, TimePoint, Precision),
    /// `ROUTE_NAME`.
    RouteName,
    /// `UPSTREAM_HOST`.
    UpstreamHost,
    /// `UPSTREAM_HOST_NAME`, `UPSTREAM_HOST_NAME_WITHOUT_PORT`.
    UpstreamHostName {
        /// With the port, if the name has one.
        port: bool,
    },
    /// `UPSTREAM_CLUSTER`: the name in statistics where there is one.
    UpstreamCluster,
    /// `UPSTREAM_CLUSTER_RAW`: the name.
    UpstreamClusterRaw,
    /// `UPSTREAM_LOCAL_ADDRESS` and kin.
    UpstreamLocalAddress(AddressPart),
    /// `UPSTREAM_REMOTE_ADDRESS` and kin.
    UpstreamRemoteAddress(AddressPart),
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`.
    UpstreamRequestAttemptCount,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    UpstreamTransportFailureReason,
    /// `UPSTREAM_CONNECTION_ID`.
    UpstreamConnectionId,
    /// `DOWNSTREAM_LOCAL_ADDRESS` and kin, also `DOWNSTREAM_DIRECT_LOCAL_ADDRESS` and kin.
    DownstreamLocalAddress(AddressPart),
    /// `DOWNSTREAM_REMOTE_ADDRESS` and kin.
    DownstreamRemoteAddress(AddressPart),
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS` and kin.
    DownstreamDirectRemoteAddress(AddressPart),
    /// `REQUESTED_SERVER_NAME(option)`: there is no TLS yet, so there is no name but the host's.
    RequestedServerName {
        /// Print the host where there is no server name (`SNI_FIRST`, `HOST_FIRST`).
        host: bool,
    },
    /// `CONNECTION_ID`.
    ConnectionId,
    /// `STREAM_ID`.
    StreamId,
    /// `UNIQUE_ID`: a new UUID each time.
    UniqueId,
    /// `HOSTNAME`.
    Hostname,
    /// `GRPC_STATUS(format)`, `GRPC_STATUS_NUMBER`.
    GrpcStatus(GrpcStatusFormat),
    /// `TRACE_ID`.
    TraceId,
    /// `SPAN_ID`.
    SpanId,
    /// `ENVIRONMENT(X)`, read when the configuration is loaded.
    Environment(Option<Box<str>>),
    /// `OUTRIGGER_REASON`: object, rule and limit behind a reply that the proxy made.
    OutriggerReason,
}
