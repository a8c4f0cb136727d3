//! A request's hash, by a list of hash policies, as Envoy computes it: for consistent hashing over hosts,
//! and for splits that stick to users.

use std::{borrow::Cow, fmt::Write as _};

use http::{HeaderMap, HeaderValue, header, request::Parts};
use smallvec::SmallVec;

use super::{
    matcher::{View, query_value, with_value},
    rewrite,
};
use crate::{
    config::{
        hash_policy::{HashPolicy, HashSource},
        matcher::HeaderKey,
        route::{ClusterSpecifier, Forward, RandomValue},
    },
    http::StreamCx,
    upstream::{Cluster, lb::hash::xxh64},
};

/// What hosts are picked by, and the cookies that make the next request's hash the same.
#[derive(Debug, Default)]
pub(super) struct RequestHash {
    pub(super) hash: Option<u64>,
    cookies: Vec<HeaderValue>,
}

impl RequestHash {
    /// The hash that picks a host of `cluster`. Cookies are only made where they help.
    pub(super) fn new(cx: &StreamCx, action: &Forward, cluster: &Cluster, parts: &Parts) -> Self {
        let mut own = Self::default();
        if cluster.config.lb_policy.is_consistent() {
            let policies = match &cluster.config.lb_options.hash_policy[..] {
                [] => &action.hash_policy,
                policies => policies,
            };
            own.hash = hash(policies, cx, parts, Some(&mut own.cookies));
        }
        if let ClusterSpecifier::Weighted(weighted) = &action.cluster
            && weighted.random == RandomValue::Monotone
        {
            hash(&action.hash_policy, cx, parts, Some(&mut own.cookies));
        }
        own
    }

    /// Adds the cookies that were made to a response.
    pub(super) fn add_cookies(self, headers: &mut HeaderMap) {
        for cookie in self.cookies {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
}

/// The hash of a request, if some policy finds something. Without `cookies` a missing one is not made.
pub(super) fn hash(
    policies: &[HashPolicy],
    cx: &StreamCx,
    parts: &Parts,
    mut cookies: Option<&mut Vec<HeaderValue>>,
) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        let found = match &policy.source {
            HashSource::Header { name, rewrite } => header_hash(name, rewrite.as_ref(), cx, parts),
            HashSource::Cookie { name, attributes } => match cookie(&parts.headers, name) {
                Some(value) => Some(xxh64(value, 0)),
                None => attributes
                    .as_deref()
                    .zip(cookies.as_deref_mut())
                    .map(|(attributes, cookies)| make_cookie(cx, name, attributes, cookies)),
            },
            HashSource::SourceIp => Some(text_hash(format_args!(
                "{}",
                cx.info.downstream_remote.ip()
            ))),
            HashSource::QueryParameter(name) => {
                let path = rewrite::path_and_query(&parts.uri);
                query_value(path, name).map(|value| xxh64(value.as_bytes(), 0))
            }
        };
        if let Some(found) = found {
            // Turning the old one keeps equal policies from cancelling each other out.
            hash = Some(hash.map_or(0, |hash| hash.rotate_left(1)) ^ found);
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

/// Of several values their order does not count.
fn header_hash(
    name: &HeaderKey,
    rewrite: Option<&(regex::bytes::Regex, bytes::Bytes)>,
    cx: &StreamCx,
    parts: &Parts,
) -> Option<u64> {
    let rewritten = |value: &[u8]| match rewrite {
        Some((pattern, substitution)) => rewrite::substitute(pattern, substitution, value),
        None => bytes::Bytes::new(),
    };
    let HeaderKey::Name(name) = name else {
        return with_value(name, &View::new(parts, &cx.scheme), |value| match rewrite {
            Some(_) => value.map(|value| xxh64(&rewritten(value), 0)),
            None => value.map(|value| xxh64(value, 0)),
        });
    };
    let mut all = parts.headers.get_all(name).iter();
    let first = all.next()?.as_bytes();
    if rewrite.is_none() && all.next().is_none() {
        return Some(xxh64(first, 0));
    }
    let mut values: SmallVec<[Cow<'_, [u8]>; 4]> = parts
        .headers
        .get_all(name)
        .iter()
        .map(|value| match rewrite {
            Some(_) => Cow::Owned(rewritten(value.as_bytes()).into()),
            None => Cow::Borrowed(value.as_bytes()),
        })
        .collect();
    values.sort_unstable();
    let mut joined: SmallVec<[u8; 256]> = SmallVec::new();
    for value in values {
        joined.extend_from_slice(&value);
    }
    Some(xxh64(&joined, 0))
}

/// The value of the first cookie of a name, without quotes; an empty one counts as none.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let value = pairs
        .filter_map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (key, value) = pair.split_at_checked(equals)?;
            (trim_spaces(key) == name.as_bytes()).then(|| value.get(1..))?
        })
        .next()?;
    let value = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value);
    (!value.is_empty()).then_some(value)
}

/// Without the spaces before it.
fn trim_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte != b' ');
    start.and_then(|start| text.get(start..)).unwrap_or(b"")
}

/// Makes a cookie, and its hash. Its value is the connection's, so that streams that race get the same.
fn make_cookie(cx: &StreamCx, name: &str, attributes: &str, cookies: &mut Vec<HeaderValue>) -> u64 {
    let connection = &cx.info.connection;
    let hash = text_hash(format_args!("{}{}", connection.remote, connection.local));
    let value = format!("{hash:016x}");
    if let Ok(cookie) = HeaderValue::try_from(format!("{name}=\"{value}\"{attributes}"))
        && !cookies.contains(&cookie)
    {
        cookies.push(cookie);
    }
    xxh64(value.as_bytes(), 0)
}

fn text_hash(text: std::fmt::Arguments<'_>) -> u64 {
    let mut written = Text::default();
    written
        .write_fmt(text)
        .expect("memory takes whatever is written");
    xxh64(&written.0, 0)
}

/// Text on the stack.
#[derive(Default)]
struct Text(SmallVec<[u8; 128]>);

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(values: &[&'static str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| (header::COOKIE, HeaderValue::from_static(value)));
        values.collect()
    }

    #[test]
    fn cookies_are_found_as_envoy_finds_them() {
        let found = |values: &[&'static str]| {
            cookie(&cookies(values), "user")
                .map(|value| String::from_utf8_lossy(value).into_owned())
        };
        assert_eq!(found(&["user=1"]).as_deref(), Some("1"));
        assert_eq!(found(&["a=2;  user=\"x y\"; b"]).as_deref(), Some("x y"));
        assert_eq!(found(&["a=2", "b; user=3=4"]).as_deref(), Some("3=4"));
        assert_eq!(found(&["user=1; user=2"]).as_deref(), Some("1"));
        assert_eq!(found(&["user="]), None);
        assert_eq!(found(&["user=\"\""]), None);
        assert_eq!(found(&["superuser=1; user"]), None);
        assert_eq!(found(&[]), None);
    }
}
