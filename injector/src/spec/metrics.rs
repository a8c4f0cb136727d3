//! The annotations by which Prometheus finds a pod's metrics, merged with the sidecar's own.
//!
//! Prometheus scrapes one port of a pod by these annotations: the sidecar's. What the application itself
//! serves is named to the sidecar by `OUTRIGGER_APP_METRICS`.

use serde_json::{Value, json};

use super::{METRICS_PORT, Pod, ledger::Ledger, literal};

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";

/// Where the sidecar serves metrics.
const OWN_PATH: &str = "/stats/prometheus";

/// Points Prometheus at the sidecar; where the application's own metrics are, if it has some.
pub(super) fn merge(pod: &Pod<'_>, ledger: &mut Ledger) -> Option<Value> {
    let scrape = pod.annotation(SCRAPE);
    if scrape.is_some_and(|scrape| scrape != "true") {
        ledger.note(format!(
            "{SCRAPE} is not \"true\": neither the application's metrics nor the sidecar's are scraped"
        ));
        return None;
    }
    let app = scrape.and_then(|_| application(pod, ledger));
    ledger.annotate(SCRAPE, "true");
    ledger.annotate(PORT, &METRICS_PORT.to_string());
    ledger.annotate(PATH, OWN_PATH);
    if pod.annotation(SCHEME).is_some() {
        ledger.annotate(SCHEME, "http");
    }
    ledger.change(match app {
        Some(_) => "Prometheus annotations merged with the application's",
        None => "Prometheus annotations of the sidecar",
    });
    app
}

fn application(pod: &Pod<'_>, ledger: &mut Ledger) -> Option<Value> {
    let port = match pod.annotation(PORT) {
        Some(port) => port.parse::<u16>().ok().filter(|port| *port > 0),
        // Without the annotation Prometheus takes the declared ports; usually there is one.
        None => pod.containers().find_map(|(_, _, container)| {
            let port = container.get("ports")?.as_array()?.first()?;
            u16::try_from(port.get("containerPort")?.as_u64()?).ok()
        }),
    };
    let Some(port) = port else {
        ledger.note(format!(
            "the application's metrics are not merged: {PORT} names no port, and no container declares one"
        ));
        return None;
    };
    let path = pod.annotation(PATH).unwrap_or("/metrics");
    let scheme = pod.annotation(SCHEME).unwrap_or("http");
    if !matches!(scheme, "http" | "https") {
        ledger.note(format!(
            "the application's metrics are not merged: {SCHEME} is neither http nor https"
        ));
        return None;
    }
    Some(json!({"port": port, "path": path, "scheme": scheme}))
}

/// The variable's value.
pub(super) fn told(app: &Value) -> String {
    literal(&app.to_string())
}
