//! `/config_dump`: every resource with its version, time and state.

use std::collections::BTreeMap;

use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{
    Context,
    clusters::{health_name, locality},
    listeners::socket_address,
    query::Query,
    serve::Reply,
    stats,
};
use crate::{
    config::cluster::Discovery,
    snapshot::{Dump, DumpEntry, DumpState, Origin, state::Kind},
    upstream::{Cluster, Host},
};

const TYPES: &str = "type.googleapis.com/envoy.admin.v3.";

/// Lists of resources: name, the message around it, the message of an element.
const LISTS: [(&str, &str, &str); 9] = [
    ("static_clusters", "ClustersConfigDump", "StaticCluster"),
    (
        "dynamic_active_clusters",
        "ClustersConfigDump",
        "DynamicCluster",
    ),
    (
        "dynamic_warming_clusters",
        "ClustersConfigDump",
        "DynamicCluster",
    ),
    (
        "static_endpoint_configs",
        "EndpointsConfigDump",
        "StaticEndpointConfig",
    ),
    (
        "dynamic_endpoint_configs",
        "EndpointsConfigDump",
        "DynamicEndpointConfig",
    ),
    ("static_listeners", "ListenersConfigDump", "StaticListener"),
    (
        "dynamic_listeners",
        "ListenersConfigDump",
        "DynamicListener",
    ),
    (
        "static_route_configs",
        "RoutesConfigDump",
        "StaticRouteConfig",
    ),
    (
        "dynamic_route_configs",
        "RoutesConfigDump",
        "DynamicRouteConfig",
    ),
];

/// Messages of the whole dump, in Envoy's order.
const MESSAGES: [&str; 7] = [
    "BootstrapConfigDump",
    "ClustersConfigDump",
    "EndpointsConfigDump",
    "ListenersConfigDump",
    "ScopedRoutesConfigDump",
    "RoutesConfigDump",
    "SecretsConfigDump",
];

pub(super) async fn show(query: Query<'_>, context: &Context) -> Reply {
    let regex = match query
        .value("name_regex")
        .map(|text| stats::regex(&text))
        .transpose()
    {
        Ok(regex) => regex,
        Err(reply) => return reply,
    };
    let include_eds = query.has("include_eds");
    let mask = query.value("mask");
    let mask: Vec<&str> = mask
        .as_deref()
        .unwrap_or("")
        .split(',')
        .filter(|m| !m.is_empty())
        .collect();
    let dump = (context.dump)().await;
    let mut lists = lists(&dump, context, include_eds, regex.as_ref());
    if let Some(resource) = query.value("resource") {
        return one_list(&resource, &mask, &mut lists);
    }
    let mut configs = Vec::new();
    for message in MESSAGES {
        if message == "EndpointsConfigDump" && !include_eds {
            continue;
        }
        let mut config = Map::new();
        config.insert("@type".to_owned(), json!(format!("{TYPES}{message}")));
        if message == "BootstrapConfigDump" {
            let bootstrap = outrigger_proto::value_from_message(&*context.bootstrap.raw);
            config.insert("bootstrap".to_owned(), bootstrap.unwrap_or(Value::Null));
            config.insert("last_updated".to_owned(), time(context.started.1));
        }
        if let Some(version) = version_info(message, &dump) {
            config.insert("version_info".to_owned(), json!(version));
        }
        for (list, around, _) in LISTS {
            if around == message
                && let Some(elements) = lists.remove(list)
            {
                let elements = elements.into_iter().map(|(_, element)| element).collect();
                config.insert(list.to_owned(), Value::Array(elements));
            }
        }
        configs.push(Value::Object(config));
    }
    if !mask.is_empty() {
        configs.retain_mut(|config| apply_mask(config, &mask));
        if configs.is_empty() {
            let text = format!(
                "FieldMask {} could not be successfully applied to any configs.",
                mask.join(",")
            );
            return Reply::new(StatusCode::BAD_REQUEST, text);
        }
    }
    Reply::json(&json!({"configs": configs}))
}

/// `?resource=`: the elements of one list.
fn one_list(resource: &str, mask: &[&str], lists: &mut Lists) -> Reply {
    if resource == "bootstrap" {
        let text = "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field";
        return Reply::new(StatusCode::BAD_REQUEST, text);
    }
    let Some((name, around, element)) = LISTS.into_iter().find(|(name, ..)| *name == resource)
    else {
        return Reply {
            content_type: "text/plain",
            ..Reply::new(
                StatusCode::NOT_FOUND,
                format!("{resource} not found in config dump"),
            )
        };
    };
    let mut configs = Vec::new();
    for (_, mut value) in lists.remove(name).unwrap_or_default() {
        if !mask.is_empty() && !apply_mask(&mut value, mask) {
            let text = format!(
                "FieldMask {} could not be successfully used.",
                mask.join(",")
            );
            return Reply::new(StatusCode::BAD_REQUEST, text);
        }
        if let Value::Object(fields) = value {
            let mut config = Map::new();
            config.insert(
                "@type".to_owned(),
                json!(format!("{TYPES}{around}.{element}")),
            );
            config.extend(fields);
            configs.push(Value::Object(config));
        }
    }
    match configs.is_empty() {
        true => Reply::json(&json!({})),
        false => Reply::json(&json!({"configs": configs})),
    }
}

/// Keeps only the fields that `mask` names, and types; false if none is there.
fn apply_mask(value: &mut Value, mask: &[&str]) -> bool {
    let Value::Object(fields) = value else {
        return false;
    };
    let mut found = false;
    fields.retain(|name, value| {
        if name == "@type" {
            return true;
        }
        if mask.contains(&&**name) {
            found = true;
            return true;
        }
        let below: Vec<&str> = mask
            .iter()
            .filter_map(|path| path.strip_prefix(name.as_str())?.strip_prefix('.'))
            .collect();
        let is_kept = !below.is_empty() && apply_mask(value, &below);
        found |= is_kept;
        is_kept
    });
    found
}

/// Elements by list, with their names.
type Lists = BTreeMap<&'static str, Vec<(String, Value)>>;

fn lists(dump: &Dump, context: &Context, include_eds: bool, regex: Option<&Regex>) -> Lists {
    let mut lists = Lists::new();
    for entry in &dump.entries {
        match entry.kind {
            Kind::Cluster => add_cluster(entry, &mut lists),
            Kind::Listener => add_listener(entry, &mut lists),
            Kind::Route => add_route(entry, &mut lists),
            Kind::Endpoints => {}
        }
    }
    add_inline_routes(dump, &mut lists);
    if include_eds {
        add_endpoints(dump, context, &mut lists);
    }
    for elements in lists.values_mut() {
        elements.retain(|(name, _)| regex.is_none_or(|regex| regex.is_match(name)));
        elements.sort_by(|(left, _), (right, _)| left.cmp(right));
    }
    lists.retain(|_, elements| !elements.is_empty());
    lists
}

/// A moment as Envoy writes it.
pub(super) fn time(moment: std::time::SystemTime) -> Value {
    let text = jiff::Timestamp::try_from(moment).map(|time| format!("{time:.3}"));
    json!(text.unwrap_or_default())
}

fn body(entry: &DumpEntry) -> Value {
    outrigger_proto::any_to_value(&entry.resource.body)
}

/// `{version_info, <field>, last_updated}`.
fn state(entry: &DumpEntry, field: &str) -> Value {
    let mut state = Map::new();
    if entry.resource.origin == Origin::Dynamic {
        state.insert("version_info".to_owned(), json!(&*entry.resource.version));
    }
    state.insert(field.to_owned(), body(entry));
    state.insert("last_updated".to_owned(), time(entry.resource.updated));
    Value::Object(state)
}

/// `envoy.admin.v3.UpdateFailureState`.
fn error_state(entry: &DumpEntry, reason: &str) -> Value {
    json!({
        "failed_configuration": body(entry),
        "last_update_attempt": time(entry.resource.updated),
        "details": reason,
        "version_info": &*entry.resource.version,
    })
}

/// The element of `list` with this name, made if it is not there.
fn element<'a>(lists: &'a mut Lists, list: &'static str, name: &str) -> &'a mut Value {
    let elements = lists.entry(list).or_default();
    let at = elements
        .iter()
        .position(|(other, _)| other == name)
        .unwrap_or(elements.len());
    if at == elements.len() {
        elements.push((name.to_owned(), json!({})));
    }
    &mut elements[at].1
}

/// Puts the fields of `value` into the element.
fn merge(element: &mut Value, value: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (element, value) {
        fields.extend(more);
    }
}

fn add_cluster(entry: &DumpEntry, lists: &mut Lists) {
    let list = match (&entry.state, entry.resource.origin) {
        (DumpState::Warming, _) => "dynamic_warming_clusters",
        (_, Origin::Static) => "static_clusters",
        (_, Origin::Dynamic) => "dynamic_active_clusters",
    };
    let name = &*entry.resource.name;
    match &entry.state {
        DumpState::Refused(reason) => {
            element(lists, list, name)["error_state"] = error_state(entry, reason);
        }
        DumpState::Active | DumpState::Warming => {
            merge(element(lists, list, name), state(entry, "cluster"));
        }
    }
}

fn add_route(entry: &DumpEntry, lists: &mut Lists) {
    let element = element(lists, "dynamic_route_configs", &entry.resource.name);
    match &entry.state {
        DumpState::Refused(reason) => element["error_state"] = error_state(entry, reason),
        // What waits is not shown in place of what serves.
        DumpState::Warming if element.get("route_config").is_some() => {}
        DumpState::Active | DumpState::Warming => merge(element, state(entry, "route_config")),
    }
}

fn add_listener(entry: &DumpEntry, lists: &mut Lists) {
    let name = &*entry.resource.name;
    if entry.resource.origin == Origin::Static {
        merge(
            element(lists, "static_listeners", name),
            state(entry, "listener"),
        );
        return;
    }
    let element = element(lists, "dynamic_listeners", name);
    element["name"] = json!(name);
    match &entry.state {
        DumpState::Active => element["active_state"] = state(entry, "listener"),
        DumpState::Warming => element["warming_state"] = state(entry, "listener"),
        DumpState::Refused(reason) => element["error_state"] = error_state(entry, reason),
    }
}

/// Route configurations that stand in listeners.
fn add_inline_routes(dump: &Dump, lists: &mut Lists) {
    let listeners = dump
        .entries
        .iter()
        .filter(|entry| entry.kind == Kind::Listener && entry.state == DumpState::Active);
    for entry in listeners {
        let mut found = Vec::new();
        find_inline_routes(body(entry), &mut found);
        for routes in found {
            let mut config = Map::new();
            let name = routes["name"].as_str().unwrap_or("").to_owned();
            config.insert(
                "@type".to_owned(),
                json!("type.googleapis.com/envoy.config.route.v3.RouteConfiguration"),
            );
            if let Value::Object(fields) = routes {
                config.extend(fields);
            }
            let element =
                json!({"route_config": config, "last_updated": time(entry.resource.updated)});
            lists
                .entry("static_route_configs")
                .or_default()
                .push((name, element));
        }
    }
}

fn find_inline_routes(value: Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            let is_manager = fields
                .get("@type")
                .and_then(Value::as_str)
                .is_some_and(|name| name.ends_with(".HttpConnectionManager"));
            for (name, value) in fields {
                match is_manager && name == "route_config" {
                    true => found.push(value),
                    false => find_inline_routes(value, found),
                }
            }
        }
        Value::Array(items) => {
            items
                .into_iter()
                .for_each(|item| find_inline_routes(item, found));
        }
        _ => {}
    }
}

/// Endpoints as they are in use, whatever they came from.
fn add_endpoints(dump: &Dump, context: &Context, lists: &mut Lists) {
    for cluster in context.publisher.current().clusters.values() {
        let (list, assignment) = match &cluster.config.discovery {
            Discovery::Eds { service_name, .. } => {
                let entry = dump.entries.iter().find(|entry| {
                    entry.kind == Kind::Endpoints && entry.resource.name == *service_name
                });
                ("dynamic_endpoint_configs", entry)
            }
            Discovery::Static(_) | Discovery::StrictDns(_) | Discovery::OriginalDst(_) => {
                ("static_endpoint_configs", None)
            }
        };
        let element = element(lists, list, cluster.name());
        if let Some(entry) = assignment {
            element["version_info"] = json!(&*entry.resource.version);
            element["last_updated"] = time(entry.resource.updated);
        }
        element["endpoint_config"] = load_assignment(cluster);
    }
}

fn load_assignment(cluster: &Cluster) -> Value {
    let hosts = cluster.hosts.load();
    let mut groups: BTreeMap<(u32, [&str; 3]), Vec<&Host>> = BTreeMap::new();
    for host in &hosts.hosts {
        let place = &host.locality;
        let key = (
            host.priority(),
            [&*place.region, &*place.zone, &*place.sub_zone],
        );
        groups.entry(key).or_default().push(host);
    }
    let endpoints: Vec<Value> = groups
        .into_iter()
        .map(|((priority, _), hosts)| {
            let mut group = json!({
                "locality": hosts.first().map(|host| locality(host)),
                "lb_endpoints": hosts.into_iter().map(lb_endpoint).collect::<Vec<_>>(),
            });
            if priority != 0 {
                group["priority"] = json!(priority);
            }
            group
        })
        .collect();
    json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": &**cluster.name(),
        "endpoints": endpoints,
        "policy": {"overprovisioning_factor": 140},
    })
}

fn lb_endpoint(host: &Host) -> Value {
    let mut endpoint = json!({"address": socket_address(host.address), "health_check_config": {}});
    if !host.hostname.is_empty() {
        endpoint["hostname"] = json!(&*host.hostname);
    }
    json!({
        "endpoint": endpoint,
        "health_status": health_name(host.health()),
        "load_balancing_weight": host.weight(),
    })
}

/// The version of a list: the newest that a resource of it came with.
fn version_info<'a>(message: &str, dump: &'a Dump) -> Option<&'a str> {
    let kind = match message {
        "ClustersConfigDump" => Kind::Cluster,
        "ListenersConfigDump" => Kind::Listener,
        _ => return None,
    };
    dump.entries
        .iter()
        .filter(|entry| {
            entry.kind == kind
                && entry.resource.origin == Origin::Dynamic
                && !matches!(entry.state, DumpState::Refused(_))
        })
        .max_by_key(|entry| entry.resource.updated)
        .map(|entry| &*entry.resource.version)
}
