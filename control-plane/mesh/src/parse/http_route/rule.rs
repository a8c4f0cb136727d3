//! `spec.rules[i]`: backends and timeouts; matches and filters have their own files.

use std::{sync::Arc, time::Duration};

use gateway_api::experimental::httproutes as api;

use super::{Checks, check_reference, core_group, filters, matches, read_port};
use crate::model::{
    Backend, BackendTarget, Filters, Match, NamespacedName, PathChange, PathMatch, Retry, Rule,
};

pub(super) fn read(
    rule: api::HttpRouteRules,
    route: &NamespacedName,
    path: &str,
    checks: &mut Checks,
) -> Rule {
    let api::HttpRouteRules {
        backend_refs,
        filters,
        matches,
        name,
        retry,
        session_persistence,
        timeouts,
    } = rule;
    if session_persistence.is_some() {
        checks.unsupported(
            format!("{path}.sessionPersistence"),
            "not implemented; TrafficPolicy's stickiness or consistentHash may serve",
        );
    }
    let matches = matches::read(matches.unwrap_or_default(), path, checks);
    let filters = filters::read_rule(filters.unwrap_or_default(), route, path, checks);
    let backend_refs = backend_refs.unwrap_or_default();
    check_combinations(&filters, &matches, !backend_refs.is_empty(), path, checks);
    if backend_refs.len() > 16 {
        checks.error(format!("{path}.backendRefs"), "there can be at most 16");
    }
    let backends = backend_refs
        .into_iter()
        .enumerate()
        .filter_map(|(index, backend)| {
            read_backend(
                backend,
                route,
                &format!("{path}.backendRefs[{index}]"),
                checks,
            )
        })
        .collect();
    let (request_timeout, backend_timeout) = read_timeouts(timeouts, path, checks);
    let retry = retry.map(|retry| read_retry(retry, path, checks));
    let name = name.map(Arc::from);
    Rule {
        name,
        matches,
        filters,
        backends,
        request_timeout,
        backend_timeout,
        retry,
    }
}

/// The API's rules between filters, matches and backends.
fn check_combinations(
    filters: &Filters,
    matches: &[Match],
    has_backends: bool,
    path: &str,
    checks: &mut Checks,
) {
    let Filters {
        redirect,
        rewrite,
        request_headers: _,
        response_headers: _,
        mirrors,
        cors: _,
    } = filters;
    if redirect.is_some() && !mirrors.is_empty() {
        let message = "RequestRedirect and RequestMirror cannot be used together";
        checks.error(format!("{path}.filters"), message);
    }
    if redirect.is_some() && rewrite.is_some() {
        let message = "RequestRedirect and URLRewrite cannot be used together";
        checks.error(format!("{path}.filters"), message);
    }
    if redirect.is_some() && has_backends {
        let message = "a rule with RequestRedirect cannot have backends";
        checks.error(format!("{path}.backendRefs"), message);
    }
    let changes = [
        redirect
            .as_ref()
            .and_then(|redirect| redirect.path.as_ref()),
        rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()),
    ];
    let replaces_prefix = changes
        .into_iter()
        .flatten()
        .any(|change| matches!(change, PathChange::Prefix(_)));
    let one_prefix = matches!(matches, [only] if matches!(only.path, PathMatch::Prefix(_)));
    if replaces_prefix && !one_prefix {
        let message = "ReplacePrefixMatch needs exactly one match, of type PathPrefix";
        checks.error(format!("{path}.filters"), message);
    }
}

fn read_backend(
    backend: api::HttpRouteRulesBackendRefs,
    route: &NamespacedName,
    path: &str,
    checks: &mut Checks,
) -> Option<Backend> {
    let api::HttpRouteRulesBackendRefs {
        filters,
        group,
        kind,
        name,
        namespace,
        port,
        weight,
    } = backend;
    check_reference(&name, namespace.as_deref(), path, checks);
    let group = core_group(group.unwrap_or_default());
    let kind: Arc<str> = kind.map_or_else(|| Arc::from("Service"), Arc::from);
    if group.is_empty() && *kind == *"Service" && port.is_none() {
        checks.error(
            format!("{path}.port"),
            "a reference to a Service needs a port",
        );
    }
    let port = read_port(port, path, checks);
    let weight = weight.unwrap_or(1);
    let Some(weight) = u32::try_from(weight)
        .ok()
        .filter(|weight| *weight <= 1_000_000)
    else {
        checks.error(
            format!("{path}.weight"),
            format!("{weight} is not in 0..1000000"),
        );
        return None;
    };
    let namespace = namespace.map_or_else(|| route.namespace.clone(), Arc::from);
    let id = NamespacedName::new(namespace, name);
    let (request_headers, response_headers) =
        filters::read_backend(filters.unwrap_or_default(), path, checks);
    let target = BackendTarget {
        group,
        kind,
        id,
        port,
    };
    Some(Backend {
        target,
        weight,
        request_headers,
        response_headers,
    })
}

fn read_timeouts(
    timeouts: Option<api::HttpRouteRulesTimeouts>,
    path: &str,
    checks: &mut Checks,
) -> (Option<Duration>, Option<Duration>) {
    let Some(api::HttpRouteRulesTimeouts {
        backend_request,
        request,
    }) = timeouts
    else {
        return (None, None);
    };
    let mut read =
        |field: &str, text| read_duration(text, format!("{path}.timeouts.{field}"), checks);
    let request = read("request", request);
    let backend = read("backendRequest", backend_request);
    if let (Some(request), Some(backend)) = (request, backend)
        && !request.is_zero()
        && backend > request
    {
        let message = "cannot be longer than timeouts.request";
        checks.error(format!("{path}.timeouts.backendRequest"), message);
    }
    (request, backend)
}

fn read_duration(text: Option<String>, path: String, checks: &mut Checks) -> Option<Duration> {
    let text = text?;
    match text.parse::<gateway_api::Duration>() {
        Ok(duration) => Some(Duration::new(duration.as_secs(), duration.subsec_nanos())),
        Err(_) => {
            let message = format!("'{text}' is not a duration such as 1m30s or 250ms");
            checks.error(path, message);
            None
        }
    }
}

fn read_retry(retry: api::HttpRouteRulesRetry, rule: &str, checks: &mut Checks) -> Retry {
    let api::HttpRouteRulesRetry {
        attempts,
        backoff,
        codes,
    } = retry;
    let path = format!("{rule}.retry");
    let attempts = attempts.and_then(|attempts| {
        let number = u32::try_from(attempts).ok().filter(|number| *number <= 20);
        if number.is_none() {
            let message = format!("{attempts} is not in 0..20");
            checks.error(format!("{path}.attempts"), message);
        }
        number
    });
    let codes = codes
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .filter_map(|(index, code)| {
            let known = u16::try_from(code)
                .ok()
                .filter(|code| (400..600).contains(code));
            if known.is_none() {
                let message = format!("{code} is not in 400..599");
                checks.error(format!("{path}.codes[{index}]"), message);
            }
            known
        })
        .collect();
    Retry {
        codes,
        attempts,
        backoff: read_duration(backoff, format!("{path}.backoff"), checks),
    }
}
