//! `/circuit_breakers`: what is used of each limit of each cluster, and when it last refused something.
//! Envoy shows the limits in `/clusters` and the rest in statistics.

use std::{fmt::Write, time::Instant};

use serde_json::{Value, json};

use super::{Context, config_dump::time, query::Query, serve::Reply, stats};
use crate::{
    config::route::Priority,
    upstream::{Cluster, Usage},
};

pub(super) fn show(query: Query<'_>, context: &Context) -> Reply {
    let filter = match query
        .value("filter")
        .map(|text| stats::regex(&text))
        .transpose()
    {
        Ok(filter) => filter,
        Err(reply) => return reply,
    };
    let snapshot = context.publisher.current();
    let mut clusters: Vec<_> = snapshot
        .clusters
        .values()
        .filter(|cluster| {
            let name = cluster.name();
            filter.as_ref().is_none_or(|regex| regex.is_match(name))
        })
        .collect();
    clusters.sort_unstable_by_key(|cluster| cluster.name());
    let now = Instant::now();
    let all = clusters.into_iter().flat_map(|cluster| {
        [("default", Priority::Default), ("high", Priority::High)]
            .into_iter()
            .flat_map(move |(name, priority)| {
                let usage = cluster.circuit.of(priority).usage(now);
                usage.map(move |usage| (cluster, name, usage))
            })
    });
    match query.value("format").as_deref() {
        Some("json") => {
            let all: Vec<Value> = all
                .map(|(cluster, priority, usage)| as_json(cluster, priority, &usage))
                .collect();
            Reply::json(&json!({"circuit_breakers": all}))
        }
        _ => {
            let mut text = String::new();
            for (cluster, priority, usage) in all {
                as_text(&mut text, cluster.name(), priority, &usage);
            }
            Reply::text(text)
        }
    }
}

fn as_json(cluster: &Cluster, priority: &str, usage: &Usage) -> Value {
    json!({
        "cluster": **cluster.name(),
        "origin": cluster.config.origin.as_deref(),
        "priority": priority,
        "name": usage.name,
        "used": usage.used,
        "limit": usage.limit,
        "trips": usage.trips,
        "last_trip": usage.last_trip.map(time),
    })
}

/// Lines of `cluster::priority::limit::…`, as `/clusters` has them.
fn as_text(text: &mut String, cluster: &str, priority: &str, usage: &Usage) {
    let last = usage.last_trip.map(time);
    let last = last.as_ref().and_then(Value::as_str).unwrap_or("never");
    let Usage {
        name,
        used,
        limit,
        trips,
        ..
    } = usage;
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        text,
        "{cluster}::{priority}::{name}::used={used} limit={limit} trips={trips} last_trip={last}"
    );
}
