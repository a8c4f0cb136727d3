//! Mirroring: copies of requests for other clusters, whose answers nobody reads.
//!
//! A copy shares the body's chunks with the live request and never holds it up: each has a bounded
//! queue, and one whose cluster takes its body too slowly is given up and counted
//! (`cluster.<the live one>.retry_or_shadow_abandoned`). A copy lives in a task of its own, with the time that the live
//! request has, under its own cluster's circuit breakers; what it holds are guards, which go with the
//! task. It ends early only if the live request ends before its body does.

mod queue;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use http_body::{Body as _, Frame, SizeHint};
use smallvec::SmallVec;

use self::queue::{Queue, Sender};
use super::{
    attempt::Attempt,
    choice::by_header,
    destination,
    failure::{self, Ended, Told},
    mutate::Mutations,
    timeout::{Deadlines, Expired, Limits},
};
use crate::{
    config::{
        mirror::{HeaderChange, MirrorHost, MirrorPolicy},
        route::{ClusterName, Forward, Priority},
    },
    http::{Body, BodyError, StreamCx},
    telemetry::format::{self, Context as FormatContext, Missing, RequestHead, RequestRecord},
    upstream::{Cluster, lb, pool::UploadState},
};

static INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Sends the copies that the route wants of a request whose live attempt begins now. The head is as
/// the upstream gets it; the live attempt goes on with the body that is given back. `timeout` is the
/// live request's.
pub(super) fn mirror(
    cx: &StreamCx,
    action: &Forward,
    parts: &Parts,
    body: Body,
    timeout: Option<Duration>,
) -> Body {
    if action.mirrors.is_empty() || !is_admitted(cx, action) {
        return body;
    }
    // One number for all: of two policies for half of the requests both take the same half.
    let random = cx.worker().random();
    let mut senders = Senders::new();
    for policy in action.mirrors.iter() {
        if policy.share.includes(random)
            && let Some(cluster) = cluster_of(cx, policy, parts)
        {
            senders.extend(start(cx, policy, cluster, parts, &body, timeout));
        }
    }
    match senders.is_empty() {
        true => body,
        false => Body::boxed(Tee { body, senders }),
    }
}

/// A request that its own cluster's breaker refuses is not mirrored either.
fn is_admitted(cx: &StreamCx, action: &Forward) -> bool {
    cx.info
        .upstream
        .cluster
        .as_ref()
        .is_none_or(|cluster| cluster.circuit.of(action.priority).requests.can_create())
}

/// The cluster of a copy; none if there is none of that name: then there is no copy.
fn cluster_of(cx: &StreamCx, policy: &MirrorPolicy, parts: &Parts) -> Option<Arc<Cluster>> {
    let find = |name: &[u8]| cx.snapshot.cluster(std::str::from_utf8(name).ok()?);
    let cluster = match &policy.cluster {
        ClusterName::Name(name) => find(name.as_bytes()),
        ClusterName::Header(key) => by_header(cx, key, parts, find).flatten(),
    };
    cluster.map(Arc::clone)
}

type Senders = SmallVec<[Sender; 2]>;

/// Starts one copy; gives where its body goes, if there is one.
fn start(
    live: &StreamCx,
    policy: &MirrorPolicy,
    cluster: Arc<Cluster>,
    parts: &Parts,
    body: &Body,
    timeout: Option<Duration>,
) -> Option<Sender> {
    let mut parts = copy(parts);
    change_headers(live, policy, &mut parts);
    let mut cx = live.beside();
    cx.info.upstream.cluster = Some(Arc::clone(&cluster));
    if let Some(tracer) = &live.hcm().tracer {
        cx.info.trace = tracer.mirror(&live.info, &mut parts.headers, policy.trace_sampled);
    }
    if cx.info.trace.is_some() {
        cx.record(&parts);
    }
    let queue = (!body.is_end_stream()).then(|| {
        let limit = live
            .connection
            .info
            .listener
            .per_connection_buffer_limit_bytes;
        Queue::new(body.size_hint().exact(), limit as usize)
    });
    let live_cluster = live.info.upstream.cluster.as_ref();
    let sender = queue
        .as_ref()
        .zip(live_cluster)
        .map(|(queue, live)| Sender::new(queue, &live.stats.retry_or_shadow_abandoned));
    let copy = Copy {
        cx: Traced(cx),
        cluster,
        parts,
        queue,
        timeout,
        start: Instant::now(),
    };
    tokio::task::spawn_local(Box::pin(copy.run()));
    sender
}

/// The head without what belongs to the live connection.
fn copy(live: &Parts) -> Box<Parts> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = live.method.clone();
    parts.uri = live.uri.clone();
    parts.version = live.version;
    parts.headers = live.headers.clone();
    Box::new(parts)
}

/// The policy's own changes, then those that every copy has, in Envoy's order.
fn change_headers(live: &StreamCx, policy: &MirrorPolicy, parts: &mut Parts) {
    for change in &policy.request_headers {
        match change {
            HeaderChange::Header(mutations) => {
                let Some(mutations) = Mutations::compile(mutations) else {
                    continue;
                };
                mutations.apply(
                    parts,
                    |parts| &mut parts.headers,
                    |parts, format, text| {
                        let context = FormatContext {
                            info: &live.info,
                            request: Some(RequestHead::new(parts, &live.scheme)),
                            response: None,
                            trailers: None,
                        };
                        format::write(format, &context, Missing::Empty, text);
                    },
                );
            }
            HeaderChange::RemoveOnMatch(matcher) => {
                let matched: Vec<HeaderName> = parts
                    .headers
                    .keys()
                    .filter(|name| {
                        **name != header::HOST && matcher.matches(name.as_str().as_bytes())
                    })
                    .cloned()
                    .collect();
                for name in matched {
                    parts.headers.remove(name);
                }
            }
        }
    }
    let host = match &policy.host {
        MirrorHost::Literal(host) => Some(host.clone()),
        MirrorHost::Same => None,
        MirrorHost::Suffixed => parts.headers.get(header::HOST).and_then(suffixed),
    };
    if let Some(host) = host {
        parts.headers.insert(header::HOST, host);
    }
    parts
        .headers
        .insert(&INTERNAL, HeaderValue::from_static("true"));
    append_forwarded_for(&mut parts.headers, &live.hcm().own_address.to_string());
}

/// A host with `-shadow` between its name and its port.
fn suffixed(host: &HeaderValue) -> Option<HeaderValue> {
    let host = host.as_bytes();
    let port = host
        .iter()
        .rposition(|byte| *byte == b':')
        .filter(|at| {
            let digits = host.get(at + 1..).unwrap_or_default();
            // A colon inside of an IPv6 address is none of a port.
            let name = host.get(..*at).unwrap_or_default();
            !digits.is_empty()
                && digits.iter().all(u8::is_ascii_digit)
                && (name.ends_with(b"]") || !name.contains(&b':'))
        })
        .unwrap_or(host.len());
    let (name, port) = host.split_at(port);
    HeaderValue::from_bytes(&[name, b"-shadow", port].concat()).ok()
}

/// Envoy joins addresses without a space.
fn append_forwarded_for(headers: &mut HeaderMap, address: &str) {
    let mut value = Vec::new();
    for before in headers.get_all(&FORWARDED_FOR) {
        value.extend_from_slice(before.as_bytes());
        value.push(b',');
    }
    value.extend_from_slice(address.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(&FORWARDED_FOR, value);
    }
}

/// A copy on its way.
struct Copy {
    cx: Traced,
    cluster: Arc<Cluster>,
    parts: Box<Parts>,
    /// None if the request has no body.
    queue: Option<Rc<Queue>>,
    timeout: Option<Duration>,
    start: Instant,
}

impl Copy {
    /// Sends the copy and reads its answer to the end, unless its body is given up before.
    async fn run(self) {
        let queue = self.queue.clone();
        let mut sent = pin!(self.send());
        poll_fn(|task| {
            let is_given_up = queue
                .as_ref()
                .is_some_and(|queue| queue.poll_given_up(task).is_ready());
            // What is dropped with the future gives back what the copy holds.
            if is_given_up {
                return Poll::Ready(());
            }
            sent.as_mut().poll(task)
        })
        .await;
    }

    async fn send(self) {
        let Self {
            cx: mut traced,
            cluster,
            parts,
            queue,
            timeout,
            start,
        } = self;
        let cx = &mut traced.0;
        let worker = Rc::clone(cx.worker());
        let key = lb::Key {
            destination: destination::of(cx, &cluster, &parts.headers),
            source: cx.connection.info.source,
            ..lb::Key::default()
        };
        let Some(host) = worker.pools.pick(&cluster, key, || worker.random()) else {
            cluster
                .stats
                .codes
                .count(StatusCode::SERVICE_UNAVAILABLE, true);
            return;
        };
        let (body, upload, arrived) = match queue {
            None => (Body::Empty, None, None),
            Some(queue) => {
                let arrived = queue.arrived();
                let upload = UploadState::new(cx.info.upstream.last_tx.clone());
                (queue::body(queue), Some(upload), Some(arrived))
            }
        };
        // The time counts from when the client had sent everything: a cluster that reads nothing does not
        // keep a copy for ever.
        let limits = Limits {
            global: timeout,
            ..Limits::default()
        };
        let life = cluster.config.max_stream_duration;
        let mut deadlines = Deadlines::new(worker.timers.timer(), &limits, life);
        deadlines.begin_try(start, arrived);
        let attempt = Attempt {
            cluster: Arc::clone(&cluster),
            host,
            priority: Priority::Default,
            parts,
            body,
            upload,
            start,
            begun: start,
            is_retriable: false,
            resends: false,
        };
        match attempt.run(cx, &mut deadlines).await {
            Ok(answer) => {
                let (head, mut body) = answer.accept(cx, deadlines);
                cx.info.response_code = Some(head.status);
                discard(&mut body).await;
            }
            Err(ended) => {
                let told = Told {
                    is_request_complete: true,
                    ..Told::default()
                };
                let mut reply = failure::reply(&ended, told);
                if !matches!(ended, Ended::Expired(Expired::Life)) {
                    cluster.stats.codes.count(reply.status, true);
                }
                cx.info.response_code = Some(reply.status);
                cx.info.details = Some(std::mem::take(&mut reply.details));
            }
        }
    }
}

/// The record of a copy, which ends its span, however it ends.
struct Traced(StreamCx);

impl Drop for Traced {
    fn drop(&mut self) {
        let cx = &self.0;
        if let (Some(tracer), Some(_)) = (&cx.hcm().tracer, &cx.info.trace) {
            tracer.finish_mirror(&FormatContext {
                info: &cx.info,
                request: cx.record.as_ref().map(RequestRecord::head),
                response: None,
                trailers: None,
            });
        }
    }
}

/// Reads what nobody wants, so that the connection can serve again.
async fn discard(body: &mut Body) {
    while let Some(Ok(_)) = poll_fn(|task| Pin::new(&mut *body).poll_frame(task)).await {}
}

/// The live request's body, whose chunks the copies get too.
struct Tee {
    body: Body,
    /// Dropped unfinished if the body ends early.
    senders: Senders,
}

impl Tee {
    fn finish(&mut self, trailers: Option<&HeaderMap>) {
        for sender in self.senders.drain(..) {
            sender.finish(trailers);
        }
    }
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(task);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => this.finish(None),
            Poll::Ready(Some(Err(_))) => this.senders.clear(),
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => {
                    this.senders.retain(|sender| sender.send(data));
                    // Who reads stops here and does not ask for the end.
                    if this.body.is_end_stream() || this.body.size_hint().exact() == Some(0) {
                        this.finish(None);
                    }
                }
                None => this.finish(frame.trailers_ref()),
            },
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
