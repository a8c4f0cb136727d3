//! One try at one host: a connection from the pool, the request on it, the head of the response.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;

use super::{
    answer::Answer,
    failure::{Ended, transport_failure},
    outcome, proper,
    response_body::{Exchange, Held, UploadTask, note_expired, note_failed},
    timeout::Deadlines,
};
use crate::{
    config::{cluster::UpstreamProtocol, route::Priority},
    http::{Body, StreamCx, Upgrade, h2_body},
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
    /// None if the request has no body.
    pub(super) upload: Option<Rc<UploadState>>,
    /// When the request began.
    pub(super) start: Instant,
    /// When this attempt did.
    pub(super) begun: Instant,
    /// Another one may follow, and read the body.
    pub(super) is_retriable: bool,
    /// A request that a kept connection lost is sent again: no policy does it.
    pub(super) resends: bool,
}

/// What came back.
pub(super) type Outcome = Result<Answer, Ended>;

impl Attempt {
    /// Sends the request; ready with the head of the response.
    pub(super) async fn run(self, cx: &mut StreamCx, deadlines: &mut Deadlines) -> Outcome {
        let is_http2 = match &self.cluster.config.protocol {
            UpstreamProtocol::Http1(_) => false,
            UpstreamProtocol::Http2(_) => true,
            UpstreamProtocol::Downstream { .. } => cx.info.protocol == Version::HTTP_2,
        };
        let upstream = &mut cx.info.upstream;
        upstream.attempts += 1;
        upstream.host = Some(Arc::clone(&self.host));
        upstream.protocol = Some(if is_http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        });
        let outcome = if is_http2 {
            self.http2(cx, deadlines).await
        } else {
            self.http1(cx, deadlines).await
        };
        if let Err(ended) = &outcome {
            note_ended(cx, ended, is_http2);
        }
        outcome
    }

    async fn http1(mut self, cx: &mut StreamCx, deadlines: &mut Deadlines) -> Outcome {
        let wants_switch = cx.upgrade != Upgrade::No;
        if self.upload.is_none() && !wants_switch && says_no_body(&self.parts) {
            self.parts
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if self.upload.is_some() && needs_chunked(&self.parts) {
            let chunked = HeaderValue::from_static("chunked");
            self.parts
                .headers
                .insert(header::TRANSFER_ENCODING, chunked);
        }
        let pool = cx
            .worker()
            .pools
            .http1(&self.cluster, &self.host, self.priority)
            .ok_or(Ended::NoPool)?;
        self.parts.version = Version::HTTP_11;
        let mut request =
            Request::from_parts(*self.parts, Upload::new(self.body, self.upload.clone()));
        let mut is_resent = false;
        let (lease, response) = loop {
            let acquired = within(deadlines, pin!(pool.acquire())).await;
            let mut lease = match acquired.and_then(|acquired| acquired.map_err(Ended::from)) {
                Ok(lease) => lease,
                Err(ended) => {
                    if !self.is_retriable {
                        take_in(request.body_mut()).await;
                    }
                    return Err(ended);
                }
            };
            let now = Instant::now();
            deadlines.connected(now);
            outcome::connected(&self.cluster, &self.host);
            note_connection(
                cx,
                now,
                lease.connection().map(|c| (c.id, c.local())),
                self.upload.is_none(),
            );
            let may_resend = self.resends && self.upload.is_none() && !is_resent;
            let spare = match may_resend && lease.may_be_stale() {
                true => Spare::new(&request, &lease),
                false => None,
            };
            if wants_switch {
                lease.expect_switch();
            }
            let sent = pin!(lease.send(request));
            match within(deadlines, sent).await? {
                Ok(response) if proper::is_http1(&response, wants_switch) => {
                    break (lease, response);
                }
                Ok(_) => {
                    lease.broke_protocol();
                    return Err(Ended::Failed(Failure::Protocol));
                }
                // The peer closed a kept connection before anything was sent: take another one.
                Err(http1::SendError::Unsent(unsent)) if lease.is_reused() => request = *unsent,
                Err(http1::SendError::Unsent(_)) => {
                    return Err(Ended::Failed(Failure::ConnectionTermination));
                }
                Err(http1::SendError::Failed(failure)) => {
                    if failure == Failure::ConnectionTermination
                        && let Some(spare) = spare.filter(|spare| spare.is_unread(&lease))
                    {
                        self.cluster.stats.upstream_rq_resent.inc();
                        is_resent = true;
                        request = spare.request;
                        continue;
                    }
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
        let body = Body::http1(incoming);
        Ok(Answer::new(cx, parts, body, exchange, self.begun))
    }

    async fn http2(mut self, cx: &mut StreamCx, deadlines: &mut Deadlines) -> Outcome {
        let pool = cx
            .worker()
            .pools
            .http2(&self.cluster, &self.host, self.priority)
            .ok_or(Ended::NoPool)?;
        let mut request =
            http2_request(*self.parts, &cx.scheme).ok_or(Ended::Failed(Failure::Protocol))?;
        let is_end = self.upload.is_none();
        let mut is_resent = false;
        let (lease, response, upload_task) = loop {
            let acquired = within(deadlines, pin!(pool.acquire())).await;
            let lease = match acquired.and_then(|acquired| acquired.map_err(Ended::from)) {
                Ok(lease) => lease,
                Err(ended) => {
                    if !self.is_retriable {
                        take_in(&mut self.body).await;
                    }
                    return Err(ended);
                }
            };
            let now = Instant::now();
            deadlines.connected(now);
            outcome::connected(&self.cluster, &self.host);
            note_connection(
                cx,
                now,
                lease.connection().map(|c| (c.id, c.local())),
                is_end,
            );
            let may_resend = self.resends && is_end && !is_resent;
            let spare = (may_resend && lease.is_reused()).then(|| request.clone());
            let failure = match lease.send(request, is_end) {
                Ok((response, stream)) => {
                    let body = std::mem::take(&mut self.body);
                    let upload_task = upload(self.upload.as_ref(), body, stream).await;
                    match within(deadlines, response).await? {
                        Ok(response) => break (lease, response, upload_task),
                        Err(error) => Failure::from_http2(&error),
                    }
                }
                Err(failure) => failure,
            };
            match spare {
                // The host says that it has not begun with it.
                Some(spare) if failure == Failure::RefusedStream => {
                    self.cluster.stats.upstream_rq_resent.inc();
                    is_resent = true;
                    request = spare;
                }
                _ => return Err(Ended::Failed(failure)),
            }
        };
        let max_headers = self.cluster.config.max_headers_count;
        if response.headers().len() > max_headers as usize {
            return Err(Ended::Failed(Failure::Protocol));
        }
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
        let body = Body::http2(stream, length);
        Ok(Answer::new(cx, parts, body, exchange, self.begun))
    }
}

/// Begins to send a body; a small one is often there with its head and goes out at once.
async fn upload(
    state: Option<&Rc<UploadState>>,
    body: Body,
    stream: h2::SendStream<Bytes>,
) -> Option<UploadTask> {
    let state = state?;
    let mut sending = h2_body::send_request_body(body, stream);
    match poll_fn(|cx| Poll::Ready(Pin::new(&mut sending).poll(cx))).await {
        Poll::Ready(sent) => {
            note_sent(state, &sent);
            None
        }
        Poll::Pending => {
            let state = Rc::clone(state);
            let task = tokio::task::spawn_local(async move {
                note_sent(&state, &sending.await);
            });
            Some(UploadTask(task))
        }
    }
}

/// A request without a body, kept while its connection may turn out to be gone.
struct Spare {
    request: Request<Upload>,
    /// What the connection had sent and received before.
    before: (u64, u64),
}

impl Spare {
    fn new(request: &Request<Upload>, lease: &http1::Lease) -> Option<Self> {
        let mut copy = Request::new(Upload::new(Body::Empty, None));
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        copy.headers_mut().clone_from(request.headers());
        Some(Self {
            request: copy,
            before: lease.traffic()?,
        })
    }

    /// Whether it does no harm to send it again: no byte of an answer came, and either none of the
    /// request went out, or it is safe.
    fn is_unread(&self, lease: &http1::Lease) -> bool {
        let is_safe = matches!(
            *self.request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
        );
        lease.traffic().is_some_and(|(sent, received)| {
            received == self.before.1 && (is_safe || sent == self.before.0)
        })
    }
}

/// Reads what has come of a body that nobody will get: a request that is complete before its answer
/// lets the client keep its connection.
pub(super) async fn take_in(body: &mut (impl http_body::Body<Data = Bytes> + Unpin)) {
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

/// Whether hyper would leave out a body unless the head says that there is one.
fn needs_chunked(parts: &Parts) -> bool {
    let is_bodyless = matches!(parts.method, Method::GET | Method::HEAD | Method::CONNECT);
    is_bodyless
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
        && !parts.headers.contains_key(header::TRANSFER_ENCODING)
}

/// Counts an attempt without a response, and notes why.
fn note_ended(cx: &mut StreamCx, ended: &Ended, is_http2: bool) {
    let upstream = &mut cx.info.upstream;
    let (Some(cluster), Some(host)) = (&upstream.cluster, &upstream.host) else {
        return;
    };
    let latency = match ended {
        Ended::Failed(Failure::Overflow(_)) | Ended::NoPool => None,
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
        Ended::NoPool => upstream.host = None,
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
    now: Instant,
    connection: Option<(u64, Option<std::net::SocketAddr>)>,
    is_end: bool,
) {
    let upstream = &mut cx.info.upstream;
    if let Some((id, local)) = connection {
        upstream.connection_id = Some(id);
        upstream.local = local;
    }
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
