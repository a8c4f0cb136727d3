//! `/bulkheads`: what each bulkhead lets in, who fills it, whom it refused last. Envoy has no such page.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Context, config_dump::time, query::Query, serve::Reply};
use crate::filters::http::bulkhead::{Bulkheads, Report};

/// How many callers are shown.
const CALLERS: usize = 10;

pub(super) fn show(query: Query<'_>, context: &Context) -> Reply {
    let reports = context.registry.companion::<Bulkheads>().report(CALLERS);
    match query.value("format").as_deref() {
        Some("json") => {
            let all: Vec<Value> = reports.iter().map(as_json).collect();
            Reply::json(&json!({"bulkheads": all}))
        }
        _ => {
            let mut text = String::new();
            for report in &reports {
                as_text(&mut text, report);
            }
            Reply::text(text)
        }
    }
}

fn as_json(report: &Report) -> Value {
    let limits = &report.limits;
    json!({
        "name": &*report.name,
        "origin": &*limits.origin,
        "max_concurrent": limits.max_concurrent,
        "max_concurrent_per_caller": limits.max_concurrent_per_caller,
        "in_use": report.in_use,
        "max_queued": limits.max_queued,
        "queue_timeout_ms": millis(report),
        "queued": report.queued,
        "admitted": report.admitted,
        "overflow": report.overflow,
        "queue_timeout": report.queue_timeout,
        "top_callers": report.top_callers.iter()
            .map(|(caller, count)| json!({"caller": &**caller, "in_use": count}))
            .collect::<Vec<_>>(),
        "top_waiting": report.top_waiting.iter()
            .map(|(caller, count)| json!({"caller": &**caller, "queued": count}))
            .collect::<Vec<_>>(),
        "last_rejection": report.last_rejection.as_ref()
            .map(|last| json!({"at": time(last.at), "reason": &*last.reason})),
    })
}

fn millis(report: &Report) -> u64 {
    u64::try_from(report.limits.queue_timeout.as_millis()).unwrap_or(u64::MAX)
}

/// Lines of `name::key::value`, as `/clusters` has them.
fn as_text(text: &mut String, report: &Report) {
    let limits = &report.limits;
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{}::{key}::{value}", report.name);
    };
    line("origin", &limits.origin);
    line("max_concurrent", &limits.max_concurrent);
    if let Some(max) = &limits.max_concurrent_per_caller {
        line("max_concurrent_per_caller", max);
    }
    line("in_use", &report.in_use);
    line("max_queued", &limits.max_queued);
    line("queue_timeout_ms", &millis(report));
    line("queued", &report.queued);
    line("admitted", &report.admitted);
    line("overflow", &report.overflow);
    line("queue_timeout", &report.queue_timeout);
    for (caller, count) in &report.top_callers {
        line(&format!("caller::\"{caller}\"::in_use"), count);
    }
    for (caller, count) in &report.top_waiting {
        line(&format!("caller::\"{caller}\"::queued"), count);
    }
    if let Some(last) = &report.last_rejection {
        let at = time(last.at);
        line(
            "last_rejection",
            &format!("{}::{}", at.as_str().unwrap_or_default(), last.reason),
        );
    }
}
