//! `spec.rules[i].matches[j]`.

use std::sync::{Arc, LazyLock};

use gateway_api::experimental::httproutes as api;
use regex::Regex;

use super::{Checks, check_regex, is_token};
use crate::model::{Match, PathMatch, TextMatch, ValueMatch};

/// What the API's schema allows in paths that are compared.
static PATH: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$").expect("a valid pattern")
});

pub(super) fn read(
    matches: Vec<api::HttpRouteRulesMatches>,
    rule: &str,
    checks: &mut Checks,
) -> Vec<Match> {
    if matches.len() > 64 {
        checks.error(format!("{rule}.matches"), "there can be at most 64");
    }
    // The API's default: everything.
    let matches = if matches.is_empty() {
        vec![api::HttpRouteRulesMatches::default()]
    } else {
        matches
    };
    matches
        .into_iter()
        .enumerate()
        .map(|(index, one)| read_match(one, &format!("{rule}.matches[{index}]"), checks))
        .collect()
}

fn read_match(one: api::HttpRouteRulesMatches, path: &str, checks: &mut Checks) -> Match {
    let api::HttpRouteRulesMatches {
        headers,
        method,
        path: on_path,
        query_params,
    } = one;
    Match {
        path: read_path(on_path.unwrap_or_default(), &format!("{path}.path"), checks),
        method: method.map(|method| method_name(&method).into()),
        headers: read_headers(headers.unwrap_or_default(), path, checks),
        query: read_query(query_params.unwrap_or_default(), path, checks),
    }
}

fn read_path(on: api::HttpRouteRulesMatchesPath, path: &str, checks: &mut Checks) -> PathMatch {
    use api::HttpRouteRulesMatchesPathType as Type;
    let api::HttpRouteRulesMatchesPath { r#type, value } = on;
    let value = value.unwrap_or_else(|| "/".to_owned());
    let at = format!("{path}.value");
    if value.len() > 1024 {
        checks.error(at.clone(), "longer than 1024 characters");
    }
    match r#type.unwrap_or(Type::PathPrefix) {
        Type::Exact => {
            check_path(&value, at, checks);
            PathMatch::Exact(value.into())
        }
        Type::PathPrefix => {
            check_path(&value, at, checks);
            PathMatch::Prefix(value.trim_end_matches('/').into())
        }
        Type::RegularExpression => {
            check_regex(&value, at, checks);
            PathMatch::Regex(value.into())
        }
    }
}

fn check_path(value: &str, at: String, checks: &mut Checks) {
    if !value.starts_with('/') {
        checks.error(at, format!("'{value}' must start with '/'"));
        return;
    }
    let lower = value.to_ascii_lowercase();
    let forbidden = ["//", "/./", "/../", "%2f"]
        .into_iter()
        .find(|part| lower.contains(part));
    let ends = ["/.", "/.."].into_iter().find(|end| value.ends_with(end));
    if let Some(part) = forbidden.or(ends) {
        checks.error(at, format!("'{value}' must not contain '{part}'"));
    } else if !PATH.is_match(value) {
        checks.error(at, format!("'{value}' has characters that no path has"));
    }
}

fn read_headers(
    headers: Vec<api::HttpRouteRulesMatchesHeaders>,
    path: &str,
    checks: &mut Checks,
) -> Vec<ValueMatch> {
    use api::HttpRouteRulesMatchesHeadersType as Type;
    if headers.len() > 16 {
        checks.error(format!("{path}.headers"), "there can be at most 16");
    }
    let mut read: Vec<ValueMatch> = Vec::with_capacity(headers.len());
    for (index, header) in headers.into_iter().enumerate() {
        let path = format!("{path}.headers[{index}]");
        let api::HttpRouteRulesMatchesHeaders {
            name,
            r#type,
            value,
        } = header;
        let is_regex = matches!(r#type, Some(Type::RegularExpression));
        // By the API, of equal names only the first counts; names ignore case.
        let name = name.to_ascii_lowercase();
        push_value(&mut read, name, value, is_regex, &path, checks);
    }
    read
}

fn read_query(
    params: Vec<api::HttpRouteRulesMatchesQueryParams>,
    path: &str,
    checks: &mut Checks,
) -> Vec<ValueMatch> {
    use api::HttpRouteRulesMatchesQueryParamsType as Type;
    if params.len() > 16 {
        checks.error(format!("{path}.queryParams"), "there can be at most 16");
    }
    let mut read: Vec<ValueMatch> = Vec::with_capacity(params.len());
    for (index, param) in params.into_iter().enumerate() {
        let path = format!("{path}.queryParams[{index}]");
        let api::HttpRouteRulesMatchesQueryParams {
            name,
            r#type,
            value,
        } = param;
        let is_regex = matches!(r#type, Some(Type::RegularExpression));
        push_value(&mut read, name, value, is_regex, &path, checks);
    }
    read
}

fn push_value(
    read: &mut Vec<ValueMatch>,
    name: String,
    value: String,
    is_regex: bool,
    path: &str,
    checks: &mut Checks,
) {
    if !is_token(&name) {
        checks.error(
            format!("{path}.name"),
            format!("'{name}' is not a valid name"),
        );
    }
    if value.is_empty() || value.len() > 4096 {
        checks.error(format!("{path}.value"), "must have 1 to 4096 characters");
    }
    if is_regex {
        check_regex(&value, format!("{path}.value"), checks);
    }
    if read.iter().any(|other| *other.name == *name) {
        checks.warn(
            format!("{path}.name"),
            format!("'{name}' is there twice: the first counts"),
        );
        return;
    }
    let value: Arc<str> = value.into();
    let value = if is_regex {
        TextMatch::Regex(value)
    } else {
        TextMatch::Exact(value)
    };
    read.push(ValueMatch {
        name: name.into(),
        value,
    });
}

fn method_name(method: &api::HttpRouteRulesMatchesMethod) -> &'static str {
    use api::HttpRouteRulesMatchesMethod as Method;
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
    }
}
