//! Changes of path and host on the way upstream, and the locations of redirects.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts, uri::PathAndQuery};
use regex::bytes::Regex;

use crate::config::route::{
    HostRewrite, PathMatch, PathRedirect, PathRewrite, Redirect, RouteMatch, SchemeRedirect,
};

static ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
static ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Rewrites the path; the original one is kept in `x-envoy-original-path`.
pub(super) fn rewrite_path(rewrite: &PathRewrite, matches: &RouteMatch, parts: &mut Parts) {
    let original = path_and_query(&parts.uri);
    let rewritten = match rewrite {
        PathRewrite::Prefix(prefix) => replace_prefix(matches, original, prefix),
        PathRewrite::Regex {
            pattern,
            substitution,
        } => replace_path(pattern, substitution, original),
    };
    let kept = HeaderValue::from_str(original);
    if let Ok(uri) = into_uri(rewritten) {
        if let Ok(kept) = kept {
            parts.headers.insert(&ORIGINAL_PATH, kept);
        }
        parts.uri = uri;
    }
}

/// Rewrites the path for a redirect, where that is based on the request's.
pub(super) fn redirect_path(redirect: &PathRedirect, matches: &RouteMatch, parts: &mut Parts) {
    let rewrite = match redirect {
        PathRedirect::Path(_) => return,
        PathRedirect::Prefix(prefix) => PathRewrite::Prefix(prefix.clone()),
        PathRedirect::Regex {
            pattern,
            substitution,
        } => PathRewrite::Regex {
            pattern: pattern.clone(),
            substitution: substitution.clone(),
        },
    };
    rewrite_path(&rewrite, matches, parts);
}

/// Rewrites the host; `auto` waits for the upstream host and is [`set_host`] then.
pub(super) fn rewrite_host(rewrite: &HostRewrite, append_forwarded: bool, parts: &mut Parts) {
    let host = match rewrite {
        HostRewrite::Literal(value) => value.clone(),
        HostRewrite::Auto => return,
        HostRewrite::Header(name) => match parts.headers.get(name) {
            Some(value) if !value.is_empty() => value.clone(),
            _ => return,
        },
        HostRewrite::PathRegex {
            pattern,
            substitution,
        } => {
            let path = without_query(path_and_query(&parts.uri));
            let host = substitute(pattern, substitution, path.as_bytes());
            match HeaderValue::from_maybe_shared(host) {
                Ok(value) if !value.is_empty() => value,
                _ => return,
            }
        }
    };
    set_host(host, append_forwarded, &mut parts.headers);
}

/// Replaces the host; the old one is kept in `x-envoy-original-host`. With `append_forwarded` it also
/// goes to the end of `x-forwarded-host`, unless it is there already.
pub(super) fn set_host(host: HeaderValue, append_forwarded: bool, headers: &mut HeaderMap) {
    let old = headers.insert(header::HOST, host);
    if let Some(old) = old.filter(|old| !old.is_empty()) {
        headers.insert(&ORIGINAL_HOST, old.clone());
        if !append_forwarded {
            return;
        }
        let value = match headers
            .get(&FORWARDED_HOST)
            .filter(|value| !value.is_empty())
        {
            None => old,
            Some(value) => {
                let last = value
                    .as_bytes()
                    .rsplit(|byte| *byte == b',')
                    .next()
                    .unwrap_or(b"");
                if last == old.as_bytes() {
                    return;
                }
                let joined = [value.as_bytes(), b",", old.as_bytes()].concat();
                match HeaderValue::from_maybe_shared(Bytes::from(joined)) {
                    Ok(value) => value,
                    Err(_) => return,
                }
            }
        };
        headers.insert(&FORWARDED_HOST, value);
    }
}

/// The `location` of a redirect.
pub(super) fn location(redirect: &Redirect, scheme: &str, parts: &Parts) -> Option<HeaderValue> {
    let new_scheme = match &redirect.scheme {
        Some(SchemeRedirect::Https) => "https",
        Some(SchemeRedirect::Scheme(scheme)) => scheme,
        None => scheme,
    };
    let port = redirect.port.filter(|port| *port != 0);
    let mut location = BytesMut::new();
    location.extend_from_slice(new_scheme.as_bytes());
    location.extend_from_slice(b"://");
    match &redirect.host {
        Some(host) => location.extend_from_slice(host.as_bytes()),
        None => {
            let host = parts
                .headers
                .get(header::HOST)
                .map_or(&b""[..], HeaderValue::as_bytes);
            let proto = parts
                .headers
                .get(&FORWARDED_PROTO)
                .map_or(scheme.as_bytes(), |v| v.as_bytes());
            location.extend_from_slice(request_host(host, proto, new_scheme, port.is_some()));
        }
    }
    if let Some(port) = port {
        location.extend_from_slice(b":");
        location.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
    }
    let path = path_and_query(&parts.uri);
    match &redirect.path {
        // A query of its own wins, and stays even with `strip_query`.
        Some(PathRedirect::Path(new)) if new.contains('?') => {
            location.extend_from_slice(new.as_bytes());
        }
        Some(PathRedirect::Path(new)) => {
            location.extend_from_slice(new.as_bytes());
            if let Some(query) = path.find('?').filter(|_| !redirect.strip_query) {
                location.extend_from_slice(&path.as_bytes()[query..]);
            }
        }
        Some(PathRedirect::Prefix(_) | PathRedirect::Regex { .. }) | None => {
            let end = path
                .find('?')
                .filter(|_| redirect.strip_query)
                .unwrap_or(path.len());
            location.extend_from_slice(&path.as_bytes()[..end]);
        }
    }
    HeaderValue::from_maybe_shared(location.freeze()).ok()
}

/// The request's host for a location: without port where that is replaced, or where it is the
/// default of a scheme that is left.
fn request_host<'a>(host: &'a [u8], proto: &[u8], scheme: &str, new_port: bool) -> &'a [u8] {
    let end = if host.first() == Some(&b'[') {
        host.windows(2)
            .rposition(|pair| pair == b"]:")
            .map(|place| place + 1)
    } else {
        host.iter().rposition(|byte| *byte == b':')
    };
    let Some(end) = end else { return host };
    let is_left_default = proto != scheme.as_bytes()
        && matches!(
            (proto, &host[end..]),
            (b"https", b":443") | (b"http", b":80")
        );
    if new_port || is_left_default {
        &host[..end]
    } else {
        host
    }
}

/// Replaces what the route matched (the prefix, or the whole path) at the start of a path.
fn replace_prefix(matches: &RouteMatch, path: &str, prefix: &str) -> Bytes {
    let matched = match &matches.path {
        PathMatch::Prefix { value, .. }
        | PathMatch::Exact { value, .. }
        | PathMatch::SeparatedPrefix { value, .. } => value.len(),
        PathMatch::Regex(_) => without_query(path).len(),
    };
    let rest = path.as_bytes().get(matched..).unwrap_or_default();
    [prefix.as_bytes(), rest].concat().into()
}

/// Replaces all matches in a path; its query stays.
fn replace_path(pattern: &Regex, substitution: &[u8], path: &str) -> Bytes {
    let only = without_query(path);
    let new = substitute(pattern, substitution, only.as_bytes());
    [&new[..], &path.as_bytes()[only.len()..]].concat().into()
}

/// Replaces all matches; `\0`–`\9` in the substitution are captures, `\\` a backslash.
pub(super) fn substitute(pattern: &Regex, substitution: &[u8], text: &[u8]) -> Bytes {
    let replaced = pattern.replace_all(text, |captures: &regex::bytes::Captures<'_>| {
        let mut out = Vec::with_capacity(substitution.len());
        let mut bytes = substitution.iter();
        while let Some(byte) = bytes.next() {
            if *byte != b'\\' {
                out.push(*byte);
                continue;
            }
            match bytes.next() {
                Some(digit @ b'0'..=b'9') => {
                    if let Some(capture) = captures.get(usize::from(digit - b'0')) {
                        out.extend_from_slice(capture.as_bytes());
                    }
                }
                Some(other) => out.push(*other),
                None => {}
            }
        }
        out
    });
    Bytes::from(replaced.into_owned())
}

/// Path and query of a request in normal form.
pub(super) fn path_and_query(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

fn without_query(path: &str) -> &str {
    path.split_once(['?', '#'])
        .map_or(path, |(before, _)| before)
}

fn into_uri(path: Bytes) -> Result<Uri, http::uri::InvalidUri> {
    PathAndQuery::from_maybe_shared(path).map(Uri::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, StatusCode};

    use super::*;

    fn prefix(value: &str) -> RouteMatch {
        RouteMatch {
            path: PathMatch::Prefix {
                value: Arc::from(value),
                case_sensitive: true,
            },
            headers: Vec::new(),
            query_parameters: Vec::new(),
            grpc: false,
        }
    }

    fn parts(path: &str) -> Parts {
        let request = Request::builder().uri(path).header("host", "a.example:80");
        request.body(()).unwrap().into_parts().0
    }

    fn redirect() -> Redirect {
        Redirect {
            scheme: None,
            host: None,
            port: None,
            path: None,
            status: StatusCode::MOVED_PERMANENTLY,
            strip_query: false,
        }
    }

    fn located(redirect: &Redirect, path: &str) -> String {
        let mut parts = parts(path);
        if let Some(path) = &redirect.path {
            redirect_path(path, &prefix("/a"), &mut parts);
        }
        let value = location(redirect, "http", &parts).unwrap();
        value.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_prefix_is_replaced_and_the_original_kept() {
        let mut parts = parts("/a/b?q=/a");
        rewrite_path(
            &PathRewrite::Prefix(Arc::from("/new")),
            &prefix("/a"),
            &mut parts,
        );
        assert_eq!(parts.uri, "/new/b?q=/a");
        assert_eq!(parts.headers["x-envoy-original-path"], "/a/b?q=/a");
    }

    #[test]
    fn a_regex_leaves_the_query() {
        let mut parts = parts("/a/1/2?q=1");
        let rewrite = PathRewrite::Regex {
            pattern: Regex::new("([0-9])").unwrap(),
            substitution: Bytes::from_static(br"<\1\\>"),
        };
        // The result has characters that no path has: nothing is rewritten.
        rewrite_path(&rewrite, &prefix("/a"), &mut parts);
        assert_eq!(parts.uri, "/a/1/2?q=1");
        let rewrite = PathRewrite::Regex {
            pattern: Regex::new("([0-9])").unwrap(),
            substitution: Bytes::from_static(br"n\1"),
        };
        rewrite_path(&rewrite, &prefix("/a"), &mut parts);
        assert_eq!(parts.uri, "/a/n1/n2?q=1");
    }

    #[test]
    fn hosts_go_to_x_forwarded_host_once() {
        let mut parts = parts("/");
        let literal = HostRewrite::Literal(HeaderValue::from_static("b.example"));
        rewrite_host(&literal, true, &mut parts);
        assert_eq!(parts.headers["host"], "b.example");
        assert_eq!(parts.headers["x-envoy-original-host"], "a.example:80");
        assert_eq!(parts.headers["x-forwarded-host"], "a.example:80");
        rewrite_host(&literal, true, &mut parts);
        assert_eq!(parts.headers["x-forwarded-host"], "a.example:80,b.example");
        rewrite_host(&literal, true, &mut parts);
        assert_eq!(parts.headers["x-forwarded-host"], "a.example:80,b.example");
    }

    #[test]
    fn locations() {
        assert_eq!(located(&redirect(), "/a?x"), "http://a.example:80/a?x");
        let https = Redirect {
            scheme: Some(SchemeRedirect::Https),
            ..redirect()
        };
        assert_eq!(located(&https, "/a"), "https://a.example/a");
        let port = Redirect {
            port: Some(8080),
            strip_query: true,
            ..redirect()
        };
        assert_eq!(located(&port, "/a?x"), "http://a.example:8080/a");
        let path = Redirect {
            path: Some(PathRedirect::Path(Arc::from("/p"))),
            ..redirect()
        };
        assert_eq!(located(&path, "/a?x"), "http://a.example:80/p?x");
        let query = Redirect {
            path: Some(PathRedirect::Path(Arc::from("/p?y"))),
            strip_query: true,
            ..redirect()
        };
        assert_eq!(located(&query, "/a?x"), "http://a.example:80/p?y");
        let prefix = Redirect {
            path: Some(PathRedirect::Prefix(Arc::from("/b"))),
            host: Some(Arc::from("c")),
            ..redirect()
        };
        assert_eq!(located(&prefix, "/a/x?y"), "http://c/b/x?y");
    }
}
