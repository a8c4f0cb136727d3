//! Jaeger's query API (HTTP and JSON, by convention port 16686) over the span store, for Jaeger's own page,
//! Grafana, Kiali and `outrigger traces`.
//!
//! Paths, parameters, answers and errors are Jaeger's; what Jaeger would answer wrongly in silence (an
//! unknown span kind) is an error here.

mod json;
mod params;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use outrigger_traces::{Error, Store, TraceId};
use serde::Serialize;
use tokio::sync::Semaphore;

use params::{Invalid, Params};

/// Queries at once: each holds a thread, and on one disk more of them gain nothing.
const QUERIES: usize = 4;

/// The API's routes, all under `/api/`.
pub fn router(store: Store) -> Router {
    let api = Api {
        store,
        queries: Arc::new(Semaphore::new(QUERIES)),
    };
    Router::new()
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operation_names))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(search))
        .route("/api/traces/{id}", get(trace))
        .route("/api/dependencies", get(dependencies))
        .route("/api/{*rest}", any(unknown))
        .with_state(api)
}

#[derive(Clone, Debug)]
struct Api {
    store: Store,
    queries: Arc<Semaphore>,
}

impl Api {
    /// Runs a query on a thread where it may block.
    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = Arc::clone(&self.queries).acquire_owned().await;
        let store = self.store.clone();
        let answer = tokio::task::spawn_blocking(move || {
            // The permit lasts as long as the query, even if the client has gone.
            let _permit = permit;
            query(&store)
        });
        match answer.await {
            Ok(result) => Ok(result?),
            Err(error) => Err(Failure::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                error.to_string(),
            )),
        }
    }
}

/// An answer that is an error.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::TooSlow(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::new(StatusCode::BAD_REQUEST, invalid.0)
    }
}

impl axum::response::IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = Problem {
            code: self.status.as_u16(),
            msg: self.message,
            trace_id: None,
        };
        let body = Answer::<()> {
            errors: Some(vec![error]),
            ..Answer::default()
        };
        (self.status, Json(body)).into_response()
    }
}

/// The envelope of every answer.
#[derive(Debug, Default, Serialize)]
struct Answer<T> {
    data: Option<T>,
    total: usize,
    limit: usize,
    offset: usize,
    errors: Option<Vec<Problem>>,
}

#[derive(Debug, Serialize)]
struct Problem {
    code: u16,
    msg: String,
    #[serde(rename = "traceID", skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

fn answer<T: Serialize>(data: T, total: usize) -> Response {
    Json(Answer {
        data: Some(data),
        total,
        limit: 0,
        offset: 0,
        errors: None,
    })
    .into_response()
}

type Pairs = Query<Vec<(String, String)>>;

async fn services(State(api): State<Api>) -> Result<Response, Failure> {
    let names = api.query(Store::services).await?;
    let total = names.len();
    Ok(answer(names, total))
}

async fn operation_names(
    State(api): State<Api>,
    Path(service): Path<String>,
) -> Result<Response, Failure> {
    let operations = api
        .query(move |store| store.operations(&service, None))
        .await?;
    let names: BTreeSet<String> = operations
        .into_iter()
        .map(|operation| operation.name)
        .collect();
    let total = names.len();
    Ok(answer(names, total))
}

async fn operations(State(api): State<Api>, Query(pairs): Pairs) -> Result<Response, Failure> {
    let params = Params::new(&pairs);
    let service = params.service()?.to_owned();
    let kind = params.span_kind()?;
    let operations = api
        .query(move |store| store.operations(&service, kind))
        .await?;
    let total = operations.len();
    Ok(answer(
        operations
            .iter()
            .map(json::Operation::new)
            .collect::<Vec<_>>(),
        total,
    ))
}

async fn trace(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Failure> {
    let id = params::trace_id(&id)?;
    match api.query(move |store| store.trace(id)).await? {
        Some(trace) => Ok(answer([json::Trace::new(&trace)], 0)),
        None => Err(Failure::new(StatusCode::NOT_FOUND, "trace not found")),
    }
}

async fn search(State(api): State<Api>, Query(pairs): Pairs) -> Result<Response, Failure> {
    let params = Params::new(&pairs);
    let ids = params.trace_ids()?;
    if !ids.is_empty() {
        return by_ids(&api, ids).await;
    }
    let query = params.search(params::now_us())?;
    let found = api.query(move |store| store.search(&query)).await?;
    let errors = (found.left_out > 0).then(|| {
        let msg = format!(
            "{} more traces match but are left out to bound the answer: lower the limit",
            found.left_out
        );
        vec![Problem {
            code: StatusCode::OK.as_u16(),
            msg,
            trace_id: None,
        }]
    });
    let data = found
        .traces
        .iter()
        .map(json::Trace::new)
        .collect::<Vec<_>>();
    Ok(Json(Answer {
        data: Some(data),
        errors,
        ..Answer::default()
    })
    .into_response())
}

async fn by_ids(api: &Api, ids: Vec<TraceId>) -> Result<Response, Failure> {
    let mut data = Vec::new();
    let mut missing = Vec::new();
    for id in ids {
        match api.query(move |store| store.trace(id)).await? {
            Some(trace) => data.push(json::Trace::new(&trace)),
            None => missing.push(Problem {
                code: StatusCode::NOT_FOUND.as_u16(),
                msg: "trace not found".into(),
                trace_id: Some(json::trace_id(&id.0)),
            }),
        }
    }
    let errors = (!missing.is_empty()).then_some(missing);
    Ok(Json(Answer {
        data: Some(data),
        errors,
        ..Answer::default()
    })
    .into_response())
}

async fn dependencies(State(api): State<Api>, Query(pairs): Pairs) -> Result<Response, Failure> {
    let params = Params::new(&pairs);
    let (start, end) = params.dependency_time(params::now_us())?;
    let service = params.first("service").map(str::to_owned);
    let links = api
        .query(move |store| store.dependencies(start, end))
        .await?;
    let of_service = |link: &&outrigger_traces::Dependency| match &service {
        Some(name) => link.parent == *name || link.child == *name,
        None => true,
    };
    let data = links
        .iter()
        .filter(of_service)
        .map(json::Dependency::new)
        .collect::<Vec<_>>();
    Ok(answer(data, 0))
}

async fn unknown(uri: Uri) -> Failure {
    let message = format!(
        "no {} in this API, which has /api/services, /api/operations, /api/traces and /api/dependencies",
        uri.path()
    );
    Failure::new(StatusCode::NOT_FOUND, message)
}
