//! What proxies limit, and how much of it is used: circuit breakers and bulkheads, asked of their admin
//! endpoints.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use comfy_table::{Table, presets};
use http::uri::Authority;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http_client::get_json_within;

/// How long a proxy on this machine may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A proxy, and where it is asked, or why it is not.
#[derive(Debug, PartialEq)]
pub(crate) struct Proxy {
    name: String,
    admin: Result<Authority, String>,
}

/// The `HOST:PORT` of an admin endpoint.
pub(crate) fn parse_admin(text: &str) -> Result<Authority, String> {
    let authority: Authority = text.parse().map_err(|error| format!("{error}"))?;
    if authority.port_u16().is_none() || authority.as_str().contains('@') {
        return Err("HOST:PORT is expected".to_owned());
    }
    Ok(authority)
}

/// The proxies of a control plane's status. Ours that are on this machine can be asked: an admin endpoint
/// is for its own machine only.
pub(crate) fn of_status(status: &Value) -> Vec<Proxy> {
    let proxies = status["proxies"].as_array().into_iter().flatten();
    proxies
        .map(|proxy| Proxy {
            name: proxy["id"].as_str().unwrap_or_default().to_owned(),
            admin: admin_of(proxy),
        })
        .collect()
}

fn admin_of(proxy: &Value) -> Result<Authority, String> {
    let is_envoy = |agent: &str| agent.starts_with("envoy");
    if proxy["agent"].as_str().is_some_and(is_envoy) {
        return Err("an Envoy: its /clusters and statistics tell its circuit breakers".to_owned());
    }
    let Some(admin) = proxy["admin"].as_str() else {
        return Err("does not say where its admin endpoint is: name it by --admin".to_owned());
    };
    let is_here = |admin: &SocketAddr| admin.ip().is_loopback();
    if !admin.parse().as_ref().is_ok_and(is_here) {
        return Err("its admin endpoint is not on loopback".to_owned());
    }
    parse_admin(admin)
}

/// Adds those that a user names, unless they are known.
pub(crate) fn add_named(proxies: &mut Vec<Proxy>, admins: &[Authority]) {
    for admin in admins {
        let is_it = |proxy: &Proxy| proxy.admin.as_ref() == Ok(admin);
        if !proxies.iter().any(is_it) {
            proxies.push(Proxy {
                name: admin.to_string(),
                admin: Ok(admin.clone()),
            });
        }
    }
}

/// Asks all of them at once. Each is told with its limits, or with a note that says why there are none.
pub(crate) async fn ask(proxies: Vec<Proxy>) -> Value {
    let mut asking = JoinSet::new();
    for (index, Proxy { name, admin }) in proxies.into_iter().enumerate() {
        asking.spawn(async move {
            let answer = match &admin {
                Ok(admin) => ask_one(admin).await.map_err(|error| first_line(&error)),
                Err(why) => Err(why.clone()),
            };
            let (limits, note) = match answer {
                Ok(limits) => (Some(limits), None),
                Err(note) => (None, Some(note)),
            };
            let admin = admin.ok().map(|admin| admin.to_string());
            let told = json!({"proxy": name, "admin": admin, "limits": limits, "note": note});
            (name, index, told)
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    answers.into_iter().map(|(_, _, told)| told).collect()
}

/// Whether any proxy has told its limits.
pub(crate) fn has_answer(limits: &Value) -> bool {
    let mut all = limits.as_array().into_iter().flatten();
    all.any(|proxy| proxy["limits"].is_array())
}

async fn ask_one(admin: &Authority) -> anyhow::Result<Vec<Value>> {
    let page = |name: &str| {
        let url = format!("http://{admin}/{name}?format=json");
        async move { get_json_within(&url, TIMEOUT).await }
    };
    let (breakers, bulkheads) = tokio::try_join!(page("circuit_breakers"), page("bulkheads"))?;
    Ok(rows(&breakers, &bulkheads))
}

/// An admin endpoint answers what it does not know with all that it knows.
fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}

fn rows(breakers: &Value, bulkheads: &Value) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let breakers = list(&breakers["circuit_breakers"]).into_iter().map(breaker);
    let bulkheads = list(&bulkheads["bulkheads"]).into_iter().map(bulkhead);
    breakers.chain(bulkheads).collect()
}

fn breaker(told: Value) -> Value {
    json!({
        "kind": "breaker",
        "object": told["origin"],
        "of": told["cluster"],
        "limit": told["name"],
        "priority": told["priority"],
        "used": told["used"],
        "max": told["limit"],
        "refused": told["trips"],
        "last_refusal": told["last_trip"],
    })
}

fn bulkhead(told: Value) -> Value {
    let has_origin = told["origin"]
        .as_str()
        .is_some_and(|origin| !origin.is_empty());
    let refused: u64 = ["overflow", "queue_timeout"]
        .iter()
        .filter_map(|field| told[*field].as_u64())
        .sum();
    json!({
        "kind": "bulkhead",
        "object": if has_origin { told["origin"].clone() } else { Value::Null },
        "of": told["name"],
        "limit": "max_concurrent",
        "used": told["in_use"],
        "max": told["max_concurrent"],
        "max_per_caller": told["max_concurrent_per_caller"],
        "queued": told["queued"],
        "max_queued": told["max_queued"],
        "queue_timeout_ms": told["queue_timeout_ms"],
        "admitted": told["admitted"],
        "refused": refused,
        "refused_by_overflow": told["overflow"],
        "refused_by_queue_timeout": told["queue_timeout"],
        "top_callers": told["top_callers"],
        "top_waiting": told["top_waiting"],
        "last_refusal": told["last_rejection"]["at"],
        "reason": told["last_rejection"]["reason"],
    })
}

/// The table: what is in use or has ever refused something; `all` of it if wanted.
pub(crate) fn table(limits: &Value, all: bool, now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "PROXY",
        "KIND",
        "OBJECT",
        "LIMIT",
        "USED",
        "QUEUED",
        "REFUSED",
        "LAST REFUSAL",
    ]);
    let mut notes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for answer in limits.as_array().into_iter().flatten() {
        let proxy = text(&answer["proxy"]);
        if let Some(note) = answer["note"].as_str() {
            notes.entry(note).or_default().push(proxy.clone());
        }
        for row in answer["limits"].as_array().into_iter().flatten() {
            if all || is_of_interest(row) {
                table.add_row(cells(&proxy, row, now));
            }
        }
    }
    let mut parts = Vec::new();
    if table.row_count() > 0 {
        parts.push(table.to_string());
    } else if has_answer(limits) {
        parts.push("no circuit breaker or bulkhead is in use or has refused anything".to_owned());
    }
    parts.extend(notes.iter().map(|(note, proxies)| {
        // Of a large mesh most are elsewhere, all for the same reason.
        let (shown, rest) = proxies.split_at(proxies.len().min(3));
        let more = match rest.len() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        format!("{}{more}: limits not known: {note}", shown.join(", "))
    }));
    parts.join("\n")
}

/// What is in use of a limit, or was refused; use of what has no limit says nothing.
fn is_of_interest(row: &Value) -> bool {
    let counts = |field: &str| row[field].as_u64().is_some_and(|count| count > 0);
    let is_used = counts("used") || counts("queued");
    counts("refused") || (is_used && !is_unlimited(row))
}

/// Whether it is the largest number that a threshold can have, some of which are so by default.
fn is_unlimited(row: &Value) -> bool {
    row["max"] == u32::MAX
}

fn cells(proxy: &str, row: &Value, now: Timestamp) -> [String; 8] {
    // A policy limits several clusters; a bulkhead's object is enough.
    let of = text(&row["of"]);
    let object = match (row["object"].as_str(), row["kind"] == "breaker") {
        (Some(object), true) => format!("{object} ({of})"),
        (Some(object), false) => object.to_owned(),
        (None, _) => of,
    };
    let mut limit = text(&row["limit"]);
    if let Some(priority) = row["priority"].as_str().filter(|name| *name != "default") {
        limit = format!("{limit} ({priority} priority)");
    }
    let queued = match row["queued"].as_u64() {
        Some(queued) => format!("{queued}/{}", text(&row["max_queued"])),
        None => String::new(),
    };
    let max = if is_unlimited(row) {
        "unlimited".to_owned()
    } else {
        text(&row["max"])
    };
    [
        proxy.to_owned(),
        text(&row["kind"]),
        object,
        limit,
        format!("{}/{max}", text(&row["used"])),
        queued,
        text(&row["refused"]),
        ago(&row["last_refusal"], now),
    ]
}

/// How long ago, in the largest unit that fits.
fn ago(at: &Value, now: Timestamp) -> String {
    let Some(at) = at.as_str() else {
        return String::new();
    };
    let Ok(moment) = at.parse::<Timestamp>() else {
        return at.to_owned();
    };
    // Clocks of one machine; what seems to come is now.
    let seconds = now.as_second().saturating_sub(moment.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:06:06Z".parse().unwrap()
    }

    fn sample() -> Value {
        let breakers = json!({"circuit_breakers": [
            {"cluster": "a", "origin": "TrafficPolicy/shop/a", "priority": "default", "name": "max_requests", "used": 5, "limit": 5, "trips": 7, "last_trip": "2026-01-02T03:04:05.678Z"},
            {"cluster": "a", "priority": "high", "name": "max_requests", "used": 0, "limit": 1024, "trips": 0, "last_trip": null},
            {"cluster": "a", "priority": "default", "name": "max_connection_pools", "used": 1, "limit": u32::MAX, "trips": 0, "last_trip": null},
        ]});
        let bulkheads = json!({"bulkheads": [
            {"name": "b", "origin": "Bulkhead/shop/b", "max_concurrent": 10, "in_use": 9, "queued": 2, "max_queued": 4,
             "overflow": 1, "queue_timeout": 2, "last_rejection": {"at": "2026-01-02T03:06:00Z", "reason": "full"}},
            {"name": "c", "origin": "", "max_concurrent": 3, "in_use": 0, "queued": 1, "max_queued": 1,
             "overflow": 0, "queue_timeout": 0, "last_rejection": null},
        ]});
        json!([
            {"proxy": "p1", "limits": rows(&breakers, &bulkheads), "note": null},
            {"proxy": "p2", "limits": null, "note": "can't reach it"},
        ])
    }

    /// The words of the row with this one.
    fn row<'a>(shown: &'a str, word: &str) -> Vec<&'a str> {
        let line = shown.lines().find(|line| line.contains(word));
        let line = line.unwrap_or_else(|| panic!("no {word} in:\n{shown}"));
        line.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect()
    }

    #[test]
    fn what_is_used_or_has_refused_is_shown() {
        let shown = table(&sample(), false, now());
        assert_eq!(
            row(&shown, "TrafficPolicy"),
            [
                "p1",
                "breaker",
                "TrafficPolicy/shop/a (a)",
                "max_requests",
                "5/5",
                "7",
                "2m ago"
            ]
        );
        assert_eq!(
            row(&shown, "Bulkhead/"),
            [
                "p1",
                "bulkhead",
                "Bulkhead/shop/b",
                "max_concurrent",
                "9/10",
                "2/4",
                "3",
                "6s ago"
            ]
        );
        // Only a queue is in use, and no object has made it.
        assert_eq!(
            row(&shown, "0/3"),
            ["p1", "bulkhead", "c", "max_concurrent", "0/3", "1/1", "0"]
        );
        assert!(
            shown.ends_with("p2: limits not known: can't reach it"),
            "{shown}"
        );
        for hidden in ["high priority", "max_connection_pools"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
        let shown = table(&sample(), true, now());
        assert!(
            shown.contains("max_requests (high priority)  0/1024"),
            "{shown}"
        );
        assert!(shown.contains("1/unlimited"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn nothing_to_show_is_told_only_of_those_who_answered() {
        let idle = json!([{"proxy": "p", "limits": [], "note": null}]);
        assert!(table(&idle, false, now()).starts_with("no circuit breaker"));
        let silent = json!([{"proxy": "p", "limits": null, "note": "an Envoy"}]);
        assert_eq!(
            table(&silent, false, now()),
            "p: limits not known: an Envoy"
        );
        assert_eq!(table(&json!([]), false, now()), "");
        let elsewhere = |name: &str| json!({"proxy": name, "limits": null, "note": "elsewhere"});
        let many: Value = ["a", "b", "c", "d", "e"].map(elsewhere).to_vec().into();
        assert_eq!(
            table(&many, false, now()),
            "a, b, c and 2 more: limits not known: elsewhere"
        );
    }

    #[test]
    fn times_are_told_from_now() {
        for (at, told) in [
            ("2026-01-02T03:06:07Z", "0s ago"),
            ("2026-01-02T03:05:07Z", "59s ago"),
            ("2026-01-02T03:05:06Z", "1m ago"),
            ("2026-01-02T02:06:06Z", "1h ago"),
            ("2025-12-30T03:06:06Z", "3d ago"),
            ("some day", "some day"),
        ] {
            assert_eq!(ago(&json!(at), now()), told, "{at}");
        }
        assert_eq!(ago(&Value::Null, now()), "");
    }

    #[test]
    fn only_proxies_of_ours_on_this_machine_are_asked() {
        let status = json!({"proxies": [
            {"id": "a", "admin": "127.0.0.1:15000", "agent": "outrigger 0.1.0"},
            {"id": "b", "admin": "10.0.0.1:15000", "agent": "outrigger 0.1.0"},
            {"id": "c", "admin": "127.0.0.1:15001", "agent": "envoy 1.40.0"},
            {"id": "d", "admin": null, "agent": "outrigger 0.1.0"},
            {"id": "e", "admin": "[::1]:15000", "agent": "outrigger 0.1.0"},
        ]});
        let mut proxies = of_status(&status);
        let why = |index: usize| proxies[index].admin.clone().unwrap_err();
        assert_eq!(proxies[0].admin, parse_admin("127.0.0.1:15000"));
        assert!(why(1).contains("not on loopback"));
        assert!(why(2).starts_with("an Envoy"));
        assert!(why(3).contains("--admin"));
        assert_eq!(proxies[4].admin, parse_admin("[::1]:15000"));

        let named = ["127.0.0.1:15000", "localhost:1", "localhost:1"];
        let named = named.map(|admin| parse_admin(admin).unwrap());
        add_named(&mut proxies, &named);
        assert_eq!(proxies.len(), 6, "those that are known are asked once");
        assert_eq!(proxies[5].name, "localhost:1");
    }

    #[test]
    fn an_admin_endpoint_has_a_host_and_a_port() {
        for bad in [
            "",
            "localhost",
            "localhost:",
            "a:b",
            "u@h:1",
            "h:1/x",
            ":1x",
        ] {
            assert!(parse_admin(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn who_cannot_be_reached_has_a_note() {
        // Nobody else gets this port while it is bound, and nobody listens on it.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = socket.local_addr().unwrap().to_string();
        let mut proxies = Vec::new();
        add_named(&mut proxies, &[parse_admin(&silent).unwrap()]);
        let told = ask(proxies).await;
        let note = told[0]["note"].as_str().unwrap();
        assert!(note.contains("can't reach"), "{told:#}");
        assert!(told[0]["limits"].is_null() && !has_answer(&told));
    }
}
