//! The JSON API about the mesh: proxies, objects, changes, and one proxy's configuration.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use outrigger_mesh::parse::Finding;
use serde::{Deserialize, Serialize};

use crate::{
    serving::{ProxyView, Serving, Totals},
    sources::collect::Sources,
};

/// What the handlers read.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// What is served and to whom.
    pub serving: Arc<Serving>,
    /// What the files say.
    pub sources: Arc<Sources>,
}

/// Routes under `/api/v1`.
pub fn router(mesh: Mesh) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/objects", get(objects))
        .route("/api/v1/changes", get(changes))
        .route("/api/v1/config", get(config))
        .with_state(mesh)
}

/// The answer of `/api/v1/status`.
#[derive(Debug, Serialize)]
struct Status {
    /// The model's version.
    version: u64,
    /// How many proxies are connected.
    connected: usize,
    /// How many of them have the present version.
    in_sync: usize,
    proxies: Vec<ProxyView>,
    totals: Totals,
    /// Errors and warnings of the configuration.
    findings: Vec<Finding>,
    /// Files of which an older version is in force.
    stale_files: Vec<String>,
}

async fn status(State(mesh): State<Mesh>) -> Json<Status> {
    let sources = mesh.sources.snapshot();
    let proxies = mesh.serving.proxies();
    Json(Status {
        version: mesh.serving.version(),
        connected: proxies.len(),
        in_sync: proxies.iter().filter(|proxy| proxy.in_sync).count(),
        proxies,
        totals: mesh.serving.totals(),
        findings: sources.findings,
        stale_files: sources.stale,
    })
}

async fn objects(State(mesh): State<Mesh>) -> Response {
    let sources = mesh.sources.snapshot();
    let files: std::collections::BTreeMap<_, _> = sources
        .origins
        .into_iter()
        .map(|(object, file)| (object.to_string(), file))
        .collect();
    let mut objects = mesh.serving.objects();
    for object in &mut objects {
        object.file = files.get(&object.object).cloned();
    }
    Json(serde_json::json!({"version": mesh.serving.version(), "objects": objects})).into_response()
}

async fn changes(State(mesh): State<Mesh>) -> Response {
    Json(serde_json::json!({"changes": mesh.serving.changes()})).into_response()
}

#[derive(Debug, Deserialize)]
struct ConfigQuery {
    /// `node.id`.
    node: String,
}

async fn config(State(mesh): State<Mesh>, Query(query): Query<ConfigQuery>) -> Response {
    match mesh.serving.config(&query.node) {
        Some(config) => Json(config).into_response(),
        None => {
            let message = format!("no proxy with id '{}' is connected", query.node);
            (
                StatusCode::NOT_FOUND,
                Json(serde_json::json!({"error": message})),
            )
                .into_response()
        }
    }
}
