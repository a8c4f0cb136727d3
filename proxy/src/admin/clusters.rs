//! `/clusters`.

use std::{
    collections::HashSet,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::{Map, Value, json};

use super::{Context, listeners::socket_address, query::Query, serve::Reply, stats};
use crate::{
    config::{
        cluster::{Discovery, HealthStatus},
        route::Priority,
    },
    snapshot::{Origin, state::Kind},
    telemetry::format::observability_name,
    upstream::{Cluster, HealthFlags, Host},
};

pub(super) async fn show(query: Query<'_>, context: &Context) -> Reply {
    let filter = match query
        .value("filter")
        .map(|text| stats::regex(&text))
        .transpose()
    {
        Ok(filter) => filter,
        Err(reply) => return reply,
    };
    let snapshot = context.publisher.current();
    let mut clusters: Vec<&Arc<Cluster>> = snapshot
        .clusters
        .values()
        .filter(|cluster| {
            filter
                .as_ref()
                .is_none_or(|regex| regex.is_match(cluster.name()))
        })
        .collect();
    clusters.sort_unstable_by_key(|cluster| cluster.name());
    let dump = (context.dump)().await;
    let dynamic: HashSet<&str> = dump
        .entries
        .iter()
        .filter(|entry| entry.kind == Kind::Cluster && entry.resource.origin == Origin::Dynamic)
        .map(|entry| &*entry.resource.name)
        .collect();
    let added_via_api = |cluster: &Cluster| dynamic.contains(&**cluster.name());
    match query.value("format").as_deref() {
        Some("json") => {
            let statuses: Vec<Value> = clusters
                .into_iter()
                .map(|cluster| cluster_json(cluster, added_via_api(cluster)))
                .collect();
            Reply::json(&json!({"cluster_statuses": statuses}))
        }
        _ => {
            let mut text = String::new();
            for cluster in clusters {
                cluster_text(&mut text, cluster, added_via_api(cluster));
            }
            Reply::text(text)
        }
    }
}

/// The limits of one priority as they are now.
struct Limits {
    name: &'static str,
    priority: Priority,
    limits: [(&'static str, u32); 4],
}

fn thresholds(cluster: &Cluster) -> [Limits; 2] {
    [("default", Priority::Default), ("high", Priority::High)].map(|(name, priority)| {
        let resources = cluster.circuit.of(priority);
        Limits {
            name,
            priority,
            limits: [
                ("max_connections", resources.connections.max()),
                ("max_pending_requests", resources.pending.max()),
                ("max_requests", resources.requests.max()),
                ("max_retries", resources.retries.configured_max()),
            ],
        }
    })
}

/// Counters and gauges of a host, in Envoy's order.
fn host_stats(host: &Host) -> [(&'static str, u64); 9] {
    let load = |value: &AtomicU64| value.load(Relaxed);
    let stats = &host.stats;
    [
        ("cx_active", load(&stats.cx_active)),
        ("cx_connect_fail", load(&stats.cx_connect_fail)),
        ("cx_total", load(&stats.cx_total)),
        ("rq_active", load(&stats.rq_active)),
        ("rq_error", load(&stats.rq_error)),
        ("rq_pending_active", 0),
        ("rq_success", load(&stats.rq_success)),
        ("rq_timeout", load(&stats.rq_timeout)),
        ("rq_total", load(&stats.rq_total)),
    ]
}

fn cluster_text(text: &mut String, cluster: &Cluster, added_via_api: bool) {
    let name = cluster.name();
    // Writing to a String cannot fail.
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _infallible = writeln!(text, "{name}::{key}::{value}");
    };
    line("observability_name", &observability_name(&cluster.config));
    if let Some(outlier) = &cluster.outlier {
        let (averages, local) = (outlier.averages(), outlier.local_averages());
        line("outlier::success_rate_average", &averages.mean);
        line(
            "outlier::success_rate_ejection_threshold",
            &averages.threshold,
        );
        line("outlier::local_origin_success_rate_average", &local.mean);
        line(
            "outlier::local_origin_success_rate_ejection_threshold",
            &local.threshold,
        );
    }
    for Limits { name, limits, .. } in thresholds(cluster) {
        for (limit, max) in limits {
            line(&format!("{name}_priority::{limit}"), &max);
        }
    }
    line("added_via_api", &added_via_api);
    if let Discovery::Eds { service_name, .. } = &cluster.config.discovery
        && service_name != name
    {
        line("eds_service_name", service_name);
    }
    for host in &cluster.hosts.load().hosts {
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            line(&format!("{}::{key}", host.address), value)
        };
        for (stat, value) in host_stats(host) {
            line(stat, &value);
        }
        line("hostname", &host.hostname);
        line("health_flags", &host.flags());
        line("weight", &host.weight());
        line("region", &host.locality.region);
        line("zone", &host.locality.zone);
        line("sub_zone", &host.locality.sub_zone);
        line("canary", &false);
        line("priority", &host.priority());
        line("success_rate", &host.outlier.success_rate());
        line(
            "local_origin_success_rate",
            &host.outlier.local_success_rate(),
        );
    }
}

fn cluster_json(cluster: &Cluster, added_via_api: bool) -> Value {
    let mut status = Map::new();
    status.insert("name".to_owned(), json!(&**cluster.name()));
    if added_via_api {
        status.insert("added_via_api".to_owned(), json!(true));
    }
    let hosts: Vec<Value> = cluster
        .hosts
        .load()
        .hosts
        .iter()
        .map(|host| host_json(host))
        .collect();
    if !hosts.is_empty() {
        status.insert("host_statuses".to_owned(), Value::Array(hosts));
    }
    let thresholds: Vec<Value> = thresholds(cluster)
        .into_iter()
        .map(
            |Limits {
                 priority, limits, ..
             }| {
                let mut shown = Map::new();
                if priority == Priority::High {
                    shown.insert("priority".to_owned(), json!("HIGH"));
                }
                shown.extend(limits.map(|(limit, max)| (limit.to_owned(), json!(max))));
                Value::Object(shown)
            },
        )
        .collect();
    status.insert(
        "circuit_breakers".to_owned(),
        json!({"thresholds": thresholds}),
    );
    let name = observability_name(&cluster.config);
    status.insert("observability_name".to_owned(), json!(name));
    if let Discovery::Eds { service_name, .. } = &cluster.config.discovery
        && service_name != cluster.name()
    {
        status.insert("eds_service_name".to_owned(), json!(&**service_name));
    }
    Value::Object(status)
}

fn host_json(host: &Host) -> Value {
    let (gauges, counters): (Vec<_>, Vec<_>) = host_stats(host)
        .into_iter()
        .partition(|(name, _)| name.ends_with("_active"));
    let stat = |is_gauge: bool, (name, value): (&str, u64)| {
        let mut stat = Map::new();
        if is_gauge {
            stat.insert("type".to_owned(), json!("GAUGE"));
        }
        if value != 0 {
            stat.insert("value".to_owned(), json!(value.to_string()));
        }
        stat.insert("name".to_owned(), json!(name));
        Value::Object(stat)
    };
    let stats: Vec<Value> = counters
        .into_iter()
        .map(|counter| stat(false, counter))
        .chain(gauges.into_iter().map(|gauge| stat(true, gauge)))
        .collect();
    let mut status = json!({
        "address": socket_address(host.address),
        "stats": stats,
        "health_status": health_status(host),
        "weight": host.weight(),
    });
    if !host.hostname.is_empty() {
        status["hostname"] = json!(&*host.hostname);
    }
    if host.priority() != 0 {
        status["priority"] = json!(host.priority());
    }
    for (name, rate) in [
        ("success_rate", host.outlier.success_rate()),
        (
            "local_origin_success_rate",
            host.outlier.local_success_rate(),
        ),
    ] {
        if rate >= 0.0 {
            status[name] = json!({"value": rate});
        }
    }
    status["locality"] = locality(host);
    status
}

/// The locality without empty fields.
pub(super) fn locality(host: &Host) -> Value {
    let fields = [
        ("region", &host.locality.region),
        ("zone", &host.locality.zone),
        ("sub_zone", &host.locality.sub_zone),
    ];
    let set = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(
        set.map(|(name, value)| (name.to_owned(), json!(&**value)))
            .collect(),
    )
}

/// `envoy.admin.v3.HostHealthStatus`; EDS's timeout is one of our side's in Envoy, and shown as unhealthy.
fn health_status(host: &Host) -> Value {
    let flags = host.flags();
    let mut shown = Map::new();
    for (flag, name) in [
        (HealthFlags::FAILED_ACTIVE_HC, "failed_active_health_check"),
        (HealthFlags::FAILED_OUTLIER_CHECK, "failed_outlier_check"),
        (
            HealthFlags::DEGRADED_ACTIVE_HC,
            "failed_active_degraded_check",
        ),
        (
            HealthFlags::PENDING_DYNAMIC_REMOVAL,
            "pending_dynamic_removal",
        ),
        (HealthFlags::PENDING_ACTIVE_HC, "pending_active_hc"),
        (
            HealthFlags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL,
            "excluded_via_immediate_hc_fail",
        ),
        (HealthFlags::ACTIVE_HC_TIMEOUT, "active_hc_timeout"),
    ] {
        if flags.has(flag) {
            shown.insert(name.to_owned(), json!(true));
        }
    }
    let eds = match host.health() {
        HealthStatus::Timeout => HealthStatus::Unhealthy,
        health => health,
    };
    shown.insert("eds_health_status".to_owned(), json!(health_name(eds)));
    Value::Object(shown)
}

/// As `envoy.config.core.v3.HealthStatus` is written; hosts of unknown health count as healthy.
pub(super) fn health_name(health: HealthStatus) -> &'static str {
    match health {
        HealthStatus::Unknown | HealthStatus::Healthy => "HEALTHY",
        HealthStatus::Unhealthy => "UNHEALTHY",
        HealthStatus::Draining => "DRAINING",
        HealthStatus::Timeout => "TIMEOUT",
        HealthStatus::Degraded => "DEGRADED",
    }
}
