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

use serde_json::{Map, Value, json};

use super::{Pod, READY_PORT, ledger::Ledger, pod::container_name};

const FIELDS: [(&str, &str); 5] = [
    ("livenessProbe", "/app-health/{}/livez"),
    ("readinessProbe", "/app-health/{}/readyz"),
    ("startupProbe", "/app-health/{}/startupz"),
    ("lifecycle.postStart", "/app-lifecycle/{}/poststartz"),
    ("lifecycle.preStop", "/app-lifecycle/{}/prestopz"),
];
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Rewrites what can be rewritten; what the sidecar is to be told.
pub(super) fn rewrite(pod: &Pod<'_>, ledger: &mut Ledger) -> Map<String, Value> {
    let mut told = Map::new();
    for (list, index, container) in pod.containers() {
        let name = container_name(container);
        for (field, path) in FIELDS {
            let holder = field
                .split('.')
                .try_fold(container, |holder, part| holder.get(part)?.as_object());
            let Some((holder, handler)) = holder.and_then(|holder| {
                let handler = HANDLERS
                    .into_iter()
                    .find(|handler| holder.get(*handler).is_some_and(Value::is_object))?;
                Some((holder, handler))
            }) else {
                continue;
            };
            // The API server refuses two handlers; whichever it was, it is not ours to choose.
            if HANDLERS
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
    let mut asks = asks.clone();
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
    asks.insert("port".to_owned(), port.into());
    let mut target = Map::new();
    target.insert(handler.to_owned(), Value::Object(asks));
    if let Some(timeout) = holder.get("timeoutSeconds") {
        target.insert("timeoutSeconds".to_owned(), timeout.clone());
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
