//! Probes and hooks of the application that the kubelet sends over the network.
//!
//! The kubelet is no member of the mesh: its connections would be redirected to the sidecar, which would
//! answer a TCP probe itself and ask an HTTP or gRPC one for an identity. So each such probe becomes an
//! `httpGet` at the sidecar's readiness port, which is not redirected, with the path
//!
//! ```text
//! /app-health/<container>/livez | readyz | startupz
//! /app-lifecycle/<container>/poststartz | prestopz
//! ```
//!
//! and the sidecar is told by `OUTRIGGER_APP_PROBES` (JSON: path → the original handler with its port as a
//! number, and `timeoutSeconds`) what to ask the application at loopback. It answers 200 when that probe
//! succeeds by the kubelet's own rules, and 503 otherwise. `exec` probes are not touched.

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::{Pod, READY_PORT, ledger::Ledger, pod::container_name};

/// What asks over the network, with what it asks by.
const FIELDS: [(&str, &str, &[&str]); 5] = [
    ("livenessProbe", "/app-health/{}/livez", &HANDLERS),
    ("readinessProbe", "/app-health/{}/readyz", &HANDLERS),
    ("startupProbe", "/app-health/{}/startupz", &HANDLERS),
    (
        "lifecycle.postStart",
        "/app-lifecycle/{}/poststartz",
        &HOOKS,
    ),
    ("lifecycle.preStop", "/app-lifecycle/{}/prestopz", &HOOKS),
];
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
/// The kubelet has no other hooks over the network, even if the API knows them.
const HOOKS: [&str; 1] = ["httpGet"];

/// Rewrites what can be rewritten; what the sidecar is to be told.
pub(super) fn rewrite(pod: &Pod<'_>, ledger: &mut Ledger) -> Map<String, Value> {
    let mut told = Map::new();
    for (list, index, container) in pod.containers() {
        let name = container_name(container);
        for (field, path, handlers) in FIELDS {
            let holder = field
                .split('.')
                .try_fold(container, |holder, part| holder.get(part)?.as_object());
            let Some((holder, handler)) = holder.and_then(|holder| {
                let handler = handlers
                    .iter()
                    .find(|handler| holder.get(**handler).is_some_and(Value::is_object))?;
                Some((holder, handler))
            }) else {
                continue;
            };
            // The API server refuses two handlers; whichever it was, it is not ours to choose.
            if handlers
                .iter()
                .filter(|one| holder.contains_key(**one))
                .count()
                > 1
            {
                ledger.note(format!(
                    "{field} of {name} has two handlers and is left as it is"
                ));
                continue;
            }
            match target(container, holder, handler) {
                Err(why) => ledger.note(format!("{field} of {name} is left as it is: {why}")),
                Ok(target) => {
                    let path = path.replace("{}", name);
                    let asks = json!({"path": path, "port": READY_PORT, "scheme": "HTTP"});
                    ledger.replace_handler((list, index), name, field, handler, asks);
                    ledger.change(format!("{field} of {name} ({handler}) through the sidecar"));
                    told.insert(path, target);
                }
            }
        }
    }
    told
}

/// A field, whether a value is one of its, and what it should be.
type Field = (&'static str, fn(&Value) -> bool, &'static str);

/// The other fields of handlers, whichever has them: the sidecar would refuse to start with anything else.
const KNOWN: [Field; 4] = [
    ("path", Value::is_string, "text"),
    (
        "scheme",
        |scheme| matches!(scheme.as_str(), Some("HTTP" | "HTTPS")),
        "HTTP or HTTPS",
    ),
    ("httpHeaders", is_headers, "list of names and values"),
    ("service", Value::is_string, "text"),
];

/// Headers that can be sent.
fn is_headers(value: &Value) -> bool {
    value.as_array().is_some_and(|headers| {
        headers.iter().all(|header| {
            let word = |field| header.get(field).and_then(Value::as_str);
            let name = word("name").map(|name| HeaderName::from_bytes(name.as_bytes()));
            let value = word("value").map(HeaderValue::from_str);
            matches!((name, value), (Some(Ok(_)), Some(Ok(_))))
                && header.as_object().is_some_and(|header| header.len() == 2)
        })
    })
}

/// The probe for the sidecar, or why it cannot be one.
fn target(
    container: &Map<String, Value>,
    holder: &Map<String, Value>,
    handler: &str,
) -> Result<Value, String> {
    let Some(Value::Object(asks)) = holder.get(handler) else {
        return Err(format!("{handler} is no object"));
    };
    if let Some(host) = asks.get("host").and_then(Value::as_str)
        && !host.is_empty()
    {
        return Err(format!("it asks another host ({host})"));
    }
    let port = match asks.get("port") {
        Some(Value::Number(number)) => number.as_u64().and_then(|port| u16::try_from(port).ok()),
        Some(Value::String(name)) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => Some(
                named_port(container, name)
                    .ok_or_else(|| format!("the container has no port named {name}"))?,
            ),
        },
        _ => None,
    };
    let port = port
        .filter(|port| *port > 0)
        .ok_or_else(|| "its port is no port".to_owned())?;
    let mut told = Map::new();
    told.insert("port".to_owned(), port.into());
    for (field, is_fine, what) in KNOWN {
        match asks.get(field) {
            None | Some(Value::Null) => {}
            Some(value) if is_fine(value) => {
                told.insert(field.to_owned(), value.clone());
            }
            Some(_) => return Err(format!("its {field} is no {what}")),
        }
    }
    let mut target = Map::new();
    target.insert(handler.to_owned(), Value::Object(told));
    match holder.get("timeoutSeconds") {
        None | Some(Value::Null) => {}
        Some(Value::Number(seconds)) if seconds.as_u64().is_some_and(|one| one <= 1 << 31) => {
            target.insert("timeoutSeconds".to_owned(), seconds.clone().into());
        }
        Some(_) => return Err("its timeoutSeconds is no number of seconds".to_owned()),
    }
    Ok(Value::Object(target))
}

pub(super) fn named_port(container: &Map<String, Value>, name: &str) -> Option<u16> {
    container
        .get("ports")?
        .as_array()?
        .iter()
        .find(|port| port.get("name").and_then(Value::as_str) == Some(name))
        .and_then(|port| u16::try_from(port.get("containerPort")?.as_u64()?).ok())
}
