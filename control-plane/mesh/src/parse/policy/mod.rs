//! The mesh's own policies: `TrafficPolicy`, `Bulkhead`, `RateLimitPolicy`, `FaultPolicy`.
//!
//! Deserialising finds unknown fields and wrong types; what is checked here are ranges, what
//! excludes what, and what makes no sense for a target.

mod bulkhead;
mod fault;
mod rate_limit;
mod traffic;

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, de::DeserializeOwned};
use serde_norway::Value;

use super::{Checks, http_route::is_token, metadata, value};
use crate::model::policy::{HeaderMatch, Policy, PolicySpec, Span, TargetKind, TargetRef};

#[derive(Deserialize)]
struct Manifest<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: ObjectMeta,
    spec: S,
    /// What another controller wrote there is of no interest here.
    #[serde(default, rename = "status")]
    _status: Value,
}

/// What is checked of one kind of policy.
pub(super) trait Check: PolicySpec + DeserializeOwned {
    /// Notes everything wrong with values; paths begin with `spec`.
    fn check(&self, checks: &mut Checks);
}

/// Reads a policy.
pub(super) fn read<S: Check>(value: Value, checks: &mut Checks) -> Option<Policy<S>> {
    let manifest: Manifest<S> = value::typed(value, checks)?;
    let id = metadata::read(&manifest.metadata, checks)?;
    check_targets(manifest.spec.targets(), checks);
    manifest.spec.check(checks);
    Some(Policy {
        id,
        created: manifest.metadata.creation_timestamp.map(|time| time.0),
        spec: manifest.spec,
    })
}

fn check_targets(targets: &[TargetRef], checks: &mut Checks) {
    if targets.is_empty() || targets.len() > 16 {
        let message = format!("{} targets; there must be 1 to 16", targets.len());
        checks.error("spec.targetRefs", message);
    }
    let mut seen = HashSet::new();
    for (index, target) in targets.iter().enumerate() {
        let path = format!("spec.targetRefs[{index}]");
        let TargetRef {
            group,
            kind,
            name,
            section_name,
        } = target;
        if target.target().is_none() {
            match kind.as_str() {
                "Service" => checks.error(
                    format!("{path}.group"),
                    format!("'{group}' is not the group of Service: write group: \"\""),
                ),
                "HTTPRoute" => checks.error(
                    format!("{path}.group"),
                    format!(
                        "'{group}' is not the group of HTTPRoute: write gateway.networking.k8s.io"
                    ),
                ),
                _ => checks.error(
                    format!("{path}.kind"),
                    format!("{kind} is not supported; use Service or HTTPRoute"),
                ),
            }
        }
        if !metadata::is_subdomain(name) {
            checks.error(
                format!("{path}.name"),
                format!("'{name}' is not a valid name"),
            );
        }
        if section_name.as_ref().is_some_and(String::is_empty) {
            checks.error(format!("{path}.sectionName"), "must not be empty");
        }
        if !seen.insert((kind, name, section_name)) {
            checks.error(path, "the same target twice");
        }
    }
}

/// The first target of that kind, for messages.
fn has_target<S: PolicySpec>(spec: &S, kind: TargetKind) -> bool {
    spec.targets()
        .iter()
        .any(|target| target.target() == Some(kind))
}

/// The longest that fits everywhere; Envoy's limit is of the same order.
const LONGEST: std::time::Duration = std::time::Duration::from_hours(24 * 365);

/// A duration that must not be zero.
fn positive(span: Option<Span>, path: &str, checks: &mut Checks) {
    if span.is_some_and(|span| span.0.is_zero()) {
        checks.error(path, "must be longer than 0s");
    }
    bounded(span, path, checks);
}

/// A duration of at most a year.
fn bounded(span: Option<Span>, path: &str, checks: &mut Checks) {
    if span.is_some_and(|span| span.0 > LONGEST) {
        checks.error(path, "longer than a year");
    }
}

/// A number within bounds, both included.
fn within<N: PartialOrd + std::fmt::Display>(
    number: Option<N>,
    (least, most): (N, N),
    path: &str,
    checks: &mut Checks,
) {
    if let Some(number) = number
        && !(least <= number && number <= most)
    {
        checks.error(path, format!("{number} is not in {least}..{most}"));
    }
}

/// A number of at least one.
fn at_least_one(number: Option<u32>, path: &str, checks: &mut Checks) {
    if number == Some(0) {
        checks.error(path, "must be at least 1");
    }
}

fn header_name(name: &str, path: &str, checks: &mut Checks) {
    if !is_token(name) {
        checks.error(path, format!("'{name}' is not a valid header name"));
    }
}

fn header_value(value: &str, path: &str, checks: &mut Checks) {
    if value.len() > 4096 || value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
        let message = "not a valid header value: control characters, or over 4096 bytes";
        checks.error(path, message);
    }
}

fn header_match(one: &HeaderMatch, path: &str, checks: &mut Checks) {
    let HeaderMatch { name, value, regex } = one;
    header_name(name, &format!("{path}.name"), checks);
    match (value, regex) {
        (Some(_), Some(_)) => checks.error(format!("{path}.regex"), "excludes value"),
        (Some(value), None) => header_value(value, &format!("{path}.value"), checks),
        (None, Some(pattern)) => {
            super::http_route::check_regex(pattern, format!("{path}.regex"), checks);
        }
        (None, None) => {}
    }
}

#[cfg(test)]
mod tests;
