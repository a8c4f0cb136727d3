//! What Envoy's codecs refuse and ours let through: checked on each head before anything else.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header,
    request::Parts,
    uri::{PathAndQuery, Uri},
};

use super::{headers::Seen, io::IoWatch, local_reply::LocalReply};
use crate::{
    config::http_connection_manager::{HttpConnectionManager, UnderscoreAction},
    telemetry::stream_info::ResponseFlags,
};

/// Headers that a `connection` header may nominate for removal.
const MAX_NOMINATED: usize = 10;
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const ODD_HOST: &str = "host with characters that none has";

/// Checks an HTTP/1 head and brings it into the normal form (`host` header, path and query).
///
/// # Errors
/// The reply, after which the connection is closed.
pub fn check_http1(
    parts: &mut Parts,
    seen: &Seen,
    config: &HttpConnectionManager,
    watch: &IoWatch,
) -> Result<(), LocalReply> {
    let options = &config.http1;
    if parts.version != Version::HTTP_11 && !options.accept_http_10 {
        return Err(refuse(
            StatusCode::UPGRADE_REQUIRED,
            "low_version",
            "HTTP/1.0 is not enabled (accept_http_10)",
        ));
    }
    if seen.transfer_encoding {
        let mut values = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
        let is_chunked = values
            .next()
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !is_chunked || values.next().is_some() {
            return Err(refuse(
                StatusCode::NOT_IMPLEMENTED,
                "http1.invalid_transfer_encoding",
                "transfer-encoding is not chunked alone",
            ));
        }
        if watch.has_both_lengths() && !options.allow_chunked_length {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                "http1.content_length_and_chunked_not_allowed",
                "content-length beside transfer-encoding",
            ));
        }
    }
    for (is_wrong, reason) in [
        (watch.has_repeated_length(), "content-length more than once"),
        (!is_known_method(&parts.method), "unknown method"),
    ] {
        if is_wrong {
            let details = "http1.codec_error";
            return Err(refuse(StatusCode::BAD_REQUEST, details, reason));
        }
    }
    check_names(
        &mut parts.headers,
        config,
        "http1.unexpected_underscore",
        "http1.too_many_headers",
    )?;
    if seen.connection {
        remove_nominated(&mut parts.headers)?;
    }
    check_target(parts, config)?;
    check_host(&parts.headers, "http.invalid_authority")
}

/// Checks an HTTP/2 head and brings it into the normal form (`host` header, path and query).
///
/// # Errors
/// The reply.
pub fn check_http2(
    parts: &mut Parts,
    seen: &Seen,
    config: &HttpConnectionManager,
) -> Result<(), LocalReply> {
    check_names(
        &mut parts.headers,
        config,
        "http2.unexpected_underscore",
        "http2.too_many_headers",
    )?;
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| {
            let details = "http.invalid_authority";
            refuse(StatusCode::BAD_REQUEST, details, ODD_HOST)
        })?;
        parts.headers.insert(header::HOST, host);
    }
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        parts.uri = origin_form(&parts.uri);
    }
    if seen.parted_cookies {
        join_cookies(&mut parts.headers);
    }
    if !parts.uri.path().is_ascii() {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "http2.invalid.header.field",
            "path with characters outside of ASCII",
        ));
    }
    check_host(&parts.headers, "http.invalid_authority")
}

fn refuse(status: StatusCode, details: &'static str, reason: impl Into<Box<str>>) -> LocalReply {
    let body = status.canonical_reason().unwrap_or_default();
    LocalReply::new(status, body, details)
        .with_flags(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
        .with_reason(reason)
}

/// The reply to a head that the HTTP/1 parser did not take.
#[must_use]
pub fn parse_failure(
    error: &hyper::Error,
    watch: &IoWatch,
    config: &HttpConnectionManager,
) -> LocalReply {
    let (status, details) = if format!("{error:?}").contains("Version") {
        // There is no other way to ask hyper.
        (StatusCode::UPGRADE_REQUIRED, "low_version")
    } else if error.is_parse_too_large() {
        (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "http1.headers_too_large",
        )
    } else if watch.has_transfer_encoding() {
        // The parser refuses what does not end in `chunked`.
        (
            StatusCode::NOT_IMPLEMENTED,
            "http1.invalid_transfer_encoding",
        )
    } else if watch.codec_reply.get() == Some(StatusCode::URI_TOO_LONG) {
        (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "http1.headers_too_large",
        )
    } else {
        (StatusCode::BAD_REQUEST, "http1.codec_error")
    };
    let reason = match status {
        StatusCode::UPGRADE_REQUIRED => "the version is not HTTP/1.1".into(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => format!(
            "the head is over max_request_headers_kb={} or max_headers_count={}",
            config.max_request_headers_kb, config.max_headers_count
        ),
        StatusCode::NOT_IMPLEMENTED => "transfer-encoding does not end in chunked".into(),
        _ => "the head is not valid HTTP/1".into(),
    };
    refuse(status, details, reason)
}

/// The reply to a request whose body broke the protocol.
#[must_use]
pub fn body_failure() -> LocalReply {
    let reason = "the body breaks the protocol: its length or its chunks";
    refuse(StatusCode::BAD_REQUEST, "http1.codec_error", reason)
}

/// The methods that Envoy knows.
fn is_known_method(method: &Method) -> bool {
    match *method {
        Method::GET
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::HEAD
        | Method::OPTIONS
        | Method::PATCH
        | Method::TRACE
        | Method::CONNECT => true,
        _ => matches!(
            method.as_str(),
            "ACL"
                | "BIND"
                | "CHECKOUT"
                | "COPY"
                | "LINK"
                | "LOCK"
                | "M-SEARCH"
                | "MERGE"
                | "MKACTIVITY"
                | "MKCALENDAR"
                | "MKCOL"
                | "MOVE"
                | "NOTIFY"
                | "PROPFIND"
                | "PROPPATCH"
                | "PURGE"
                | "REBIND"
                | "REPORT"
                | "SEARCH"
                | "SOURCE"
                | "SUBSCRIBE"
                | "UNBIND"
                | "UNLINK"
                | "UNLOCK"
                | "UNSUBSCRIBE"
        ),
    }
}

/// Number of headers, and underscores in their names.
fn check_names(
    headers: &mut HeaderMap,
    config: &HttpConnectionManager,
    underscore: &'static str,
    too_many: &'static str,
) -> Result<(), LocalReply> {
    if headers.len() > config.max_headers_count as usize {
        return Err(refuse(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            too_many,
            format!("more than max_headers_count={}", config.max_headers_count),
        ));
    }
    if config.headers_with_underscores == UnderscoreAction::Allow {
        return Ok(());
    }
    let odd: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    if config.headers_with_underscores == UnderscoreAction::RejectRequest && !odd.is_empty() {
        let reason = "a header's name has an underscore (headers_with_underscores_action)";
        return Err(refuse(StatusCode::BAD_REQUEST, underscore, reason));
    }
    for name in odd {
        headers.remove(name);
    }
    Ok(())
}

/// Removes the headers that `connection` nominates; refuses nominations that would change what the
/// request means to the next hop.
fn remove_nominated(headers: &mut HeaderMap) -> Result<(), LocalReply> {
    let rejected = || {
        let details = "http1.connection_header_rejected";
        let reason = "connection names a header that must stay, or too many";
        refuse(StatusCode::BAD_REQUEST, details, reason)
    };
    let mut nominated = smallvec::SmallVec::<[HeaderName; 4]>::new();
    let mut count = 0;
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|&byte| byte == b',') {
            let token = token.trim_ascii();
            count += 1;
            if count > MAX_NOMINATED {
                return Err(rejected());
            }
            if token.eq_ignore_ascii_case(b"close")
                || token.eq_ignore_ascii_case(b"keep-alive")
                || token.is_empty()
            {
                continue;
            }
            if token.starts_with(b":") {
                return Err(rejected());
            }
            let Ok(name) = HeaderName::from_bytes(token) else {
                continue;
            };
            match name.as_str() {
                "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" => {
                    return Err(rejected());
                }
                // Upgrades and `te` have rules of their own.
                "upgrade" | "te" => {}
                _ => nominated.push(name),
            }
        }
    }
    for name in nominated {
        headers.remove(name);
    }
    // An upgrade that we do not know (`h2c`) is ignored.
    if headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"h2c"))
    {
        headers.remove(header::UPGRADE);
        headers.remove(HTTP2_SETTINGS);
    }
    Ok(())
}

/// Targets: origin form, absolute form (whose host wins over the header), `*` of OPTIONS, authority
/// form of CONNECT.
fn check_target(parts: &mut Parts, config: &HttpConnectionManager) -> Result<(), LocalReply> {
    let invalid = |details| {
        let reason = "the request target is not valid";
        Err(refuse(StatusCode::BAD_REQUEST, details, reason))
    };
    if parts.method == Method::CONNECT {
        return match parts.uri.authority() {
            Some(authority) => {
                if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                    parts.headers.insert(header::HOST, host);
                }
                Ok(())
            }
            None => invalid("http1.invalid_url"),
        };
    }
    if !parts.uri.path().is_ascii() || !parts.uri.query().is_none_or(str::is_ascii) {
        return invalid("http1.invalid_url");
    }
    if let Some(authority) = parts.uri.authority() {
        if config.http1.disallow_absolute_url {
            return Ok(());
        }
        match parts.uri.scheme_str() {
            Some("http" | "https") => {}
            Some(_) => return invalid("http1.invalid_scheme"),
            None => return invalid("http1.invalid_url"),
        }
        // Envoy drops user information.
        let host = authority.as_str();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let Ok(host) = HeaderValue::from_str(host) else {
            return invalid("http1.invalid_url");
        };
        parts.headers.insert(header::HOST, host);
        parts.uri = origin_form(&parts.uri);
        return Ok(());
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return invalid("http1.invalid_url");
    }
    Ok(())
}

/// Only path and query.
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}

/// Puts together what HTTP/2 lets clients part for compression (RFC 9113, 8.2.3): HTTP/1 has one
/// header for it, and header conditions see what the client meant.
fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (values.next(), values.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(value.as_bytes());
    }
    // Values with separators between them are a value.
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Exactly one host, of characters that an authority can have. (Envoy joins several hosts with a comma
/// and goes on; what such a request means depends on who reads it, so we refuse it.)
fn check_host(headers: &HeaderMap, details: &'static str) -> Result<(), LocalReply> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        return Ok(());
    };
    let reason = if hosts.next().is_some() {
        "host more than once"
    } else if host.as_bytes().iter().all(|&byte| is_authority_byte(byte)) {
        return Ok(());
    } else {
        ODD_HOST
    };
    Err(refuse(StatusCode::BAD_REQUEST, details, reason))
}

fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
                | b':'
                | b'@'
                | b'['
                | b']'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parted_cookies_are_joined() {
        let mut headers = HeaderMap::new();
        join_cookies(&mut headers);
        assert!(headers.is_empty());
        for (crumb, joined) in [
            ("a=1", "a=1"),
            ("b=2", "a=1; b=2"),
            ("c=3", "a=1; b=2; c=3"),
        ] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
            join_cookies(&mut headers);
            let values: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
            assert_eq!(values, [joined]);
        }
    }
}
