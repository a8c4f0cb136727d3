//! One try at one host: a connection from the pool, the request on it, the head of the response.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    request::Parts,
    response,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Body as _, Frame};

use super::{
    failure::{Ended, transport_failure},
    outcome,
    response_body::{Exchange, Held, ResponseBody, UploadTask, note_expired, note_failed},
    timeout::Deadlines,
};
use crate::{
    config::{cluster::UpstreamProtocol, route::Priority},
    http::{Body, BodyError, StreamCx, h2_body},
    upstream::{
        Cluster, Host, lb,
        pool::{Failure, Limit, Upload, UploadState, http1},
    },
};

/// A request ready to be sent, and where to.
pub(super) struct Attempt {
    pub(super) cluster: Arc<Cluster>,
    pub(super) host: Arc<Host>,
    pub(super) priority: Priority,
    pub(super) parts: Box<Parts>,
    pub(super) body: Body,
    pub(super) deadlines: Deadlines,
    /// None if the request has no body.
    pub(super) upload: Option<Rc<UploadState>>,
    /// When the attempt began.
    pub(super) start: Instant,
}

/// What came back.
pub(super) type Outcome = Result<(response::Parts, Body), Ended>;

impl Attempt {
    /// Begins the record of the attempt; whether it is for [`Self::http2`], else for [`Self::http1`].
    pub(super) fn begin(&self, cx: &mut StreamCx) -> bool {
        let is_http2 = match &self.cluster.config.protocol {
            UpstreamProtocol::Http1(_) => false,
            UpstreamProtocol::Http2(_) => true,
            UpstreamProtocol::Downstream { .. } => cx.info.protocol == Version::HTTP_2,
        };
        cx.info.upstream.attempts += 1;
        cx.info.upstream.host = Some(Arc::clone(&self.host));
        cx.info.upstream.protocol = Some(if is_http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        });
        is_http2
    }

    /// Sends the request over HTTP/1; ready with the head of the response.
    pub(super) async fn http1(mut self, cx: &mut StreamCx) -> Outcome {
        if self.upload.is_none() && says_no_body(&self.parts) {
            self.parts
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let pool = cx
            .worker()
            .pools
            .http1(&self.cluster, &self.host, self.priority);
        self.parts.version = Version::HTTP_11;
        let mut request =
            Request::from_parts(*self.parts, Upload::new(self.body, self.upload.clone()));
        let (lease, response) = loop {
            let acquired = within(&mut self.deadlines, pin!(pool.acquire())).await;
            let mut lease = match acquired.and_then(|acquired| acquired.map_err(Ended::from)) {
                Ok(lease) => lease,
                Err(ended) => {
                    take_in(request.body_mut()).await;
                    return Err(ended);
                }
            };
            outcome::connected(&self.cluster, &self.host);
            note_connection(
                cx,
                lease.connection().map(|c| (c.id, c.local())),
                self.upload.is_none(),
            );
            let sent = pin!(lease.send(request));
            match within(&mut self.deadlines, sent).await? {
                Ok(response) => break (lease, response),
                // The peer closed a kept connection before anything was sent: take another one.
                Err(http1::SendError::Unsent(unsent)) if lease.is_reused() => request = *unsent,
                Err(http1::SendError::Unsent(_)) => {
                    return Err(Ended::Failed(Failure::ConnectionTermination));
                }
                Err(http1::SendError::Failed(failure)) => {
                    if failure == Failure::Protocol {
                        lease.broke_protocol();
                    }
                    return Err(Ended::Failed(failure));
                }
            }
        };
        let (parts, incoming) = response.into_parts();
        let exchange = Exchange {
            held: Some(Held::Http1(lease)),
            upload: self.upload,
            upload_task: None,
            cluster: self.cluster,
            host: self.host,
            is_internal: cx.is_internal,
            start: self.start,
            awaited: None,
        };
        Ok(received(
            cx,
            parts,
            Body::http1(incoming),
            exchange,
            self.deadlines,
        ))
    }

    /// Sends the request over HTTP/2; ready with the head of the response.
    pub(super) async fn http2(mut self, cx: &mut StreamCx) -> Outcome {
        let pool = cx
            .worker()
            .pools
            .http2(&self.cluster, &self.host, self.priority);
        let request =
            http2_request(*self.parts, &cx.scheme).ok_or(Ended::Failed(Failure::Protocol))?;
        let acquired = within(&mut self.deadlines, pin!(pool.acquire())).await;
        let lease = match acquired.and_then(|acquired| acquired.map_err(Ended::from)) {
            Ok(lease) => lease,
            Err(ended) => {
                take_in(&mut self.body).await;
                return Err(ended);
            }
        };
        outcome::connected(&self.cluster, &self.host);
        note_connection(
            cx,
            lease.connection().map(|c| (c.id, c.local())),
            self.upload.is_none(),
        );
        let is_end = self.upload.is_none();
        let (response, stream) = lease.send(request, is_end)?;
        let mut upload_task = None;
        if let Some(state) = &self.upload {
            let mut sending = h2_body::send_request_body(self.body, stream);
            // A small body is often there with its head and goes out at once.
            match poll_fn(|cx| Poll::Ready(Pin::new(&mut sending).poll(cx))).await {
                Poll::Ready(sent) => note_sent(state, &sent),
                Poll::Pending => {
                    let state = Rc::clone(state);
                    let task = tokio::task::spawn_local(async move {
                        note_sent(&state, &sending.await);
                    });
                    upload_task = Some(UploadTask(task));
                }
            }
        }
        let response = within(&mut self.deadlines, response)
            .await?
            .map_err(|error| Ended::Failed(Failure::from_http2(&error)))?;
        let (parts, stream) = response.into_parts();
        let length = content_length(&parts.headers);
        let exchange = Exchange {
            held: Some(Held::Http2 { _lease: lease }),
            upload: self.upload,
            upload_task,
            cluster: self.cluster,
            host: self.host,
            is_internal: cx.is_internal,
            start: self.start,
            awaited: None,
        };
        Ok(received(
            cx,
            parts,
            Body::http2(stream, length),
            exchange,
            self.deadlines,
        ))
    }
}

/// Reads what has come of a body that nobody will get: a request that is complete before its answer
/// lets the client keep its connection.
async fn take_in(body: &mut (impl http_body::Body<Data = Bytes> + Unpin)) {
    // The connection reads only when it is asked and has been polled since; a body on its way from the
    // client is not waited for.
    const POLLS: usize = 4;
    const ENOUGH: usize = 64 * 1024;
    let mut taken = 0;
    for _ in 0..POLLS {
        while taken <= ENOUGH && !body.is_end_stream() {
            match poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
                Poll::Ready(Some(Ok(frame))) => taken += frame.data_ref().map_or(0, Bytes::len),
                Poll::Ready(None | Some(Err(_))) => return,
                Poll::Pending => break,
            }
        }
        if taken > ENOUGH || body.is_end_stream() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Whether an HTTP/1 request without a body must say so: its method would let one expect it.
fn says_no_body(parts: &Parts) -> bool {
    let is_bodyless = matches!(
        parts.method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    );
    !is_bodyless && !parts.headers.contains_key(header::CONTENT_LENGTH)
}

/// Counts an attempt without a response, and notes why.
pub(super) fn note_ended(cx: &mut StreamCx, ended: &Ended, is_http2: bool) {
    let upstream = &mut cx.info.upstream;
    let (Some(cluster), Some(host)) = (&upstream.cluster, &upstream.host) else {
        return;
    };
    let latency = match ended {
        Ended::Failed(Failure::Overflow(_)) => None,
        // What one would have waited at worst: that it failed fast is no merit.
        Ended::Failed(Failure::Connect(_)) => Some(cluster.config.connect_timeout),
        Ended::Failed(_) | Ended::Expired(_) => upstream.first_tx.map(|sent| sent.elapsed()),
    };
    if let Some(latency) = latency {
        lb::report(cluster, host, latency, lb::Sample::Failure);
    }
    outcome::ended(cluster, host, ended);
    match ended {
        Ended::Expired(expired) => note_expired(*expired, cluster, host),
        Ended::Failed(failure) => {
            note_failed(failure, cluster, host, is_http2);
            upstream.transport_failure = transport_failure(failure).map(Into::into);
            if *failure == Failure::Overflow(Limit::Pending) {
                upstream.host = None;
            }
        }
    }
}

/// Runs `future` until it is ready or a deadline passes. What is not small is handed over pinned: by
/// value it would take its size twice.
async fn within<F: Future + Unpin>(
    deadlines: &mut Deadlines,
    mut future: F,
) -> Result<F::Output, Ended> {
    poll_fn(|cx| match Pin::new(&mut future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => deadlines
            .poll(cx)
            .map(|expired| Err(Ended::Expired(expired))),
    })
    .await
}

fn note_connection(
    cx: &mut StreamCx,
    connection: Option<(u64, Option<std::net::SocketAddr>)>,
    is_end: bool,
) {
    let upstream = &mut cx.info.upstream;
    if let Some((id, local)) = connection {
        upstream.connection_id = Some(id);
        upstream.local = local;
    }
    let now = Instant::now();
    upstream.first_tx = Some(now);
    if is_end {
        upstream.last_tx.set(Some(now));
    }
}

fn note_sent(state: &UploadState, sent: &Result<u64, h2_body::SendError>) {
    match sent {
        Err(h2_body::SendError::Body(_)) => state.fail(),
        // A stream that the peer stopped reading: its response says how that ends.
        Ok(_) | Err(h2_body::SendError::Stream(_)) => state.finish(),
    }
}

/// The head of the response is there. What is there of its body is taken at once: the usual small
/// response is complete with it, and its connection free before the response goes on.
fn received(
    cx: &mut StreamCx,
    parts: response::Parts,
    mut body: Body,
    mut exchange: Exchange,
    deadlines: Deadlines,
) -> (response::Parts, Body) {
    let now = Instant::now();
    cx.info.upstream.first_rx = Some(now);
    let counter = match parts.status.is_server_error() {
        true => &exchange.host.stats.rq_error,
        false => &exchange.host.stats.rq_success,
    };
    counter.fetch_add(1, Relaxed);
    let sample = match parts.status.is_server_error() {
        true => lb::Sample::Failure,
        false => lb::Sample::Answer,
    };
    let latency = now.saturating_duration_since(exchange.start);
    lb::report(&exchange.cluster, &exchange.host, latency, sample);
    exchange
        .cluster
        .stats
        .codes
        .count(parts.status, exchange.is_internal);

    let is_end = body.is_end_stream();
    exchange.awaited = outcome::head(&exchange.cluster, &exchange.host, &parts, is_end);
    if is_end {
        cx.info.upstream.last_rx = Some(now);
        exchange.complete(now);
        return (parts, Body::Empty);
    }
    // Nobody is to be woken: who sends the body on asks again.
    let mut task = Context::from_waker(Waker::noop());
    let first = match Pin::new(&mut body).poll_frame(&mut task) {
        Poll::Pending => None,
        Poll::Ready(None) => {
            exchange.complete(now);
            return (parts, Body::Empty);
        }
        Poll::Ready(Some(first)) => Some(first),
    };
    if first.is_some() && body.is_end_stream() {
        cx.info.upstream.last_rx = Some(now);
        exchange.complete(now);
        if let Some(whole) = whole(&first, &parts.headers) {
            return (parts, Body::Full(whole));
        }
    }
    (
        parts,
        Body::boxed(ResponseBody {
            body,
            first,
            deadlines,
            exchange,
        }),
    )
}

/// The one frame of a body whose length is known; bodies of unknown length stay so downstream.
fn whole(first: &Option<Result<Frame<Bytes>, BodyError>>, headers: &HeaderMap) -> Option<Bytes> {
    let Some(Ok(frame)) = first else { return None };
    let data = frame.data_ref()?;
    headers
        .contains_key(header::CONTENT_LENGTH)
        .then(|| data.clone())
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Headers of one HTTP/1 connection, which HTTP/2 has not.
static CONNECTION_HEADERS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The head of an HTTP/2 request: scheme and authority move to where HTTP/2 has them.
fn http2_request(mut parts: Parts, scheme: &Scheme) -> Option<Request<()>> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme.clone());
    let host = parts.headers.remove(header::HOST)?;
    uri.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
    uri.path_and_query = Some(match parts.uri.path_and_query() {
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    });
    for name in &CONNECTION_HEADERS {
        parts.headers.remove(name);
    }
    parts.uri = Uri::from_parts(uri).ok()?;
    parts.version = Version::HTTP_2;
    Some(Request::from_parts(parts, ()))
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
