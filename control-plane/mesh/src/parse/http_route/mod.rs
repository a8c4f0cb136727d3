//! `gateway.networking.k8s.io/v1 HTTPRoute`.
//!
//! Checks what the API server would check (the resource's schema and its CEL rules), so that a
//! file means the same here and on Kubernetes. Fields of the API that this mesh does not implement
//! are noted in [`HttpRoute::unsupported`].

mod cors;
mod filters;
mod matches;
mod mirror;
mod rule;

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_norway::Value;

use super::{Checks, metadata, value};
use crate::model::{HttpRoute, NamespacedName, ParentRef, Unsupported};

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: ObjectMeta,
    spec: api::HttpRouteSpec,
    /// What another controller wrote there is of no interest here.
    #[serde(default, rename = "status")]
    _status: Value,
}

/// Reads an HTTPRoute.
pub(super) fn read(value: Value, checks: &mut Checks) -> Option<HttpRoute> {
    let manifest: Manifest = value::typed(value, checks)?;
    let id = metadata::read(&manifest.metadata, checks)?;
    let api::HttpRouteSpec {
        hostnames,
        parent_refs,
        rules,
        use_default_gateways,
    } = manifest.spec;
    if use_default_gateways.is_some() {
        checks.unsupported("spec.useDefaultGateways", "there are no default gateways");
    }
    let hostnames = hostnames.is_some_and(|hostnames| !hostnames.is_empty());
    if hostnames {
        checks.warn(
            "spec.hostnames",
            "has no effect on a route of Services; match the header Host instead",
        );
    }
    let parent_refs = parent_refs.unwrap_or_default();
    if parent_refs.is_empty() {
        checks.warn("spec.parentRefs", "the route is attached to nothing");
    }
    let parents = parent_refs
        .into_iter()
        .enumerate()
        .map(|(index, parent)| {
            read_parent(parent, &id, &format!("spec.parentRefs[{index}]"), checks)
        })
        .collect();
    let rules = rules.unwrap_or_else(|| vec![api::HttpRouteRules::default()]);
    if rules.is_empty() || rules.len() > 16 {
        checks.error(
            "spec.rules",
            format!("{} rules; there must be 1 to 16", rules.len()),
        );
    }
    let rules = rules
        .into_iter()
        .enumerate()
        .map(|(index, rule)| rule::read(rule, &id, &format!("spec.rules[{index}]"), checks))
        .collect();
    let unsupported = checks
        .unsupported
        .drain(..)
        .map(|problem| Unsupported {
            path: problem.path,
            message: problem.message,
        })
        .collect::<Vec<_>>();
    for field in &unsupported {
        checks.warn(
            &field.path,
            format!(
                "not supported, so the route is not in force: {}",
                field.message
            ),
        );
    }
    let created = manifest.metadata.creation_timestamp.map(|time| time.0);
    Some(HttpRoute {
        id,
        created,
        hostnames,
        parents,
        rules,
        unsupported,
    })
}

fn read_parent(
    parent: api::HttpRouteParentRefs,
    route: &NamespacedName,
    path: &str,
    checks: &mut Checks,
) -> ParentRef {
    let api::HttpRouteParentRefs {
        group,
        kind,
        name,
        namespace,
        port,
        section_name,
    } = parent;
    let group = group.unwrap_or_else(|| GATEWAY_GROUP.to_owned());
    let kind = kind.unwrap_or_else(|| "Gateway".to_owned());
    if group == GATEWAY_GROUP && kind == "Service" {
        checks.error(
            format!("{path}.group"),
            "a Service is of the group \"\": write group: \"\"",
        );
    }
    check_reference(&name, namespace.as_deref(), path, checks);
    ParentRef {
        group: core_group(group),
        kind: kind.into(),
        id: NamespacedName::new(
            namespace.map_or_else(|| route.namespace.clone(), Arc::from),
            name,
        ),
        port: read_port(port, path, checks),
        section: section_name.map(Arc::from),
    }
}

/// The API calls the group of Services "" and, in places, "core".
fn core_group(group: String) -> Arc<str> {
    if group == "core" {
        Arc::from("")
    } else {
        group.into()
    }
}

fn check_reference(name: &str, namespace: Option<&str>, path: &str, checks: &mut Checks) {
    if !metadata::is_subdomain(name) {
        checks.error(
            format!("{path}.name"),
            format!("'{name}' is not a valid name"),
        );
    }
    if let Some(namespace) = namespace.filter(|namespace| !metadata::is_label(namespace)) {
        let message = format!("'{namespace}' is not a valid namespace name");
        checks.error(format!("{path}.namespace"), message);
    }
}

fn read_port(port: Option<i32>, path: &str, checks: &mut Checks) -> Option<u16> {
    let port = port?;
    let number = u16::try_from(port).ok().filter(|number| *number != 0);
    if number.is_none() {
        checks.error(format!("{path}.port"), format!("{port} is not in 1..65535"));
    }
    number
}

/// The token characters of RFC 9110: header names, and query parameter names by the API's schema.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reports `pattern` if it does not compile.
pub(super) fn check_regex(pattern: &str, path: String, checks: &mut Checks) {
    if pattern.is_empty() {
        checks.error(path, "must not be empty");
        return;
    }
    // By the rules of the proxy that will match with it.
    if let Err(reason) = outrigger_proto::compile_whole_regex(pattern) {
        checks.error(
            path,
            format!("'{pattern}' is not a valid regular expression: {reason}"),
        );
    }
}
