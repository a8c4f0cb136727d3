//! Evaluates match conditions of routes on a request, with Envoy's semantics and without allocating.

use http::{HeaderMap, HeaderName, Method, header, request::Parts, uri::Scheme};
use smallvec::SmallVec;

use crate::config::{
    matcher::{
        HeaderKey, HeaderMatchKind, HeaderMatcher, QueryMatchKind, QueryMatcher, equal, starts_with,
    },
    route::{PathMatch, RouteMatch},
};

/// The parts of a request that routes are matched on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// `:method`
    pub method: &'a Method,
    /// `:path` with its query.
    pub path_and_query: &'a str,
    /// The path that path conditions see: without query, fragment and, if so configured, parameters.
    pub path: &'a str,
    /// `:authority`
    pub host: &'a [u8],
    /// `:scheme`
    pub scheme: &'a str,
    /// The other headers.
    pub headers: &'a HeaderMap,
}

impl<'a> View<'a> {
    /// The view of a head in its normal form (authority in `host`, path and query in the URI).
    #[must_use]
    pub fn new(parts: &'a Parts, scheme: &'a Scheme) -> Self {
        let path_and_query = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        Self {
            method: &parts.method,
            path_and_query,
            path: path_and_query
                .split_once(['?', '#'])
                .map_or(path_and_query, |(path, _)| path),
            host: parts
                .headers
                .get(header::HOST)
                .map_or(b"", |host| host.as_bytes()),
            scheme: scheme.as_str(),
            headers: &parts.headers,
        }
    }
}

/// A path without the parameters (`;…`) of its segments.
pub(super) fn without_parameters(path: &str) -> SmallVec<[u8; 256]> {
    let mut is_parameter = false;
    let kept = path.bytes().filter(|byte| {
        match byte {
            b';' => is_parameter = true,
            b'/' => is_parameter = false,
            _ => {}
        }
        !is_parameter
    });
    kept.collect()
}

/// Whether all conditions hold.
#[must_use]
pub fn route_matches(matches: &RouteMatch, view: &View<'_>) -> bool {
    path_matches(&matches.path, view.path)
        && (!matches.grpc || is_grpc(view.headers))
        && matches
            .headers
            .iter()
            .all(|matcher| header_matches(matcher, view))
        && matches
            .query_parameters
            .iter()
            .all(|matcher| query_matches(matcher, view.path_and_query))
}

/// Whether a path (without query) fulfils a path condition.
#[must_use]
pub fn path_matches(path_match: &PathMatch, path: &str) -> bool {
    match path_match {
        PathMatch::Prefix {
            value,
            case_sensitive,
        } => starts_with(path.as_bytes(), value.as_bytes(), !case_sensitive),
        PathMatch::Exact {
            value,
            case_sensitive,
        } => equal(path.as_bytes(), value.as_bytes(), !case_sensitive),
        PathMatch::SeparatedPrefix {
            value,
            case_sensitive,
        } => {
            starts_with(path.as_bytes(), value.as_bytes(), !case_sensitive)
                && matches!(path.as_bytes().get(value.len()), None | Some(b'/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path.as_bytes()),
    }
}

/// Whether a header condition holds: for any one of the values of its name.
#[must_use]
pub fn header_matches(matcher: &HeaderMatcher, view: &View<'_>) -> bool {
    let holds = |value: &[u8]| match &matcher.kind {
        HeaderMatchKind::String(matcher) => matcher.matches(value),
        HeaderMatchKind::Range { start, end } => {
            integer(value).is_some_and(|number| (*start..*end).contains(&number))
        }
        HeaderMatchKind::Present(present) => *present,
    };
    let any = match &matcher.name {
        HeaderKey::Name(name) => {
            let mut values = view.headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (None, _) => None,
                (Some(only), None) => Some(holds(only.as_bytes())),
                (Some(_), Some(_)) if is_inline(name) => {
                    Some(with_value(&matcher.name, view, |value| {
                        value.is_some_and(holds)
                    }))
                }
                (Some(first), Some(second)) => {
                    let mut all = [first, second].into_iter().chain(values);
                    Some(all.any(|value| holds(value.as_bytes())))
                }
            }
        }
        HeaderKey::Method | HeaderKey::Path | HeaderKey::Authority | HeaderKey::Scheme => {
            Some(with_value(&matcher.name, view, |value| {
                value.is_some_and(holds)
            }))
        }
    };
    match any {
        Some(any) => any != matcher.invert,
        None if matcher.treat_missing_as_empty => holds(b"") != matcher.invert,
        // Without a value only a presence condition can hold, inverted or not.
        None => {
            matches!(matcher.kind, HeaderMatchKind::Present(present) if present == matcher.invert)
        }
    }
}

/// Headers whose values Envoy joins into one when it receives them.
fn is_inline(name: &HeaderName) -> bool {
    const INLINE: [HeaderName; 16] = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::ORIGIN,
        header::REFERER,
        header::TE,
        header::USER_AGENT,
        header::VIA,
        HeaderName::from_static("x-forwarded-for"),
        HeaderName::from_static("x-forwarded-host"),
        HeaderName::from_static("x-forwarded-proto"),
        HeaderName::from_static("x-request-id"),
    ];
    INLINE.contains(name)
}

/// Calls `with` with the value of a header; several values of one name are joined, cookies with
/// semicolons, others with commas.
pub fn with_value<R>(key: &HeaderKey, view: &View<'_>, with: impl FnOnce(Option<&[u8]>) -> R) -> R {
    let name = match key {
        HeaderKey::Method => return with(Some(view.method.as_str().as_bytes())),
        HeaderKey::Path => return with(Some(view.path_and_query.as_bytes())),
        HeaderKey::Authority => return with(Some(view.host)),
        HeaderKey::Scheme => return with(Some(view.scheme.as_bytes())),
        HeaderKey::Name(name) => name,
    };
    let mut values = view.headers.get_all(name).iter();
    let Some(first) = values.next() else {
        return with(None);
    };
    let Some(second) = values.next() else {
        return with(Some(first.as_bytes()));
    };
    let separator: &[u8] = if *name == header::COOKIE { b"; " } else { b"," };
    let mut joined: SmallVec<[u8; 512]> = SmallVec::from_slice(first.as_bytes());
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(separator);
        joined.extend_from_slice(value.as_bytes());
    }
    with(Some(&joined))
}

/// Whether a query-parameter condition holds; the first value of a name counts.
#[must_use]
pub fn query_matches(matcher: &QueryMatcher, path_and_query: &str) -> bool {
    let value = query_value(path_and_query, &matcher.name);
    match (&matcher.kind, value) {
        (QueryMatchKind::Present(present), value) => *present == value.is_some(),
        (QueryMatchKind::String(_), None) => false,
        (QueryMatchKind::String(matcher), Some(value)) => matcher.matches(value.as_bytes()),
    }
}

/// The first value of a query parameter, as sent.
pub(super) fn query_value<'a>(path_and_query: &'a str, wanted: &str) -> Option<&'a str> {
    let (_, query) = path_and_query.split_once('?')?;
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == wanted).then_some(value)
    })
}

/// Whether a request says that it is gRPC: `application/grpc` or `application/grpc+…`.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
    })
}

fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim_ascii().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;

    use super::*;
    use crate::config::matcher::StringMatcher;

    fn parts(path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(path).header("host", "a.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn header(kind: HeaderMatchKind) -> HeaderMatcher {
        HeaderMatcher {
            name: HeaderKey::Name(HeaderName::from_static("x-a")),
            kind,
            invert: false,
            treat_missing_as_empty: false,
        }
    }

    fn exact(value: &str) -> StringMatcher {
        StringMatcher::Exact {
            value: Arc::from(value),
            ignore_case: false,
        }
    }

    fn holds(matcher: &HeaderMatcher, headers: &[(&str, &str)]) -> bool {
        let parts = parts("/", headers);
        header_matches(matcher, &View::new(&parts, &Scheme::HTTP))
    }

    #[test]
    fn any_value_of_a_name_counts() {
        let two = [("x-a", "1"), ("x-a", "2")];
        let mut matcher = header(HeaderMatchKind::String(exact("2")));
        assert!(holds(&matcher, &two));
        matcher.invert = true;
        assert!(!holds(&matcher, &two));
        assert!(!holds(&header(HeaderMatchKind::String(exact("1,2"))), &two));
        assert!(holds(
            &header(HeaderMatchKind::Range { start: 2, end: 3 }),
            &two
        ));
    }

    #[test]
    fn values_of_some_names_are_joined() {
        let mut matcher = header(HeaderMatchKind::String(exact("a,b")));
        matcher.name = HeaderKey::Name(header::ACCEPT);
        assert!(holds(&matcher, &[("accept", "a"), ("accept", "b")]));
        assert!(!holds(&matcher, &[("accept", "a")]));
        matcher.name = HeaderKey::Name(header::COOKIE);
        matcher.kind = HeaderMatchKind::String(exact("a; b"));
        assert!(holds(&matcher, &[("cookie", "a"), ("cookie", "b")]));
    }

    #[test]
    fn ranges_are_half_open_and_signed() {
        let matcher = header(HeaderMatchKind::Range { start: -10, end: 0 });
        assert!(holds(&matcher, &[("x-a", "-10")]));
        assert!(!holds(&matcher, &[("x-a", "0")]));
        assert!(!holds(&matcher, &[("x-a", "-1x")]));
        assert!(!holds(&matcher, &[]));
    }

    #[test]
    fn missing_headers() {
        let mut matcher = header(HeaderMatchKind::Present(true));
        assert!(!holds(&matcher, &[]));
        matcher.invert = true;
        assert!(holds(&matcher, &[]));
        assert!(!holds(&matcher, &[("x-a", "")]));
        matcher.kind = HeaderMatchKind::Present(false);
        assert!(!holds(&matcher, &[]));
        // An inverted condition on a value needs a value.
        matcher.kind = HeaderMatchKind::String(exact("1"));
        assert!(!holds(&matcher, &[]));
        assert!(holds(&matcher, &[("x-a", "2")]));
        matcher.treat_missing_as_empty = true;
        assert!(holds(&matcher, &[]));
    }

    #[test]
    fn the_first_value_of_a_query_parameter_counts() {
        let matcher = QueryMatcher {
            name: Arc::from("a"),
            kind: QueryMatchKind::String(exact("1")),
        };
        assert!(query_matches(&matcher, "/?b=2&a=1&a=2"));
        assert!(!query_matches(&matcher, "/?a=2&a=1"));
        assert!(!query_matches(&matcher, "/?aa=1"));
        let present = QueryMatcher {
            name: Arc::from("a"),
            kind: QueryMatchKind::Present(true),
        };
        assert!(query_matches(&present, "/?a"));
        assert!(!query_matches(&present, "/"));
    }

    #[test]
    fn grpc_content_types() {
        for (value, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            assert_eq!(
                is_grpc(&parts("/", &[("content-type", value)]).headers),
                is,
                "{value}"
            );
        }
    }

    #[test]
    fn parameters_belong_to_segments() {
        assert_eq!(&*without_parameters("/a;x=1;y/b;z/c"), b"/a/b/c");
        assert_eq!(&*without_parameters("/a"), b"/a");
    }

    #[test]
    fn separated_prefixes_end_at_a_slash() {
        let prefix = PathMatch::SeparatedPrefix {
            value: Arc::from("/a"),
            case_sensitive: true,
        };
        assert!(path_matches(&prefix, "/a"));
        assert!(path_matches(&prefix, "/a/b"));
        assert!(!path_matches(&prefix, "/ab"));
        assert!(!path_matches(&prefix, "/A"));
    }
}
