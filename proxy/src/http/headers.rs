//! What the connection manager does to heads, in Envoy's order.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{self, Entry},
    request::Parts,
    uri::{PathAndQuery, Scheme, Uri},
};

use super::{
    local_reply::LocalReply,
    path::{self, Normalized},
    request_id,
};
use crate::config::http_connection_manager::{HttpConnectionManager, ServerHeader, StripPort};

macro_rules! names {
    ($($name:ident = $text:literal;)*) => {
        $(pub(super) const $name: HeaderName = HeaderName::from_static($text);)*
    };
}

names! {
    KEEP_ALIVE = "keep-alive";
    PROXY_CONNECTION = "proxy-connection";
    HTTP2_SETTINGS = "http2-settings";
    X_FORWARDED_FOR = "x-forwarded-for";
    X_FORWARDED_PROTO = "x-forwarded-proto";
    X_FORWARDED_PORT = "x-forwarded-port";
    X_REQUEST_ID = "x-request-id";
    X_ENVOY_INTERNAL = "x-envoy-internal";
    X_ENVOY_EXTERNAL_ADDRESS = "x-envoy-external-address";
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER = "x-envoy-downstream-service-cluster";
    X_ENVOY_DOWNSTREAM_SERVICE_NODE = "x-envoy-downstream-service-node";
    X_ENVOY_DECORATOR_OPERATION = "x-envoy-decorator-operation";
    X_ENVOY_ORIGINAL_PATH = "x-envoy-original-path";
    X_ENVOY_ORIGINAL_HOST = "x-envoy-original-host";
}

/// `x-envoy-…` headers that only internal clients may send.
const INTERNAL_ONLY: [&str; 14] = [
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];

/// Facts about the connection and the process that requests are judged with.
#[derive(Debug)]
pub struct Origin<'a> {
    /// The peer.
    pub remote: SocketAddr,
    /// What it connected to.
    pub local: SocketAddr,
    /// This machine's own address, appended to `x-forwarded-for` for clients on the loopback.
    pub own_address: IpAddr,
    /// `node.cluster`
    pub service_cluster: &'a str,
    /// `node.id`
    pub service_node: &'a str,
}

/// What was found out about a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The client behind trusted proxies.
    pub client: SocketAddr,
    /// The request counts as internal.
    pub is_internal: bool,
    /// `:scheme`
    pub scheme: Scheme,
}

/// Which headers a request has; one look over all of them is cheaper than asking for each.
#[derive(Debug, Default)]
struct Seen {
    connection: bool,
    upgrade: bool,
    te: bool,
    /// `keep-alive`, `proxy-connection`, `transfer-encoding`, `http2-settings`
    hop_by_hop: bool,
    forwarded_for: bool,
    forwarded_proto: bool,
    request_id: bool,
    envoy: bool,
    expect: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match *name {
                header::CONNECTION => seen.connection = true,
                header::UPGRADE => seen.upgrade = true,
                header::TE => seen.te = true,
                header::TRANSFER_ENCODING => seen.hop_by_hop = true,
                header::EXPECT => seen.expect = true,
                _ => match name.as_str() {
                    "x-forwarded-for" => seen.forwarded_for = true,
                    "x-forwarded-proto" => seen.forwarded_proto = true,
                    "x-request-id" => seen.request_id = true,
                    "keep-alive" | "proxy-connection" | "http2-settings" => seen.hop_by_hop = true,
                    other => seen.envoy |= other.starts_with("x-envoy-"),
                },
            }
        }
        seen
    }
}

/// Checks that come before anything is changed: version, host, path.
///
/// # Errors
/// The reply to a request that is not acceptable.
pub fn check_request(
    parts: &mut Parts,
    config: &HttpConnectionManager,
    local: SocketAddr,
) -> Result<(), LocalReply> {
    if parts.version == Version::HTTP_10
        && let Entry::Vacant(entry) = parts.headers.entry(header::HOST)
        && let Some(host) = &config.http1.default_host_for_http_10
        && let Ok(host) = HeaderValue::from_str(host)
    {
        entry.insert(host);
    }
    if !parts.headers.contains_key(header::HOST) {
        return Err(LocalReply::new(
            StatusCode::BAD_REQUEST,
            "",
            "missing_host_header",
        ));
    }
    if parts.method != Method::CONNECT {
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        if !path.starts_with('/') {
            return Err(LocalReply::new(
                StatusCode::NOT_FOUND,
                "",
                "absolute_path_rejected",
            ));
        }
        match path::normalize(path, config) {
            Normalized::Same => {}
            Normalized::Changed(path) => parts.uri = uri_of(&path)?,
            Normalized::Rejected(shown) => {
                if let Some(shown) = shown {
                    parts.uri = uri_of(&shown)?;
                }
                return Err(bad_path());
            }
            Normalized::Redirect(path) => {
                parts.uri = uri_of(&path)?;
                let location = HeaderValue::try_from(path).map_err(|_| bad_path())?;
                return Err(LocalReply::new(
                    StatusCode::TEMPORARY_REDIRECT,
                    "",
                    "path_normalization_failed",
                )
                .with_header(header::LOCATION, location));
            }
        }
    }
    if config.strip_port != StripPort::No || config.strip_trailing_host_dot {
        strip_host(parts, config, local);
    }
    Ok(())
}

/// The reply to a path that cannot be normalised.
pub(super) fn bad_path() -> LocalReply {
    LocalReply::new(StatusCode::BAD_REQUEST, "", "path_normalization_failed")
}

fn uri_of(path: &str) -> Result<Uri, LocalReply> {
    PathAndQuery::try_from(path)
        .map(Uri::from)
        .map_err(|_| bad_path())
}

fn strip_host(parts: &mut Parts, config: &HttpConnectionManager, local: SocketAddr) {
    let Some(host) = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
    else {
        return;
    };
    // A dot may stand behind the port too.
    let dotless = host
        .strip_suffix('.')
        .filter(|_| config.strip_trailing_host_dot);
    let (mut name, mut port) = split_port(dotless.unwrap_or(host));
    let strips_port = match config.strip_port {
        StripPort::No => false,
        StripPort::Any => true,
        StripPort::Matching => port.is_some_and(|port| port.parse() == Ok(local.port())),
    };
    if strips_port {
        port = None;
    }
    if config.strip_trailing_host_dot {
        name = name.strip_suffix('.').unwrap_or(name);
    }
    let changed = match port {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    if changed != host
        && let Ok(value) = HeaderValue::try_from(changed)
    {
        parts.headers.insert(header::HOST, value);
    }
}

/// Splits `host:port`; the colons of an IPv6 address are not a port's.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (name.ends_with(']') || !name.contains(':')) =>
        {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

/// Makes the request ready to be routed and sent on: hop-by-hop headers go, the trusted client's address
/// is found, `x-forwarded-…`, `x-envoy-…`, `via` and `x-request-id` are set.
///
/// `random` is asked only when a request id is made.
pub fn prepare_request(
    parts: &mut Parts,
    config: &HttpConnectionManager,
    internal_only: &[HeaderName],
    origin: &Origin<'_>,
    random: impl FnMut() -> u64,
) -> Prepared {
    let headers = &mut parts.headers;
    let seen = Seen::of(headers);
    remove_hop_by_hop(headers, &seen);
    if seen.expect && !config.proxy_100_continue {
        remove_expect(headers);
    }
    if seen.envoy {
        headers.remove(X_ENVOY_INTERNAL);
    }
    let (client, is_trusted) = find_client(headers, config, origin, &seen);
    if seen.forwarded_for {
        join_lines(headers, X_FORWARDED_FOR);
    }
    if config.append_x_forwarded_port
        && ((config.use_remote_address && config.xff_num_trusted_hops == 0)
            || !headers.contains_key(X_FORWARDED_PORT))
    {
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(origin.local.port()));
    }
    let is_internal =
        is_trusted && client.is_some_and(|client| is_internal_address(client.ip(), config));
    let client = client.unwrap_or(origin.remote);
    let is_edge = !is_internal && config.use_remote_address;
    if is_internal {
        headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    } else {
        if seen.envoy {
            if is_edge {
                for name in [
                    X_ENVOY_DECORATOR_OPERATION,
                    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
                    X_ENVOY_DOWNSTREAM_SERVICE_NODE,
                    X_ENVOY_ORIGINAL_PATH,
                    X_ENVOY_ORIGINAL_HOST,
                ] {
                    headers.remove(name);
                }
            }
            for name in INTERNAL_ONLY {
                headers.remove(name);
            }
        }
        for name in internal_only {
            headers.remove(name);
        }
        if is_edge && let Ok(address) = HeaderValue::try_from(client.ip().to_string()) {
            headers.insert(X_ENVOY_EXTERNAL_ADDRESS, address);
        }
    }
    if config.add_user_agent {
        add_user_agent(headers, origin);
    }
    if let Some(via) = &config.via {
        append(headers, header::VIA, via, ", ");
    }
    if config.generate_request_id {
        let keeps = !is_edge || config.preserve_external_request_id;
        if !seen.request_id || !keeps {
            headers.insert(X_REQUEST_ID, request_id::generate(random));
        } else if is_edge && config.pack_trace_reason {
            request_id::clear_trace_reason(headers);
        }
    }
    let scheme = config
        .scheme_overwrite
        .clone()
        .unwrap_or_else(|| forwarded_scheme(headers));
    Prepared {
        client,
        is_internal,
        scheme,
    }
}

/// Removes what concerns only the connection that the request came on.
fn remove_hop_by_hop(headers: &mut HeaderMap, seen: &Seen) {
    if seen.connection {
        headers.remove(header::CONNECTION);
    }
    if seen.upgrade {
        headers.remove(header::UPGRADE);
    }
    if seen.te {
        let is_trailers = headers
            .get_all(header::TE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if is_trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(header::TE);
        }
    }
    if seen.hop_by_hop {
        for name in [
            KEEP_ALIVE,
            PROXY_CONNECTION,
            header::TRANSFER_ENCODING,
            HTTP2_SETTINGS,
        ] {
            headers.remove(name);
        }
    }
}

fn remove_expect(headers: &mut HeaderMap) {
    let is_continue = headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_continue {
        headers.remove(header::EXPECT);
    }
}

/// The trusted client, if there is one, and whether its address may make the request internal. Sets
/// `x-forwarded-for` and `x-forwarded-proto` on the way.
fn find_client(
    headers: &mut HeaderMap,
    config: &HttpConnectionManager,
    origin: &Origin<'_>,
    seen: &Seen,
) -> (Option<SocketAddr>, bool) {
    let hops = config.xff_num_trusted_hops as usize;
    let found = if config.use_remote_address {
        let behind = hops
            .checked_sub(1)
            .and_then(|skip| forwarded_client(headers, skip));
        if !config.skip_xff_append {
            let peer = origin.remote.ip();
            let address = if peer.is_loopback() {
                origin.own_address
            } else {
                peer
            };
            append_forwarded(headers, address);
        }
        if hops == 0 || !seen.forwarded_proto {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        let client = behind.map_or(origin.remote, |(client, _)| client);
        (Some(client), !seen.forwarded_for)
    } else if seen.forwarded_for {
        match forwarded_client(headers, hops) {
            Some((client, is_single)) => (Some(client), is_single),
            None => (None, false),
        }
    } else {
        (None, false)
    };
    if !config.use_remote_address && !seen.forwarded_proto {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    found
}

/// The address in `x-forwarded-for` that has `skip` others to its right, and whether it is the only
/// one.
fn forwarded_client(headers: &HeaderMap, skip: usize) -> Option<(SocketAddr, bool)> {
    // Several headers of this name count as one list.
    let mut addresses = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .rev_values()
        .flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','));
    let address = addresses.nth(skip)?.trim_ascii();
    let is_single = skip == 0 && addresses.next().is_none();
    let text = std::str::from_utf8(address).ok()?;
    let ip = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some((SocketAddr::new(ip, 0), is_single))
}

/// Values from the last to the first.
trait RevValues<'a>: Iterator<Item = &'a HeaderValue> + Sized {
    fn rev_values(self) -> std::iter::Rev<smallvec::IntoIter<[&'a HeaderValue; 4]>> {
        self.collect::<smallvec::SmallVec<[_; 4]>>()
            .into_iter()
            .rev()
    }
}

impl<'a, I: Iterator<Item = &'a HeaderValue>> RevValues<'a> for I {}

fn append_forwarded(headers: &mut HeaderMap, address: IpAddr) {
    if let Ok(value) = HeaderValue::try_from(address.to_string()) {
        append(headers, X_FORWARDED_FOR, &value, ",");
    }
}

/// Makes one list header of several.
fn join_lines(headers: &mut HeaderMap, name: HeaderName) {
    let mut values = headers.get_all(&name).iter();
    let (Some(first), Some(second)) = (values.next(), values.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(joined) = HeaderValue::try_from(joined) {
        headers.insert(name, joined);
    }
}

/// Appends to a list header, whatever number of headers it is in.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue, separator: &str) {
    let mut joined = Vec::new();
    for old in headers.get_all(&name) {
        if !old.is_empty() {
            joined.extend_from_slice(old.as_bytes());
            joined.extend_from_slice(separator.as_bytes());
        }
    }
    if joined.is_empty() {
        headers.insert(name, value.clone());
    } else {
        joined.extend_from_slice(value.as_bytes());
        if let Ok(joined) = HeaderValue::try_from(joined) {
            headers.insert(name, joined);
        }
    }
}

/// Whether an address is within `internal_address_config`; by default none is.
fn is_internal_address(address: IpAddr, config: &HttpConnectionManager) -> bool {
    config
        .internal_cidrs
        .iter()
        .flatten()
        .any(|(network, length)| contains(*network, *length, address))
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32_u32.saturating_sub(length.into());
            (network.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .is_none_or(|rest| rest == 0)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128_u32.saturating_sub(length.into());
            (network.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .is_none_or(|rest| rest == 0)
        }
        _ => false,
    }
}

fn add_user_agent(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let Ok(cluster) = HeaderValue::from_str(origin.service_cluster) else {
        return;
    };
    if headers
        .get(header::USER_AGENT)
        .is_none_or(HeaderValue::is_empty)
    {
        headers.insert(header::USER_AGENT, cluster.clone());
    }
    headers.insert(X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, cluster);
    if !origin.service_node.is_empty()
        && let Ok(node) = HeaderValue::from_str(origin.service_node)
    {
        headers.insert(X_ENVOY_DOWNSTREAM_SERVICE_NODE, node);
    }
}

/// `:scheme`: what `x-forwarded-proto` says if it is one that HTTP has.
fn forwarded_scheme(headers: &HeaderMap) -> Scheme {
    match headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes) {
        Some(proto) if proto.eq_ignore_ascii_case(b"https") => Scheme::HTTPS,
        _ => Scheme::HTTP,
    }
}

/// What a response is finished with.
#[derive(Debug)]
pub struct ResponseCx<'a> {
    /// Now, as `date` has it.
    pub date: HeaderValue,
    /// The request's id.
    pub request_id: Option<&'a HeaderValue>,
    /// We made the response ourselves.
    pub is_local: bool,
    /// HTTP/1: close the connection after it.
    pub closes: bool,
}

/// Makes a response ready to be sent to the client.
pub fn finish_response(
    headers: &mut HeaderMap,
    config: &HttpConnectionManager,
    cx: ResponseCx<'_>,
) {
    let mut has_hop_by_hop = false;
    let mut has_server = false;
    let mut has_date = false;
    for name in headers.keys() {
        match *name {
            header::SERVER => has_server = true,
            header::DATE => has_date = true,
            header::CONNECTION | header::UPGRADE | header::TRANSFER_ENCODING => {
                has_hop_by_hop = true
            }
            _ => has_hop_by_hop |= matches!(name.as_str(), "keep-alive" | "proxy-connection"),
        }
    }
    if has_hop_by_hop {
        for name in [
            header::CONNECTION,
            header::UPGRADE,
            header::TRANSFER_ENCODING,
            KEEP_ALIVE,
            PROXY_CONNECTION,
        ] {
            headers.remove(name);
        }
    }
    if config.always_set_request_id_in_response
        && let Some(id) = cx.request_id
    {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    if let Some(via) = &config.via {
        append(headers, header::VIA, via, ", ");
    }
    if !has_date {
        headers.insert(header::DATE, cx.date);
    }
    let sets_server = match config.server_header {
        ServerHeader::Overwrite => true,
        ServerHeader::AppendIfAbsent => !has_server,
        ServerHeader::PassThrough => false,
    };
    if sets_server {
        headers.insert(header::SERVER, config.server_name.clone());
    }
    if cx.closes {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Whether an HTTP/1 request really asks for another protocol.
#[must_use]
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Whether the client expects the connection to be closed without saying so in today's way: an old
/// version without keep-alive, or a header for old proxies.
#[must_use]
pub fn wants_close(parts: &Parts) -> bool {
    let has = |name: &HeaderName, token: &[u8]| {
        parts
            .headers
            .get_all(name)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
    };
    (parts.version == Version::HTTP_10 && !has(&header::CONNECTION, b"keep-alive"))
        || has(&PROXY_CONNECTION, b"close")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::Request;

    use super::*;
    use crate::worker::testing::TestWorker;

    fn config(lines: &str) -> std::sync::Arc<HttpConnectionManager> {
        let yaml = TestWorker::yaml(lines, None);
        let bootstrap =
            crate::bootstrap::load(&yaml, &crate::bootstrap::Overrides::default()).unwrap();
        let chain = &bootstrap.listeners[0].filter_chains[0];
        let crate::config::listener::NetworkFilter::HttpConnectionManager(manager) = &chain.filter;
        std::sync::Arc::clone(manager)
    }

    fn head(lines: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::get("/").header("host", "a");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn prepare(parts: &mut Parts, config: &HttpConnectionManager) -> Prepared {
        let origin = Origin {
            remote: SocketAddr::new(LOOPBACK, 9),
            local: SocketAddr::new(LOOPBACK, 80),
            own_address: OWN,
            service_cluster: "cluster",
            service_node: "node",
        };
        prepare_request(parts, config, &[], &origin, || 7)
    }

    const CIDRS: &str = "          internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, \
                         prefix_len: 8}, {address_prefix: 127.0.0.0, prefix_len: 8}]}";

    #[test]
    fn several_lines_of_addresses_become_one() {
        let mut parts = head(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
        ]);
        prepare(&mut parts, &config(""));
        let lines: Vec<_> = parts.headers.get_all(X_FORWARDED_FOR).iter().collect();
        assert_eq!(lines, ["1.1.1.1,2.2.2.2"]);
    }

    /// Each row as Envoy 1.40 sent it upstream: configuration, `x-forwarded-for` and `x-forwarded-proto`
    /// as they came, then `x-forwarded-for`, `x-envoy-external-address`, whether it is internal, and
    /// `x-forwarded-proto` as they went.
    #[test]
    fn the_client_is_found_as_envoy_finds_it() {
        let edge = "          use_remote_address: true";
        let hop = "          use_remote_address: true\n          xff_num_trusted_hops: 1";
        let behind = "          xff_num_trusted_hops: 1";
        let edge_cidrs = format!("{edge}\n{CIDRS}");
        let skip = "          use_remote_address: true\n          skip_xff_append: true";
        for (lines, xff, proto, sent, external, internal, sent_proto) in [
            (edge, "", "", "192.0.2.2", "127.0.0.1", false, "http"),
            (
                edge,
                "10.0.0.1",
                "",
                "10.0.0.1,192.0.2.2",
                "127.0.0.1",
                false,
                "http",
            ),
            (
                edge,
                "1.2.3.4",
                "https",
                "1.2.3.4,192.0.2.2",
                "127.0.0.1",
                false,
                "http",
            ),
            (edge, "zz", "", "zz,192.0.2.2", "127.0.0.1", false, "http"),
            (hop, "", "", "192.0.2.2", "127.0.0.1", false, "http"),
            (
                hop,
                "1.2.3.4, 10.0.0.1",
                "",
                "1.2.3.4, 10.0.0.1,192.0.2.2",
                "10.0.0.1",
                false,
                "http",
            ),
            (
                hop,
                "1.2.3.4",
                "https",
                "1.2.3.4,192.0.2.2",
                "1.2.3.4",
                false,
                "https",
            ),
            (hop, "zz", "", "zz,192.0.2.2", "127.0.0.1", false, "http"),
            (behind, "10.0.0.1", "", "10.0.0.1", "9.9.9.9", false, "http"),
            (CIDRS, "", "", "", "9.9.9.9", false, "http"),
            (CIDRS, "10.0.0.1", "", "10.0.0.1", "9.9.9.9", true, "http"),
            (
                CIDRS,
                "1.2.3.4, 10.0.0.1",
                "",
                "1.2.3.4, 10.0.0.1",
                "9.9.9.9",
                false,
                "http",
            ),
            (
                CIDRS, "1.2.3.4", "https", "1.2.3.4", "9.9.9.9", false, "https",
            ),
            (&edge_cidrs, "", "", "192.0.2.2", "9.9.9.9", true, "http"),
            (
                &edge_cidrs,
                "10.0.0.1",
                "",
                "10.0.0.1,192.0.2.2",
                "127.0.0.1",
                false,
                "http",
            ),
            (skip, "", "", "", "127.0.0.1", false, "http"),
            (skip, "10.0.0.1", "", "10.0.0.1", "127.0.0.1", false, "http"),
        ] {
            let mut lines_in = vec![("x-envoy-external-address", "9.9.9.9")];
            if !xff.is_empty() {
                lines_in.push(("x-forwarded-for", xff));
            }
            if !proto.is_empty() {
                lines_in.push(("x-forwarded-proto", proto));
            }
            let mut parts = head(&lines_in);
            let prepared = prepare(&mut parts, &config(lines));
            let get = |name: &str| {
                parts
                    .headers
                    .get(name)
                    .map_or("", |value| value.to_str().unwrap())
                    .to_owned()
            };
            let case = format!("{lines} {xff:?}");
            assert_eq!(get("x-forwarded-for"), sent, "{case}");
            assert_eq!(get("x-envoy-external-address"), external, "{case}");
            assert_eq!(get("x-envoy-internal") == "true", internal, "{case}");
            assert_eq!(prepared.is_internal, internal, "{case}");
            assert_eq!(get("x-forwarded-proto"), sent_proto, "{case}");
            assert_eq!(prepared.scheme.as_str(), sent_proto, "{case}");
        }
    }

    #[test]
    fn hop_by_hop_headers_stay_here() {
        let mut parts = head(&[
            ("connection", "keep-alive"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("te", "trailers, gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("x-bar", "2"),
        ]);
        prepare(&mut parts, &config(""));
        let mut names: Vec<&str> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["host", "te", "x-bar", "x-forwarded-proto", "x-request-id"]
        );
        assert_eq!(parts.headers["te"], "trailers");
    }

    #[test]
    fn clients_from_outside_cannot_steer() {
        let steering: Vec<(&'static str, &str)> =
            INTERNAL_ONLY.iter().map(|name| (*name, "1")).collect();
        let mut parts = head(&steering);
        prepare(&mut parts, &config(""));
        assert!(
            INTERNAL_ONLY
                .iter()
                .all(|name| !parts.headers.contains_key(*name))
        );
        let mut parts = head(&[&steering[..], &[("x-forwarded-for", "10.0.0.1")]].concat());
        prepare(&mut parts, &config(CIDRS));
        assert!(
            INTERNAL_ONLY
                .iter()
                .all(|name| parts.headers.contains_key(*name))
        );
    }

    #[test]
    fn request_ids_are_made_kept_and_replaced() {
        let id = |lines: &str, given: Option<&str>| {
            let mut parts = head(given.map(|id| ("x-request-id", id)).as_slice());
            prepare(&mut parts, &config(lines));
            parts
                .headers
                .get("x-request-id")
                .map(|id| id.to_str().unwrap().to_owned())
        };
        assert_eq!(id("", None).unwrap().len(), 36);
        assert_eq!(id("", Some("abc")).unwrap(), "abc");
        let edge = "          use_remote_address: true";
        assert_eq!(id(edge, Some("abc")).unwrap().len(), 36);
        let keep =
            "          use_remote_address: true\n          preserve_external_request_id: true";
        assert_eq!(id(keep, Some("abc")).unwrap(), "abc");
        assert_eq!(id("          generate_request_id: false", None), None);
    }

    #[test]
    fn via_and_user_agent_are_added() {
        let lines = "          via: here\n          add_user_agent: true\n          append_x_forwarded_port: true";
        let mut parts = head(&[("via", "there")]);
        prepare(&mut parts, &config(lines));
        assert_eq!(parts.headers["via"], "there, here");
        assert_eq!(parts.headers["user-agent"], "cluster");
        assert_eq!(
            parts.headers["x-envoy-downstream-service-cluster"],
            "cluster"
        );
        assert_eq!(parts.headers["x-envoy-downstream-service-node"], "node");
        assert_eq!(parts.headers["x-forwarded-port"], "80");
    }

    #[test]
    fn ports_and_dots_are_stripped_from_hosts() {
        let any = "          strip_any_host_port: true\n          strip_trailing_host_dot: true";
        let matching = "          strip_matching_host_port: true";
        for (lines, host, expected) in [
            (any, "a:80", "a"),
            (any, "a:80.", "a"),
            (any, "a.:80", "a"),
            (any, "a.", "a"),
            (any, "[::1]:80", "[::1]"),
            (any, "[::1]", "[::1]"),
            (matching, "a:80", "a"),
            (matching, "a:81", "a:81"),
            ("", "a:80.", "a:80."),
        ] {
            let mut parts = head(&[]);
            parts
                .headers
                .insert(header::HOST, HeaderValue::from_static(host));
            check_request(&mut parts, &config(lines), SocketAddr::new(LOOPBACK, 80)).unwrap();
            assert_eq!(parts.headers["host"], expected, "{lines} {host}");
        }
    }

    #[test]
    fn responses_are_finished_by_configuration() {
        let finish = |lines: &str, server: Option<&'static str>, closes| {
            let mut headers = HeaderMap::new();
            headers.insert("keep-alive", HeaderValue::from_static("5"));
            headers.insert("connection", HeaderValue::from_static("keep-alive"));
            if let Some(server) = server {
                headers.insert("server", HeaderValue::from_static(server));
            }
            let cx = ResponseCx {
                date: HeaderValue::from_static("now"),
                request_id: Some(&HeaderValue::from_static("id")),
                is_local: false,
                closes,
            };
            finish_response(&mut headers, &config(lines), cx);
            headers
        };
        let plain = finish("", Some("x"), true);
        assert_eq!(plain["server"], "envoy");
        assert_eq!(plain["date"], "now");
        assert_eq!(plain["connection"], "close");
        assert_eq!(plain.len(), 3);
        let absent = "          server_header_transformation: APPEND_IF_ABSENT";
        assert_eq!(finish(absent, Some("x"), false)["server"], "x");
        assert_eq!(finish(absent, None, false)["server"], "envoy");
        let pass = "          server_header_transformation: PASS_THROUGH";
        assert!(!finish(pass, None, false).contains_key("server"));
        let id = "          always_set_request_id_in_response: true";
        assert_eq!(finish(id, None, false)["x-request-id"], "id");
    }
}
