//! Readiness and metrics of the control plane itself.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use outrigger_mesh::parse::Severity;
use outrigger_traces::Store;

use super::mesh::Mesh;

/// What the handlers read.
#[derive(Clone, Debug)]
pub struct Health {
    /// The mesh.
    pub mesh: Mesh,
    /// The span store.
    pub traces: Store,
}

/// `/ready`, `/healthz` and `/metrics`.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .with_state(health)
}

/// Ready means: there is a model to serve.
async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.mesh.serving.version() > 0 {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "no configuration read yet\n",
        )
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let Health { mesh, traces } = health;
    let (connected, in_sync) = mesh.serving.counts();
    let totals = mesh.serving.totals();
    let sources = mesh.sources.snapshot();
    let errors = sources
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .count();
    let spans = traces.stats();
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let latest = mesh
        .serving
        .changes()
        .into_iter()
        .find_map(|change| change.ack_ms);
    let mut text = String::new();
    for (name, kind, help, value) in [
        ("proxies", "gauge", "Connected proxies.", count(connected)),
        (
            "proxies_in_sync",
            "gauge",
            "Proxies that have the present version.",
            count(in_sync),
        ),
        (
            "model_version",
            "gauge",
            "Version of the mesh model.",
            mesh.serving.version(),
        ),
        (
            "connections_total",
            "counter",
            "xDS streams opened.",
            totals.connections,
        ),
        (
            "acks_total",
            "counter",
            "xDS responses taken by proxies.",
            totals.acks,
        ),
        (
            "nacks_total",
            "counter",
            "xDS responses refused by proxies.",
            totals.nacks,
        ),
        (
            "config_errors",
            "gauge",
            "Errors in the configuration files.",
            count(errors),
        ),
        (
            "config_stale_files",
            "gauge",
            "Files whose last good version is in force.",
            count(sources.stale.len()),
        ),
        (
            "spans_stored_total",
            "counter",
            "Spans written.",
            spans.stored,
        ),
        (
            "spans_rejected_total",
            "counter",
            "Invalid spans.",
            spans.rejected,
        ),
        (
            "spans_refused_total",
            "counter",
            "Spans turned away at full queue.",
            spans.refused,
        ),
        (
            "spans_evicted_total",
            "counter",
            "Spans removed for age or size.",
            spans.evicted,
        ),
        (
            "trace_store_bytes",
            "gauge",
            "Size of the span store.",
            spans.bytes,
        ),
    ] {
        let name = format!("outrigger_control_plane_{name}");
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        ));
    }
    if let Some(latest) = latest {
        let name = "outrigger_control_plane_last_change_ack_seconds";
        let seconds = latest / 1000.0;
        let help = "From the last complete edit to the last proxy's ACK.";
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {seconds}\n"
        ));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
