//! The HTTP/1 server.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, uri::Scheme};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::{Context, endpoints};
use crate::telemetry::{
    format::{self, RequestHead},
    stream_info::{ConnectionInfo, StreamInfo},
};

/// Connections at one time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// For the head of a request, and between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// For a whole connection, but for what the answers take: a client that does not read cannot stay.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// What an endpoint answers.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn text(body: impl Into<String>) -> Self {
        Self::new(StatusCode::OK, body)
    }

    pub(super) fn new(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=UTF-8",
            body: body.into(),
        }
    }

    /// JSON with Envoy's indent of one space.
    pub(super) fn json(value: &serde_json::Value) -> Self {
        let mut body = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut body, formatter);
        match serde::Serialize::serialize(value, &mut serializer) {
            Ok(()) => {
                body.push(b'\n');
                Self::raw_json(String::from_utf8_lossy(&body).into_owned())
            }
            Err(error) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    pub(super) fn raw_json(body: String) -> Self {
        Self {
            content_type: "application/json",
            ..Self::text(body)
        }
    }
}

/// Serves the admin endpoint on `listener` until it is dropped.
pub async fn serve(listener: TcpListener, context: Rc<Context>) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => connections.push(connection(stream, Rc::clone(&context))),
                Err(error) => {
                    // Out of descriptors, most likely: the rest of the proxy goes on.
                    tracing::warn!(%error, "admin connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(()) = connections.next() => {}
        }
    }
}

async fn connection(stream: TcpStream, context: Rc<Context>) {
    let info = match connection_info(&stream, &context) {
        Ok(info) => info,
        Err(error) => {
            tracing::debug!(%error, "admin connection already closed");
            return;
        }
    };
    let stay = Stay::new();
    let service = service_fn(|request| stay.during(answer(request, &context, &info)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = served => {
            if let Err(error) = ended {
                tracing::debug!(%error, "admin connection failed");
            }
        }
        () = stay.over() => tracing::debug!("admin connection timed out"),
    }
}

/// How long a connection may stay.
struct Stay {
    until: Cell<Instant>,
    is_answering: Cell<bool>,
}

impl Stay {
    fn new() -> Self {
        Self {
            until: Cell::new(Instant::now() + CONNECTION_TIMEOUT),
            is_answering: Cell::new(false),
        }
    }

    /// The time that an answer takes is not the client's.
    async fn during<T>(&self, answer: impl Future<Output = T>) -> T {
        let left = self.until.get().saturating_duration_since(Instant::now());
        self.is_answering.set(true);
        let answer = answer.await;
        self.is_answering.set(false);
        self.until.set(Instant::now() + left);
        answer
    }

    /// Ends with the time.
    async fn over(&self) {
        while self.is_answering.get() || Instant::now() < self.until.get() {
            let again = match self.is_answering.get() {
                true => Instant::now() + HEAD_TIMEOUT,
                false => self.until.get(),
            };
            tokio::time::sleep_until(again.into()).await;
        }
    }
}

fn connection_info(stream: &TcpStream, context: &Context) -> io::Result<Rc<ConnectionInfo>> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    Ok(Rc::new(ConnectionInfo {
        id: NEXT_ID.fetch_add(1, Relaxed),
        remote: stream.peer_addr()?,
        local: stream.local_addr()?,
        real_local: stream.local_addr()?,
        is_redirected: false,
        source: None,
        server_name: None,
        listener: Arc::clone(&context.listener),
        start: Instant::now(),
    }))
}

async fn answer(
    request: Request<Incoming>,
    context: &Context,
    connection: &Rc<ConnectionInfo>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut info = StreamInfo::new(Rc::clone(connection), request.version());
    let reply =
        endpoints::dispatch(request.method(), request.uri(), request.headers(), context).await;
    let body = match *request.method() {
        Method::HEAD => Bytes::new(),
        _ => Bytes::from(reply.body),
    };
    info.bytes_sent
        .set(u64::try_from(body.len()).unwrap_or(u64::MAX));
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(reply.content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::SERVER, HeaderValue::from_static("envoy"));
    if !context.loggers.is_empty() {
        info.response_code = Some(reply.status);
        info.downstream.last_tx = Some(Instant::now());
        let (parts, _) = request.into_parts();
        context.loggers.log(&format::Context {
            info: &info,
            request: Some(RequestHead::new(&parts, &Scheme::HTTP)),
            response: Some(response.headers()),
            trailers: None,
        });
    }
    Ok(response)
}
