//! OTLP over HTTP: `POST /v1/traces` in protobuf or JSON, plain or gzip; errors are `google.rpc.Status` in
//! the request's encoding.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use futures_util::StreamExt as _;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use outrigger_traces::{IngestError, Store};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use super::MAX_REQUEST;

/// How long a client may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Bytes of bodies held at once, over all connections.
pub(super) const BODIES: usize = 64 << 20;
/// Bodies decompressed and decoded at once: they grow manyfold on the way.
const DECODES: usize = 4;
/// When to send again what found no room.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) async fn serve(
    listener: TcpListener,
    store: Store,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    axum::serve(listener, router(Receiver::new(store, BODIES)))
        .with_graceful_shutdown(shutdown)
        .await
        .context("OTLP receiver over HTTP")
}

/// The store, and the room for what is on its way there.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    store: Store,
    bodies: Arc<Semaphore>,
    decodes: Arc<Semaphore>,
}

impl Receiver {
    pub(super) fn new(store: Store, bodies: usize) -> Self {
        let decodes = Arc::new(Semaphore::new(DECODES));
        Self {
            store,
            bodies: Arc::new(Semaphore::new(bodies)),
            decodes,
        }
    }
}

pub(super) fn router(receiver: Receiver) -> Router {
    Router::new()
        .route("/v1/traces", post(export).fallback(wrong_method))
        .fallback(wrong_path)
        .with_state(receiver)
}

/// The encoding of a request's body, and so of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

/// Why an export was not taken, as HTTP and gRPC say it.
#[derive(Debug)]
struct Refusal {
    http: StatusCode,
    code: Code,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(http: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            http,
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, message)
    }

    fn too_large() -> Self {
        let message =
            format!("the request is larger than {MAX_REQUEST} bytes; send smaller batches");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::ResourceExhausted,
            message,
        )
    }
}

impl From<IngestError> for Refusal {
    fn from(error: IngestError) -> Self {
        let message = error.to_string();
        match error {
            IngestError::Busy { retry_after, .. } => Self {
                retry_after: Some(retry_after),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    Code::ResourceExhausted,
                    message,
                )
            },
            IngestError::Failed(_) | IngestError::Closed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message)
            }
        }
    }
}

async fn export(State(receiver): State<Receiver>, request: Request) -> Response {
    let Some(encoding) = encoding(request.headers()) else {
        let refusal = Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::InvalidArgument,
            "content-type must be application/x-protobuf or application/json",
        );
        return refused(Encoding::Json, &refusal);
    };
    match take(&receiver, request, encoding).await {
        Ok(response) => accepted(encoding, &response),
        Err(refusal) => refused(encoding, &refusal),
    }
}

async fn take(
    receiver: &Receiver,
    request: Request,
    encoding: Encoding,
) -> Result<ExportTraceServiceResponse, Refusal> {
    let gzip = is_gzip(request.headers())?;
    let body = tokio::time::timeout(BODY_TIME, read(request, &receiver.bodies))
        .await
        .map_err(|_| {
            let message = format!("the body did not arrive within {BODY_TIME:?}");
            Refusal::new(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, message)
        })??;
    let slot = Arc::clone(&receiver.decodes).acquire_owned().await;
    // Megabytes of decompressing and decoding would hold up the other connections.
    let export = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        decode(&body.bytes, gzip, encoding)
    });
    let export = export.await.map_err(|error| {
        let message = format!("decoding failed: {error}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, message)
    })??;
    Ok(super::response(receiver.store.ingest(export).await?))
}

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-protobuf") {
        Some(Encoding::Protobuf)
    } else if media_type.eq_ignore_ascii_case("application/json") {
        Some(Encoding::Json)
    } else {
        None
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers
        .get(header::CONTENT_ENCODING)
        .map(HeaderValue::as_bytes)
    {
        None | Some(b"" | b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(other) => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::InvalidArgument,
            format!(
                "content-encoding {} is not supported; use gzip or none",
                String::from_utf8_lossy(other)
            ),
        )),
    }
}

/// A whole body, with the room that it takes.
struct Received {
    bytes: Vec<u8>,
    _room: Vec<OwnedSemaphorePermit>,
}

async fn read(request: Request, bodies: &Arc<Semaphore>) -> Result<Received, Refusal> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_REQUEST) {
        return Err(Refusal::too_large());
    }
    let mut body = Vec::with_capacity(announced.unwrap_or(0).min(64 * 1024));
    let mut room = Vec::new();
    let mut chunks = request.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|error| Refusal::invalid(format!("reading the body: {error}")))?;
        if body.len() + chunk.len() > MAX_REQUEST {
            return Err(Refusal::too_large());
        }
        let bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let taken = Arc::clone(bodies).try_acquire_many_owned(bytes);
        room.push(taken.map_err(|_| Refusal {
            retry_after: Some(RETRY_AFTER),
            ..Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code::ResourceExhausted,
                "too many requests are being read; send again later",
            )
        })?);
        body.extend_from_slice(&chunk);
    }
    Ok(Received {
        bytes: body,
        _room: room,
    })
}

fn decode(
    body: &[u8],
    gzip: bool,
    encoding: Encoding,
) -> Result<ExportTraceServiceRequest, Refusal> {
    let mut plain = Vec::new();
    let body = if gzip {
        // One byte more than allowed tells a larger body from one that just fits.
        flate2::read::MultiGzDecoder::new(body)
            .take(MAX_REQUEST as u64 + 1)
            .read_to_end(&mut plain)
            .map_err(|error| Refusal::invalid(format!("the body is not valid gzip: {error}")))?;
        if plain.len() > MAX_REQUEST {
            return Err(Refusal::too_large());
        }
        plain.as_slice()
    } else {
        body
    };
    match encoding {
        Encoding::Protobuf => ExportTraceServiceRequest::decode(body).map_err(|error| {
            Refusal::invalid(format!("not a protobuf ExportTraceServiceRequest: {error}"))
        }),
        Encoding::Json => from_json(body).map_err(|error| {
            Refusal::invalid(format!("not a JSON ExportTraceServiceRequest: {error}"))
        }),
    }
}

/// Proto3 JSON lets `null` stand for a default, which the derived reader does not: only such rare bodies are
/// read twice.
fn from_json(body: &[u8]) -> serde_json::Result<ExportTraceServiceRequest> {
    serde_json::from_slice(body).or_else(|error| {
        let mut value: serde_json::Value = serde_json::from_slice(body)?;
        if remove_nulls(&mut value) {
            serde_json::from_value(value)
        } else {
            Err(error)
        }
    })
}

fn remove_nulls(value: &mut serde_json::Value) -> bool {
    match value {
        serde_json::Value::Object(map) => {
            let before = map.len();
            map.retain(|_, value| !value.is_null());
            let mut removed = map.len() < before;
            for value in map.values_mut() {
                removed |= remove_nulls(value);
            }
            removed
        }
        serde_json::Value::Array(list) => {
            let mut removed = false;
            for value in list {
                removed |= remove_nulls(value);
            }
            removed
        }
        _ => false,
    }
}

fn accepted(encoding: Encoding, response: &ExportTraceServiceResponse) -> Response {
    let body = match encoding {
        Encoding::Protobuf => response.encode_to_vec(),
        Encoding::Json => match &response.partial_success {
            None => b"{}".to_vec(),
            // 64-bit numbers are strings in proto3 JSON.
            Some(partial) => serde_json::json!({"partialSuccess": {
                "rejectedSpans": partial.rejected_spans.to_string(),
                "errorMessage": partial.error_message,
            }})
            .to_string()
            .into_bytes(),
        },
    };
    answer(StatusCode::OK, encoding, body)
}

fn refused(encoding: Encoding, refusal: &Refusal) -> Response {
    let code = i32::from(refusal.code);
    let body = match encoding {
        Encoding::Protobuf => tonic_types::Status {
            code,
            message: refusal.message.clone(),
            details: Vec::new(),
        }
        .encode_to_vec(),
        Encoding::Json => serde_json::json!({"code": code, "message": refusal.message})
            .to_string()
            .into_bytes(),
    };
    let mut response = answer(refusal.http, encoding, body);
    if let Some(wait) = refusal.retry_after {
        let seconds = HeaderValue::from(wait.as_secs().max(1));
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

async fn wrong_method(headers: HeaderMap) -> Response {
    let refusal = Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::Unimplemented,
        "use POST to export traces",
    );
    let mut response = refused(encoding(&headers).unwrap_or(Encoding::Json), &refusal);
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

async fn wrong_path(request: Request) -> Response {
    let message = format!(
        "no {}: this receiver takes traces at /v1/traces",
        request.uri().path()
    );
    let refusal = Refusal::new(StatusCode::NOT_FOUND, Code::Unimplemented, message);
    refused(
        encoding(request.headers()).unwrap_or(Encoding::Json),
        &refusal,
    )
}

fn answer(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Response {
    let media_type = match encoding {
        Encoding::Protobuf => "application/x-protobuf",
        Encoding::Json => "application/json",
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let media_type = HeaderValue::from_static(media_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}
