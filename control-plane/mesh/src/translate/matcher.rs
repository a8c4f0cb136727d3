//! Matches of a rule as `RouteMatch`.

use outrigger_proto::envoy::{config::route::v3 as api, r#type::matcher::v3 as matcher};

use crate::model::{Match, PathMatch, TextMatch, ValueMatch, policy::HeaderMatch};

pub(super) fn route_match(one: &Match) -> api::RouteMatch {
    use api::route_match::PathSpecifier;
    let Match {
        path,
        method,
        headers,
        query,
    } = one;
    let path = match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
        PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(regex(pattern)),
        PathMatch::Prefix(prefix) if prefix.is_empty() => PathSpecifier::Prefix("/".to_owned()),
        // `/shop` and `/shop/cart`, but not `/shopping`.
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.to_string()),
    };
    let method = method
        .as_ref()
        .map(|method| header(":method", &TextMatch::Exact(method.clone())));
    api::RouteMatch {
        path_specifier: Some(path),
        headers: method
            .into_iter()
            .chain(headers.iter().map(header_match))
            .collect(),
        query_parameters: query.iter().map(query_match).collect(),
        ..Default::default()
    }
}

/// Full match, as everywhere in Envoy's routes.
pub(super) fn regex(pattern: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: pattern.to_owned(),
        ..Default::default()
    }
}

fn header_match(on: &ValueMatch) -> api::HeaderMatcher {
    // A proxy keeps HTTP/1's Host as HTTP/2's pseudo-header.
    let name = if *on.name == *"host" {
        ":authority"
    } else {
        &on.name
    };
    header(name, &on.value)
}

fn header(name: &str, value: &TextMatch) -> api::HeaderMatcher {
    api::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(api::header_matcher::HeaderMatchSpecifier::StringMatch(
            text(value),
        )),
        ..Default::default()
    }
}

fn query_match(on: &ValueMatch) -> api::QueryParameterMatcher {
    use api::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    api::QueryParameterMatcher {
        name: on.name.to_string(),
        query_parameter_match_specifier: Some(Specifier::StringMatch(text(&on.value))),
    }
}

fn text(value: &TextMatch) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern;
    let pattern = match value {
        TextMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        TextMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
    };
    matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }
}

/// A policy's condition on a header; without a value it only has to be there.
pub(super) fn policy_header(on: &HeaderMatch) -> api::HeaderMatcher {
    let HeaderMatch { name, value, regex } = on;
    let condition = value
        .as_ref()
        .map(|value| TextMatch::Exact(value.as_str().into()))
        .or_else(|| {
            regex
                .as_ref()
                .map(|pattern| TextMatch::Regex(pattern.as_str().into()))
        });
    let name = name.to_ascii_lowercase();
    match condition {
        Some(value) => header_match(&ValueMatch {
            name: name.into(),
            value,
        }),
        None => api::HeaderMatcher {
            name,
            header_match_specifier: Some(api::header_matcher::HeaderMatchSpecifier::PresentMatch(
                true,
            )),
            ..Default::default()
        },
    }
}

/// An origin of `CORS`, in which `*` is any part of a host.
pub(super) fn origin(pattern: &str) -> matcher::StringMatcher {
    if pattern == "*" {
        text(&TextMatch::Regex(".*".into()))
    } else if pattern.contains('*') {
        let parts: Vec<_> = pattern.split('*').map(escape).collect();
        text(&TextMatch::Regex(parts.join("[^/]*").into()))
    } else {
        text(&TextMatch::Exact(pattern.into()))
    }
}

/// `text` as a regular expression that matches it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if !character.is_ascii_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
