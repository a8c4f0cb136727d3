//! What the connection manager does to heads, in Envoy's order.

mod client;
mod response;
mod seen;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{self, Entry},
    request::Parts,
    uri::{PathAndQuery, Scheme, Uri},
};

use client::{append, find_client, forwarded_scheme, is_internal_address, join_lines};
pub use response::{ResponseCx, finish_response};
pub use seen::Seen;

use super::{
    local_reply::LocalReply,
    path::{self, Normalized},
    request_id,
};
use crate::config::http_connection_manager::{HttpConnectionManager, StripPort};

macro_rules! names {
    ($($name:ident = $text:literal;)*) => {
        $(pub(crate) const $name: HeaderName = HeaderName::from_static($text);)*
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
    /// `x-request-id`, if there is one.
    pub request_id: Option<HeaderValue>,
}

/// Checks that come before anything is changed: version, host, path.
///
/// # Errors
/// The reply to a request that is not acceptable.
pub fn check_request(
    parts: &mut Parts,
    seen: &Seen,
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
    if !seen.host && !parts.headers.contains_key(header::HOST) {
        return Err(
            LocalReply::new(StatusCode::BAD_REQUEST, "", "missing_host_header")
                .with_reason("no host header"),
        );
    }
    if parts.method != Method::CONNECT {
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        if !path.starts_with('/') {
            return Err(
                LocalReply::new(StatusCode::NOT_FOUND, "", "absolute_path_rejected")
                    .with_reason("the path does not begin with /"),
            );
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
        .with_reason("the path cannot be normalized (path_with_escaped_slashes_action)")
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
    seen: &Seen,
    config: &HttpConnectionManager,
    internal_only: &[HeaderName],
    origin: &Origin<'_>,
    random: impl FnMut() -> u64,
) -> Prepared {
    let headers = &mut parts.headers;
    remove_hop_by_hop(headers, seen);
    if seen.expect && !config.proxy_100_continue {
        remove_expect(headers);
    }
    if seen.envoy {
        headers.remove(X_ENVOY_INTERNAL);
    }
    let (client, is_trusted) = find_client(headers, config, origin, seen);
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
    let keeps = seen.request_id && (!is_edge || config.preserve_external_request_id);
    let request_id = if config.generate_request_id && !keeps {
        let id = request_id::generate(random);
        headers.insert(X_REQUEST_ID, id.clone());
        Some(id)
    } else {
        if config.generate_request_id && is_edge && config.pack_trace_reason {
            request_id::clear_trace_reason(headers);
        }
        seen.request_id
            .then(|| headers.get(X_REQUEST_ID).cloned())
            .flatten()
    };
    let scheme = match &config.scheme_overwrite {
        Some(scheme) => scheme.clone(),
        // What the client did not say was set to `http` above.
        None if !seen.forwarded_proto => Scheme::HTTP,
        None => forwarded_scheme(headers),
    };
    Prepared {
        client,
        is_internal,
        scheme,
        request_id,
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
    if seen.transfer_encoding {
        headers.remove(header::TRANSFER_ENCODING);
    }
    if seen.proxy_connection {
        headers.remove(PROXY_CONNECTION);
    }
    if seen.old_hop_by_hop {
        headers.remove(KEEP_ALIVE);
        headers.remove(HTTP2_SETTINGS);
    }
}

/// Whether the client waits for `100 Continue` before it sends its body.
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn remove_expect(headers: &mut HeaderMap) {
    if expects_continue(headers) {
        headers.remove(header::EXPECT);
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
