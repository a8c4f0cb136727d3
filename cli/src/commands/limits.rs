//! What proxies limit, and how much of it is used: circuit breakers and bulkheads, asked of their admin
//! endpoints.

use std::{collections::BTreeMap, net::SocketAddr};

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http_client::get_json;

/// A proxy to ask: its name, and its admin endpoint.
pub(crate) type Proxy = (String, SocketAddr);

/// The proxies of a status that can be asked from here: those on this machine that are ours.
pub(crate) fn askable(status: &Value) -> Vec<Proxy> {
    let proxies = status["proxies"].as_array().into_iter().flatten();
    proxies
        .filter_map(|proxy| {
            let admin: SocketAddr = proxy["admin"].as_str()?.parse().ok()?;
            let is_envoy = proxy["agent"].as_str()?.starts_with("envoy");
            (admin.ip().is_loopback() && !is_envoy)
                .then(|| (proxy["id"].as_str().unwrap_or_default().to_owned(), admin))
        })
        .collect()
}

/// Asks all of them at once; each answers with its rows or why it did not.
pub(crate) async fn ask(proxies: Vec<Proxy>) -> Value {
    let mut asking = JoinSet::new();
    for (name, admin) in proxies {
        asking.spawn(async move {
            let answer = ask_one(admin).await;
            (name, answer)
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(asked) = asking.join_next().await {
        let Ok((name, answer)) = asked else { continue };
        let answer = match answer {
            Ok(rows) => json!({"limits": rows}),
            Err(error) => json!({"error": format!("{error:#}")}),
        };
        answers.insert(name, answer);
    }
    json!(answers)
}

async fn ask_one(admin: SocketAddr) -> anyhow::Result<Vec<Value>> {
    let page = |name: &str| {
        let url = format!("http://{admin}/{name}?format=json");
        async move { get_json(&url).await }
    };
    let (breakers, bulkheads) = tokio::try_join!(page("circuit_breakers"), page("bulkheads"))?;
    Ok(rows(&breakers, &bulkheads))
}

fn rows(breakers: &Value, bulkheads: &Value) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for breaker in list(&breakers["circuit_breakers"]) {
        let limit = match breaker["priority"].as_str() {
            Some("default") | None => breaker["name"].clone(),
            Some(priority) => json!(format!(
                "{} ({priority} priority)",
                breaker["name"].as_str().unwrap_or_default()
            )),
        };
        let cluster = breaker["cluster"].as_str().unwrap_or_default();
        let of = match breaker["origin"].as_str() {
            Some(origin) => format!("{origin} {cluster}"),
            None => cluster.to_owned(),
        };
        rows.push(json!({
            "kind": "circuit breaker",
            "of": of,
            "limit": limit,
            "used": breaker["used"],
            "max": breaker["limit"],
            "queued": null,
            "refused": breaker["trips"],
            "last_refusal": breaker["last_trip"],
            "reason": null,
        }));
    }
    for bulkhead in list(&bulkheads["bulkheads"]) {
        let origin = match bulkhead["origin"].as_str() {
            Some(origin) if !origin.is_empty() => &bulkhead["origin"],
            _ => &bulkhead["name"],
        };
        let refused = ["overflow", "queue_timeout"]
            .iter()
            .filter_map(|field| bulkhead[*field].as_u64())
            .sum::<u64>();
        rows.push(json!({
            "kind": "bulkhead",
            "of": origin,
            "limit": "max_concurrent",
            "used": bulkhead["in_use"],
            "max": bulkhead["max_concurrent"],
            "queued": format!("{}/{}", bulkhead["queued"], bulkhead["max_queued"]),
            "refused": refused,
            "last_refusal": bulkhead["last_rejection"]["at"],
            "reason": bulkhead["last_rejection"]["reason"],
        }));
    }
    rows
}

/// The table: what is in use or has ever refused something; `all` of it if wanted.
pub(crate) fn table(limits: &Value, all: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "PROXY",
        "KIND",
        "OF",
        "LIMIT",
        "USED",
        "QUEUED",
        "REFUSED",
        "LAST REFUSAL",
    ]);
    let mut notes = Vec::new();
    for (proxy, answer) in limits.as_object().into_iter().flatten() {
        if let Some(error) = answer["error"].as_str() {
            notes.push(format!("{proxy}: not asked: {error}"));
        }
        for row in answer["limits"].as_array().into_iter().flatten() {
            let is_idle = row["used"] == 0 && row["refused"] == 0;
            if is_idle && !all {
                continue;
            }
            let text = |field: &str| match &row[field] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let last = text("last_refusal");
            let last = last.split('.').next().unwrap_or_default().replace('T', " ");
            table.add_row([
                proxy.clone(),
                text("kind"),
                text("of"),
                text("limit"),
                format!("{}/{}", text("used"), text("max")),
                text("queued"),
                text("refused"),
                last,
            ]);
        }
    }
    let mut parts = Vec::new();
    if table.row_count() > 0 {
        parts.push(table.to_string());
    } else {
        parts.push("no circuit breaker or bulkhead is in use or has refused anything".to_owned());
    }
    parts.extend(notes);
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_or_has_refused_is_shown() {
        let breakers = json!({"circuit_breakers": [
            {"cluster": "a", "origin": "TrafficPolicy/shop/a", "priority": "default", "name": "max_requests", "used": 5, "limit": 5, "trips": 7, "last_trip": "2026-01-02T03:04:05.678Z"},
            {"cluster": "a", "priority": "high", "name": "max_requests", "used": 0, "limit": 1024, "trips": 0, "last_trip": null},
        ]});
        let bulkheads = json!({"bulkheads": [{
            "name": "b", "origin": "Bulkhead/shop/b", "max_concurrent": 10, "in_use": 9, "queued": 2, "max_queued": 4,
            "overflow": 1, "queue_timeout": 2, "last_rejection": {"at": "2026-01-02T03:04:06Z", "reason": "full"},
        }]});
        let limits = json!({
            "p1": {"limits": rows(&breakers, &bulkheads)},
            "p2": {"error": "can't reach it"},
        });
        let shown = table(&limits, false);
        for wanted in [
            "5/5",
            "TrafficPolicy/shop/a a",
            "2026-01-02 03:04:05",
            "Bulkhead/shop/b",
            "9/10",
            "2/4",
            "p2: not asked: can't reach it",
        ] {
            assert!(shown.contains(wanted), "{wanted} in:\n{shown}");
        }
        assert!(!shown.contains("high priority"), "{shown}");
        assert!(table(&limits, true).contains("max_requests (high priority)"));
        assert!(table(&json!({}), false).starts_with("no circuit breaker"));
    }

    #[test]
    fn only_proxies_of_ours_on_this_machine_are_asked() {
        let status = json!({"proxies": [
            {"id": "a", "admin": "127.0.0.1:15000", "agent": "outrigger 0.1.0"},
            {"id": "b", "admin": "10.0.0.1:15000", "agent": "outrigger 0.1.0"},
            {"id": "c", "admin": "127.0.0.1:15001", "agent": "envoy 1.40.0"},
            {"id": "d", "admin": null, "agent": "outrigger 0.1.0"},
        ]});
        assert_eq!(
            askable(&status),
            [("a".to_owned(), "127.0.0.1:15000".parse().unwrap())]
        );
    }
}
