//! HTTPS: connections, what is asked on them, and their graceful end.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    metrics::Metrics,
    review::{Answer, NamespaceLabel, Reviewer, Verdict},
};

/// An API server takes no object of more than 3 MiB; a review has up to two, and escapes.
const LARGEST: usize = 8 << 20;
/// For a handshake, and for a body: an API server waits no longer than 30 s for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// For the head of a request. Go's clients close connections that were idle for 90 s: they shall be first,
/// since a request on a connection that we close at this moment fails.
const IDLE: Duration = Duration::from_secs(120);
/// Connections at once; others wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// Streams at once on one HTTP/2 connection.
const STREAMS: u32 = 250;
/// How long requests that are being answered may take when the process stops.
const GRACE: Duration = Duration::from_secs(20);

/// What requests are answered with.
#[derive(Debug)]
pub struct Webhook {
    /// The answers.
    pub reviewer: Reviewer,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Serves until `stop` is done; then takes no more connections and lets requests finish.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    webhook: Arc<Webhook>,
    stop: impl Future<Output = ()>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Some(IDLE))
        .keep_alive_timeout(PATIENCE);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = async {
            // It is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No descriptors are left, for example: it would fail again at once.
                tracing::warn!("a connection cannot be taken: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, builder) = (acceptor.clone(), builder.clone());
        let (webhook, watcher) = (Arc::clone(&webhook), connections.watcher());
        tokio::spawn(async move {
            let _place: Option<OwnedSemaphorePermit> = place;
            let Some(stream) = handshake(&acceptor, stream).await else {
                return;
            };
            let service = service_fn(move |request| answer(Arc::clone(&webhook), request));
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
    drop(listener);
    if timeout(GRACE, connections.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    // Answers are one small write; it only costs time to wait for more.
    drop(stream.set_nodelay(true));
    match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!("no TLS: {error}");
            None
        }
        Err(_) => {
            tracing::debug!("no TLS within {PATIENCE:?}");
            None
        }
    }
}

async fn answer(
    webhook: Arc<Webhook>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (answer, start) = match body(request).await {
        Ok((label, body)) => {
            let start = Instant::now();
            (webhook.reviewer.answer(&body, label), start)
        }
        Err(answer) => (answer, Instant::now()),
    };
    webhook.metrics.count(answer.verdict, start.elapsed());
    let Answer {
        verdict,
        status,
        body,
        pod,
        reason,
    } = answer;
    let word = verdict.word();
    // As fields, which are escaped: what is in them comes from whoever creates pods.
    match verdict {
        Verdict::Injected | Verdict::Skipped => tracing::debug!(pod, reason, "{word}"),
        Verdict::Refused | Verdict::Invalid => tracing::info!(pod, reason, "{word}"),
    }
    let kind = if status == 200 {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    if status == 405 {
        headers.insert(header::ALLOW, http::HeaderValue::from_static("POST"));
    }
    Ok(response)
}

/// The body of a request that may be a review.
async fn body(request: Request<Incoming>) -> Result<(NamespaceLabel, Bytes), Answer> {
    let Some(label) = NamespaceLabel::of_path(request.uri().path()) else {
        let paths = NamespaceLabel::ALL.map(NamespaceLabel::path).join(", ");
        return Err(Answer::invalid(404, format!("there is only {paths}")));
    };
    if request.method() != Method::POST {
        return Err(Answer::invalid(405, "reviews are sent by POST"));
    }
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let media = kind.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        let message = format!("content-type `{kind}`, where application/json is expected");
        return Err(Answer::invalid(415, message));
    }
    match timeout(
        PATIENCE,
        Limited::new(request.into_body(), LARGEST).collect(),
    )
    .await
    {
        Ok(Ok(body)) => Ok((label, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body is longer than {LARGEST} bytes");
            Err(Answer::invalid(413, message))
        }
        Ok(Err(error)) => Err(Answer::invalid(
            400,
            format!("the body breaks off: {error}"),
        )),
        Err(_) => Err(Answer::invalid(408, "the body does not come")),
    }
}
