//! The value of each command operator.

use std::{
    fmt,
    io::Write,
    net::SocketAddr,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderName, Version};

use super::{
    Context, grpc,
    time::{self, Zone},
};
use crate::config::format::{
    AddressPart, GrpcStatusFormat, HeaderField, HeaderOperand, Operator, PathQuery, PathSource,
    Precision, TimePoint,
};

/// `x-envoy-original-path`.
pub(super) static ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// The machine's name, as `gethostname` says.
static HOSTNAME: LazyLock<String> = LazyLock::new(|| {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
});

/// Whether JSON shows the operator as a number.
pub(super) fn is_number(operator: &Operator) -> bool {
    use Operator as Op;
    matches!(
        operator,
        Op::BytesReceived
            | Op::BytesSent
            | Op::ResponseCode
            | Op::Duration
            | Op::RequestDuration
            | Op::RequestTxDuration
            | Op::ResponseDuration
            | Op::ResponseTxDuration
            | Op::CommonDuration(..)
            | Op::UpstreamLocalAddress(AddressPart::Port)
            | Op::UpstreamRemoteAddress(AddressPart::Port)
            | Op::DownstreamLocalAddress(AddressPart::Port)
            | Op::DownstreamRemoteAddress(AddressPart::Port)
            | Op::DownstreamDirectRemoteAddress(AddressPart::Port)
            | Op::UpstreamRequestAttemptCount
            | Op::UpstreamConnectionId
            | Op::ConnectionId
            | Op::GrpcStatus(GrpcStatusFormat::Number)
    )
}

/// Appends the operator's value to `out`; false if there is none.
pub(super) fn write(operator: &Operator, cx: &Context<'_>, out: &mut Vec<u8>) -> bool {
    use Operator as Op;
    let info = cx.info;
    let upstream = &info.upstream;
    match operator {
        Op::Request(operand) => bytes(out, request(cx, operand)),
        Op::RequestWithoutQuery(operand) => bytes(out, request(cx, operand).map(without_query)),
        Op::Response(operand) => response(cx, operand, out),
        Op::Trailer(operand) => bytes(out, header(cx.trailers, operand)),
        Op::Path(query, source) => bytes(out, path(cx, *query, *source)),
        Op::QueryParam(name) => query_param(cx, name, out),
        Op::QueryParams => bytes(out, query(cx).map(str::as_bytes)),
        Op::StartTime(format) => time::write(info.start_time, Zone::Utc, format, out),
        Op::StartTimeLocal(format) => time::write(info.start_time, Zone::Local, format, out),
        Op::EmitTime(format) => time::write(SystemTime::now(), Zone::Utc, format, out),
        Op::EmitTimeLocal(format) => time::write(SystemTime::now(), Zone::Local, format, out),
        Op::BytesReceived => number(out, Some(info.bytes_received.get())),
        Op::BytesSent => number(out, Some(info.bytes_sent.get())),
        Op::Protocol => bytes(out, protocol(info.protocol)),
        Op::UpstreamProtocol => {
            let connected = upstream.protocol.filter(|_| is_connected(cx));
            bytes(out, connected.and_then(protocol))
        }
        Op::ResponseCode => number(
            out,
            Some(
                info.response_code
                    .map_or(0, |code| u64::from(code.as_u16())),
            ),
        ),
        Op::ResponseCodeDetails {
            allow_whitespace: true,
        } => bytes(out, info.details.as_deref().map(str::as_bytes)),
        Op::ResponseCodeDetails {
            allow_whitespace: false,
        } => underscored(out, info.details.as_deref()),
        Op::ConnectionTerminationDetails => underscored(out, info.termination_details.as_deref()),
        Op::ResponseFlags => display(out, Some(info.flags)),
        Op::ResponseFlagsLong => flags_long(cx, out),
        Op::Duration => {
            let end = info.downstream.last_tx.unwrap_or_else(Instant::now);
            millis(out, Some(info.since_start(end)))
        }
        Op::RequestDuration
        | Op::RequestTxDuration
        | Op::ResponseDuration
        | Op::ResponseTxDuration => {
            let (from, to) = ends(operator);
            millis(out, between(cx, from, to))
        }
        Op::CommonDuration(from, to, precision) => number(
            out,
            between(cx, *from, *to).map(|time| in_units(time, *precision)),
        ),
        Op::RouteName => {
            let name = info.route.as_deref().map(|route| &*route.name);
            bytes(out, name.filter(|name| !name.is_empty()).map(str::as_bytes))
        }
        Op::UpstreamHost => display(out, upstream.host.as_ref().map(|host| host.address)),
        Op::UpstreamHostName { port } => host_name(cx, *port, out),
        Op::UpstreamCluster => {
            let config = upstream.cluster.as_ref().map(|cluster| &cluster.config);
            bytes(
                out,
                config.map(|config| observability_name(config).as_bytes()),
            )
        }
        Op::UpstreamClusterRaw => bytes(out, info.cluster_name().map(|name| name.as_bytes())),
        Op::UpstreamLocalAddress(part) => address(out, upstream.local, *part),
        Op::UpstreamRemoteAddress(part) => {
            let host = upstream.host.as_ref().filter(|_| is_connected(cx));
            address(out, host.map(|host| host.address), *part)
        }
        Op::UpstreamRequestAttemptCount => number(out, Some(u64::from(upstream.attempts))),
        Op::UpstreamTransportFailureReason => {
            underscored(out, upstream.transport_failure.as_deref())
        }
        Op::UpstreamConnectionId => number(out, Some(upstream.connection_id.unwrap_or(0))),
        Op::DownstreamLocalAddress(part) => address(out, Some(info.connection.local), *part),
        Op::DownstreamRemoteAddress(part) => address(out, Some(info.downstream_remote), *part),
        Op::DownstreamDirectRemoteAddress(part) => {
            address(out, Some(info.connection.remote), *part)
        }
        Op::RequestedServerName { host } => {
            let authority = cx
                .request
                .filter(|_| *host)
                .and_then(|request| request.authority());
            let name = info.connection.server_name.as_deref().map(str::as_bytes);
            bytes(
                out,
                name.or_else(|| authority.map(|value| value.as_bytes())),
            )
        }
        Op::ConnectionId => number(out, Some(info.connection.id)),
        Op::StreamId => bytes(out, info.request_id.as_ref().map(|id| id.as_bytes())),
        Op::UniqueId => display(out, Some(uuid::Uuid::new_v4())),
        Op::Hostname => bytes(out, Some(HOSTNAME.as_bytes())),
        Op::GrpcStatus(format) => grpc::write(cx, *format, out),
        Op::TraceId => {
            let span = info.trace.as_deref();
            display(out, span.map(|span| Hex(span.trace_id, 32)))
        }
        Op::SpanId => {
            let span = info.trace.as_deref();
            display(out, span.map(|span| Hex(span.span_id.into(), 16)))
        }
        Op::Environment(value) => bytes(out, value.as_deref().map(str::as_bytes)),
        Op::OutriggerReason => bytes(out, info.reason.as_deref().map(str::as_bytes)),
    }
}

fn bytes<'a>(out: &mut Vec<u8>, value: impl Into<Option<&'a [u8]>>) -> bool {
    match value.into() {
        Some(value) => {
            out.extend_from_slice(value);
            true
        }
        None => false,
    }
}

fn display(out: &mut Vec<u8>, value: Option<impl fmt::Display>) -> bool {
    value.is_some_and(|value| write!(out, "{value}").is_ok())
}

fn number(out: &mut Vec<u8>, value: Option<u64>) -> bool {
    let mut digits = itoa::Buffer::new();
    bytes(out, value.map(|value| digits.format(value).as_bytes()))
}

fn millis(out: &mut Vec<u8>, value: Option<Duration>) -> bool {
    number(
        out,
        value.map(|time| in_units(time, Precision::Milliseconds)),
    )
}

fn in_units(time: Duration, precision: Precision) -> u64 {
    let units = match precision {
        Precision::Milliseconds => time.as_millis(),
        Precision::Microseconds => time.as_micros(),
        Precision::Nanoseconds => time.as_nanos(),
    };
    u64::try_from(units).unwrap_or(u64::MAX)
}

/// With every kind of space as `_`, so that fields of a log line stay apart.
fn underscored(out: &mut Vec<u8>, value: Option<&str>) -> bool {
    let start = out.len();
    let written = bytes(out, value.map(str::as_bytes));
    for byte in &mut out[start..] {
        if byte.is_ascii_whitespace() {
            *byte = b'_';
        }
    }
    written
}

/// The cluster's name for people: `alt_stat_name` where there is one.
pub(crate) fn observability_name(cluster: &crate::config::cluster::Cluster) -> &str {
    let sanitized = cluster
        .name
        .bytes()
        .map(|byte| if byte == b':' { b'_' } else { byte });
    match sanitized.eq(cluster.stat_name.bytes()) {
        true => &cluster.name,
        false => &cluster.stat_name,
    }
}

/// A number with this many hexadecimal digits.
struct Hex(u128, usize);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.0, width = self.1)
    }
}

fn address(out: &mut Vec<u8>, address: Option<SocketAddr>, part: AddressPart) -> bool {
    match part {
        AddressPart::Whole => display(out, address),
        AddressPart::WithoutPort => display(out, address.map(|address| address.ip())),
        AddressPart::Port => number(out, address.map(|address| u64::from(address.port()))),
    }
}

/// Whether there was a connection to the upstream: what is said of it is not said of an attempt.
fn is_connected(cx: &Context<'_>) -> bool {
    cx.info.upstream.local.is_some()
}

fn protocol(version: Version) -> Option<&'static [u8]> {
    match version {
        Version::HTTP_10 => Some(b"HTTP/1.0"),
        Version::HTTP_11 => Some(b"HTTP/1.1"),
        Version::HTTP_2 => Some(b"HTTP/2"),
        _ => None,
    }
}

fn request<'a>(cx: &Context<'a>, operand: &'a HeaderOperand) -> Option<&'a [u8]> {
    let request = cx.request?;
    request
        .field(&operand.name)
        .or_else(|| request.field(operand.alternative.as_ref()?))
}

fn response(cx: &Context<'_>, operand: &HeaderOperand, out: &mut Vec<u8>) -> bool {
    let fields = [Some(&operand.name), operand.alternative.as_ref()];
    fields.into_iter().flatten().any(|field| match field {
        HeaderField::Status => {
            cx.response.is_some()
                && number(
                    out,
                    cx.info.response_code.map(|code| u64::from(code.as_u16())),
                )
        }
        HeaderField::Name(name) => {
            let value = cx.response.and_then(|headers| headers.get(name));
            bytes(out, value.map(|value| value.as_bytes()))
        }
        _ => false,
    })
}

fn header<'a>(headers: Option<&'a HeaderMap>, operand: &HeaderOperand) -> Option<&'a [u8]> {
    let headers = headers?;
    let value = |field: &HeaderField| match field {
        HeaderField::Name(name) => headers.get(name).map(|value| value.as_bytes()),
        _ => None,
    };
    value(&operand.name).or_else(|| value(operand.alternative.as_ref()?))
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'?').next().unwrap_or(path)
}

fn path<'a>(cx: &Context<'a>, query: PathQuery, source: PathSource) -> Option<&'a [u8]> {
    let request = cx.request?;
    let original = request
        .headers
        .get(&ORIGINAL_PATH)
        .map(|value| value.as_bytes());
    let path = match source {
        PathSource::Path => request.path.as_bytes(),
        PathSource::Original => original?,
        PathSource::OriginalOrPath => original.unwrap_or(request.path.as_bytes()),
    };
    Some(match query {
        PathQuery::Keep => path,
        PathQuery::Drop => without_query(path),
    })
}

fn query<'a>(cx: &Context<'a>) -> Option<&'a str> {
    Some(cx.request?.path.split_once('?')?.1)
}

fn query_param(cx: &Context<'_>, name: &str, out: &mut Vec<u8>) -> bool {
    let Some(query) = query(cx) else {
        return false;
    };
    let value = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        percent_encoding::percent_decode_str(key)
            .eq(name.bytes())
            .then_some(value)
    });
    match value {
        Some(value) => {
            out.extend(percent_encoding::percent_decode_str(value));
            true
        }
        None => false,
    }
}

fn flags_long(cx: &Context<'_>, out: &mut Vec<u8>) -> bool {
    for (index, name) in cx.info.flags.long_names().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
    }
    if cx.info.flags.is_empty() {
        out.push(b'-');
    }
    true
}

fn host_name(cx: &Context<'_>, port: bool, out: &mut Vec<u8>) -> bool {
    let Some(host) = &cx.info.upstream.host else {
        return false;
    };
    match (host.hostname.is_empty(), port) {
        (true, true) => display(out, Some(host.address)),
        (true, false) => display(out, Some(host.address.ip())),
        (false, true) => bytes(out, host.hostname.as_bytes()),
        (false, false) => {
            let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let name = match host.hostname.rsplit_once(':') {
                Some((name, port)) if is_port(port) => name,
                _ => &host.hostname,
            };
            bytes(out, name.as_bytes())
        }
    }
}

/// The moments that a named duration lies between.
fn ends(operator: &Operator) -> (TimePoint, TimePoint) {
    use TimePoint as At;
    match operator {
        Operator::RequestDuration => (At::DownstreamRxBegin, At::DownstreamRxEnd),
        Operator::RequestTxDuration => (At::DownstreamRxBegin, At::UpstreamTxEnd),
        Operator::ResponseDuration => (At::DownstreamRxBegin, At::UpstreamRxBegin),
        _ => (At::UpstreamRxBegin, At::DownstreamTxEnd),
    }
}

fn between(cx: &Context<'_>, from: TimePoint, to: TimePoint) -> Option<Duration> {
    let (from, to) = (moment(cx, from)?, moment(cx, to)?);
    to.checked_duration_since(from)
}

fn moment(cx: &Context<'_>, point: TimePoint) -> Option<Instant> {
    let (downstream, upstream) = (&cx.info.downstream, &cx.info.upstream);
    match point {
        TimePoint::DownstreamRxBegin => Some(cx.info.start),
        TimePoint::DownstreamRxEnd => downstream.last_rx.get(),
        TimePoint::UpstreamTxBegin => upstream.first_tx,
        TimePoint::UpstreamTxEnd => upstream.last_tx.get(),
        TimePoint::UpstreamRxBegin => upstream.first_rx,
        TimePoint::UpstreamRxEnd => upstream.last_rx,
        TimePoint::DownstreamTxBegin => downstream.first_tx,
        TimePoint::DownstreamTxEnd => downstream.last_tx,
    }
}
