//! Sends a request to its cluster: one try, and more as the retry policy says.

use std::{
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use http_body::Body as _;

use super::{
    Match,
    answer::Answer,
    attempt::{Attempt, Outcome, take_in},
    destination,
    failure::{Ended, Told},
    forward::{mutate_response, prepare},
    hash::RequestHash,
    mirror::mirror,
    outcome::grpc_status,
    reason,
    replay::Replay,
    retry::{Retry, Verdict},
    rewrite,
    timeout::{Deadlines, Expired, Limits, has_controls},
};
use crate::{
    config::{
        cluster::UpstreamProtocol,
        route::{Forward, HostRewrite},
    },
    http::{Body, LocalReply, Response, StreamCx, Upgrade},
    telemetry::{
        format::RequestRecord,
        stream_info::{ResponseFlags, Source as ClientSource},
    },
    upstream::{Cluster, Host, NO_SOURCE, lb, pool::UploadState},
    worker::Worker,
};

static SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
static ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
static IS_TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");

/// Sends the request until a try is final: the response, or our own answer.
pub(super) async fn run(
    cx: &mut StreamCx,
    matched: &Match,
    action: &Forward,
    parts: Box<Parts>,
    body: Body,
) -> Result<Response, LocalReply> {
    let Some(cluster) = cx.info.upstream.cluster.clone() else {
        return Err(reason::cluster_not_found(cx, matched, action, &parts));
    };
    if cx.upgrade != Upgrade::No
        && let UpstreamProtocol::Http2(_) = cluster.config.protocol
    {
        return Err(reason::no_upgrade(matched, &cluster));
    }
    let mut sending = Sending::new(cx, matched, action, cluster, parts, body);
    loop {
        let attempt = sending.next_attempt(cx)?;
        let mut outcome = attempt.run(cx, &mut sending.deadlines).await;
        if let Some(back_off) = sending.judge(cx, &mut outcome).await {
            sending.prepare_retry(cx, outcome);
            sending.wait(cx, back_off).await?;
            continue;
        }
        return match outcome {
            Ok(answer) if sending.is_declined(cx, &answer) => Err(sending.decline(answer)),
            Ok(answer) => Ok(sending.respond(cx, answer)),
            Err(ended) => Err(sending.fail(cx, &ended).await),
        };
    }
}

/// A request on its way, over all tries.
struct Sending<'a> {
    matched: &'a Match,
    action: &'a Forward,
    cluster: Arc<Cluster>,
    worker: Rc<Worker>,
    start: Instant,
    limits: Limits,
    deadlines: Deadlines,
    /// None if no other try follows.
    retry: Option<Box<Retry>>,
    /// The last try takes it.
    parts: Option<Box<Parts>>,
    body: Source,
    hash: RequestHash,
    /// Where an ORIGINAL_DST cluster sends it.
    destination: Option<SocketAddr>,
    /// What response mutations read of the request.
    record: Option<RequestRecord>,
    /// Of the body in this try.
    upload: Option<Rc<UploadState>>,
    /// When the whole request had gone out for the first time.
    request_end: Option<Instant>,
    tries: u32,
}

/// Where a try's body comes from.
enum Source {
    /// There was no try yet.
    New(Body),
    Empty,
    /// There is one try.
    Once(Body),
    /// It can be sent again.
    Replayed(Replay),
}

impl<'a> Sending<'a> {
    /// Makes the request ready: limits, header changes, retries.
    fn new(
        cx: &mut StreamCx,
        matched: &'a Match,
        action: &'a Forward,
        cluster: Arc<Cluster>,
        mut parts: Box<Parts>,
        body: Body,
    ) -> Self {
        let start = Instant::now();
        let mut controls = has_controls(&parts.headers);
        let limits = Limits::of(action, &mut parts.headers, controls);
        limits.tell(Duration::ZERO, &mut parts.headers);
        let tells_count = matched.virtual_host().include_request_attempt_count;
        if tells_count {
            let one = HeaderValue::from_static("1");
            parts.headers.insert(&ATTEMPT_COUNT, one);
        }
        let is_changed = prepare(cx, matched, action, matched.place, &mut parts);
        if is_changed {
            controls |= has_controls(&parts.headers);
        }
        if is_changed || tells_count {
            cx.record(&parts);
        }
        // Of the request as the route makes it, as in Envoy.
        let hash = RequestHash::new(cx, action, &cluster, &parts);
        let destination = destination::of(cx, &cluster, &parts.headers);
        let retry = Retry::new(action, &mut parts, &cx.scheme, controls);
        cluster.circuit.of(action.priority).note_request(start);
        let worker = Rc::clone(cx.worker());
        let life = cluster.config.max_stream_duration;
        let timer = worker.timers.timer();
        Self {
            deadlines: match cx.upgrade {
                Upgrade::No | Upgrade::WebSocket => Deadlines::new(timer, &limits, life),
                // As in Envoy, whose limits count from the request's end.
                Upgrade::Other => Deadlines::new(timer, &limits.of_endless(), life),
            },
            matched,
            action,
            cluster,
            worker,
            start,
            limits,
            retry,
            parts: Some(parts),
            body: Source::New(body),
            hash,
            destination,
            record: None,
            upload: None,
            request_end: None,
            tries: 0,
        }
    }

    /// The next try: its host, and the request as that gets it.
    fn next_attempt(&mut self, cx: &mut StreamCx) -> Result<Attempt, LocalReply> {
        let Some(host) = self.pick(cx.connection.info.source) else {
            self.cluster
                .stats
                .codes
                .count(StatusCode::SERVICE_UNAVAILABLE, cx.is_internal);
            let reply = match &self.cluster.destinations {
                Some(_) => destination::none(cx, self.matched, &self.cluster),
                None if cx.connection.info.source.is_some() => {
                    reason::no_host(self.matched, NO_SOURCE)
                }
                None => reason::no_healthy_upstream(self.matched, &self.cluster),
            };
            return Err(self.with_attempt_count(reply));
        };
        self.tries += 1;
        let is_last = self.retry.as_ref().is_none_or(|retry| !retry.has_more());
        let mut parts = match (&self.parts, is_last) {
            (Some(parts), false) => parts.clone(),
            _ => self.parts.take().expect("the head is kept for another try"),
        };
        if let Source::New(body) = &mut self.body {
            let body = std::mem::take(body);
            self.body = self.source(cx, &parts, body, is_last);
        }
        if let (Some(HostRewrite::Auto), Some(name)) = (&self.action.host_rewrite, &host.authority)
        {
            rewrite::set_host(
                name.clone(),
                self.action.append_x_forwarded_host,
                &mut parts.headers,
            );
            cx.record(&parts);
        }
        if self.tries == 1 {
            self.note_request(cx, &parts);
        }
        let body = match &mut self.body {
            Source::Empty => Body::Empty,
            Source::New(body) | Source::Once(body) => std::mem::take(body),
            Source::Replayed(replay) => {
                if is_last {
                    replay.keep_no_more();
                }
                replay.body()
            }
        };
        self.upload = match self.body {
            Source::Empty => None,
            _ => Some(UploadState::new(cx.info.upstream.last_tx.clone())),
        };
        let begun = match self.tries {
            1 => self.start,
            _ => Instant::now(),
        };
        self.deadlines.begin_try(begun, self.upload.clone());
        Ok(Attempt {
            cluster: Arc::clone(&self.cluster),
            host,
            priority: self.action.priority,
            parts,
            body,
            upload: self.upload.clone(),
            start: self.start,
            begun,
            is_retriable: self.retry.is_some(),
            resends: self.retry.as_ref().is_none_or(|retry| !retry.has_resets()),
        })
    }

    /// Where the tries' bodies come from; copies of it go where the route wants them.
    fn source(&self, cx: &StreamCx, parts: &Parts, body: Body, is_last: bool) -> Source {
        let body = match cx.upgrade {
            Upgrade::No => mirror(cx, self.action, parts, body, self.limits.global),
            // There is nobody who would lead the other conversation.
            Upgrade::WebSocket | Upgrade::Other => body,
        };
        match (body.is_end_stream(), is_last) {
            (true, _) => Source::Empty,
            (false, true) => Source::Once(body),
            (false, false) => {
                let listener = &cx.connection.info.listener;
                let limit = listener.per_connection_buffer_limit_bytes;
                Source::Replayed(Replay::new(
                    body,
                    self.action.buffer_limit.bytes(limit),
                    self.cluster.stats.retry_or_shadow_abandoned.clone(),
                ))
            }
        }
    }

    /// Picks a host; for a retry one that the policy likes, if that is to be had.
    fn pick(&self, source: Option<ClientSource>) -> Option<Arc<Host>> {
        let pick = |attempt| {
            let hash = self.hash.hash;
            let key = lb::Key {
                hash,
                attempt,
                destination: self.destination,
                source,
            };
            let random = || self.worker.random();
            self.worker.pools.pick(&self.cluster, key, random)
        };
        let mut host = pick(0)?;
        if let Some(retry) = &self.retry {
            let mut attempts = 1;
            while retry.rejects(&host, attempts) {
                host = pick(attempts)?;
                attempts += 1;
            }
        }
        Some(host)
    }

    /// Keeps what changes of the response may read of the request, which goes away now.
    fn note_request(&mut self, cx: &mut StreamCx, parts: &Parts) {
        let needed = self.matched.needed();
        self.record = needed.map(|needed| RequestRecord::new(parts, &cx.scheme, needed));
        if self.record.is_some() && cx.record.is_none() {
            cx.record.clone_from(&self.record);
        }
    }

    /// When another try begins; none if the outcome is final.
    async fn judge(&mut self, cx: &mut StreamCx, outcome: &mut Outcome) -> Option<Duration> {
        self.request_end = self.request_end.or_else(|| match self.body {
            _ if cx.upgrade != Upgrade::No => None,
            Source::Empty => Some(self.start),
            _ => cx.info.upstream.last_tx.get(),
        });
        if let Ok(answer) = outcome
            && (answer.switches() || self.is_declined(cx, answer))
        {
            return None;
        }
        if let (Source::Replayed(replay), Some(retry)) = (&self.body, &self.retry)
            && retry.has_more()
            && !replay.is_whole()
        {
            self.retry = None;
        }
        let retry = self.retry.as_mut()?;
        let upstream = &cx.info.upstream;
        if let Some(host) = &upstream.host {
            retry.note_host(host, upstream.first_tx.is_some());
        }
        let would = match outcome {
            Ok(answer) => {
                if retry.wants_grpc_status() && grpc_status(&answer.head.headers).is_none() {
                    answer.wait_for_trailers(&mut self.deadlines).await;
                }
                let head = &answer.head;
                retry.after_response(head.status, &head.headers, answer.trailers())
            }
            Err(ended) => retry.after_failure(ended),
        };
        let random = || self.worker.random();
        let verdict = retry.decide(would, &self.cluster, self.action.priority, random);
        match verdict {
            Verdict::Again(back_off) => return Some(back_off),
            Verdict::Final => {}
            Verdict::Exhausted => cx
                .info
                .flags
                .insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED),
            Verdict::Overflow => cx.info.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW),
        }
        None
    }

    /// Ends a try that another one follows.
    fn prepare_retry(&mut self, cx: &mut StreamCx, outcome: Outcome) {
        let is_timeout = matches!(
            &outcome,
            Err(Ended::Expired(Expired::PerTry | Expired::PerTryIdle))
        );
        if let Ok(answer) = outcome {
            answer.discard();
        }
        if let Some(upload) = self.upload.take() {
            upload.cancel();
        }
        self.deadlines.end_try();
        let upstream = &mut cx.info.upstream;
        upstream.first_tx = None;
        upstream.first_rx = None;
        upstream.last_tx.set(None);
        upstream.transport_failure = None;
        let virtual_host = self.matched.virtual_host();
        if let Some(parts) = &mut self.parts {
            if virtual_host.include_request_attempt_count {
                let count = HeaderValue::from(self.tries + 1);
                parts.headers.insert(&ATTEMPT_COUNT, count);
            }
            if virtual_host.include_is_timeout_retry_header {
                let value = if is_timeout { "true" } else { "false" };
                let value = HeaderValue::from_static(value);
                parts.headers.insert(&IS_TIMEOUT_RETRY, value);
            }
        }
    }

    /// Waits for the next try's time.
    async fn wait(&mut self, cx: &mut StreamCx, back_off: Duration) -> Result<(), LocalReply> {
        let until = Instant::now() + back_off;
        let mut timer = self.worker.timers.timer();
        let deadlines = &mut self.deadlines;
        let is_expired = poll_fn(|task| {
            if deadlines.poll(task).is_ready() {
                return Poll::Ready(true);
            }
            timer.poll_until(until, task).map(|()| false)
        });
        if is_expired.await {
            // No host is to blame: nothing is counted, as in Envoy.
            let ended = Ended::Expired(Expired::Route);
            let reply = reason::reply(cx, self.matched, self.action, &ended, self.told());
            return Err(self.with_attempt_count(reply));
        }
        self.cluster.stats.upstream_rq_retry.inc();
        if let Some(parts) = &mut self.parts {
            let elapsed = self.request_end.map_or(Duration::ZERO, |end| end.elapsed());
            self.limits.tell(elapsed, &mut parts.headers);
            cx.record(parts);
        }
        Ok(())
    }

    /// Passes the response on.
    fn respond(self, cx: &mut StreamCx, answer: Answer) -> Response {
        let (mut head, body) = answer.accept(cx, self.deadlines);
        if let (Some(end), Some(now)) = (self.request_end, cx.info.upstream.first_rx) {
            let millis = now.saturating_duration_since(end).as_millis();
            head.headers.insert(&SERVICE_TIME, small_number(millis));
        }
        if self
            .matched
            .virtual_host()
            .include_attempt_count_in_response
        {
            let count = small_number(u128::from(self.tries));
            head.headers.insert(&ATTEMPT_COUNT, count);
        }
        cx.info.response_code = Some(head.status);
        cx.info.details = Some("via_upstream".into());
        self.hash.add_cookies(&mut head.headers);
        mutate_response(
            cx,
            self.matched,
            self.matched.place,
            self.record.as_ref().map(RequestRecord::head),
            &mut head.headers,
        );
        Response::from_parts(head, body)
    }

    /// Whether a host went on in HTTP where a WebSocket was to begin. As in Envoy, failures pass.
    fn is_declined(&self, cx: &StreamCx, answer: &Answer) -> bool {
        let status = answer.head.status;
        cx.upgrade == Upgrade::WebSocket && !answer.switches() && status.as_u16() < 400
    }

    /// Our answer then: the host's head without its body.
    fn decline(&self, answer: Answer) -> LocalReply {
        let (status, headers) = answer.decline();
        let mut reply = LocalReply::new(status, "", "websocket_handshake_unsuccessful");
        for (name, value) in &headers {
            if !matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING) {
                reply = reply.with_header(name.clone(), value.clone());
            }
        }
        reply.with_reason(reason::declined(self.matched, &self.cluster, status))
    }

    /// Our own answer: no try brought a response.
    async fn fail(&self, cx: &StreamCx, ended: &Ended) -> LocalReply {
        if let Source::Replayed(replay) = &self.body {
            replay.keep_no_more();
            take_in(&mut replay.body()).await;
        }
        let reply = reason::reply(cx, self.matched, self.action, ended, self.told());
        // Envoy's upstream response codes leave out streams that lasted too long.
        if !matches!(ended, Ended::Expired(Expired::Life)) {
            self.cluster.stats.codes.count(reply.status, cx.is_internal);
        }
        self.with_attempt_count(reply)
    }

    fn told(&self) -> Told {
        Told {
            is_request_complete: self.upload.as_ref().is_none_or(|upload| upload.is_done()),
            is_retried: self.tries > 1,
            alt_response: self.limits.alt_response,
            timeout: self.limits.global,
        }
    }

    fn with_attempt_count(&self, reply: LocalReply) -> LocalReply {
        if self
            .matched
            .virtual_host()
            .include_attempt_count_in_response
        {
            let count = small_number(u128::from(self.tries));
            return reply.with_header(ATTEMPT_COUNT.clone(), count);
        }
        reply
    }
}

/// The header value of a number that is nearly always small.
fn small_number(number: u128) -> HeaderValue {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match usize::try_from(number)
        .ok()
        .and_then(|index| DIGITS.get(index))
    {
        Some(digit) => HeaderValue::from_static(digit),
        None => HeaderValue::from(u64::try_from(number).unwrap_or(u64::MAX)),
    }
}
