//! The answer of one try: its head, what came of its body, and what it holds.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header, response};
use http_body::{Body as _, Frame};

use super::{
    failure::{expired_details, expired_flags},
    outcome,
    response_body::{Exchange, Held, ResponseBody},
    timeout::{Deadlines, Expired},
    upgraded::Upgraded,
};
use crate::{
    http::{Body, BodyError, Late, StreamCx},
    upstream::lb,
};

/// How long the head of a gRPC response waits for trailers that may be on their way with it. They
/// say whether the request is tried again; once something went to the client it cannot be.
const TRAILERS_WAIT: Duration = Duration::from_millis(20);

/// An unread body of at most this size is read for its connection's sake.
const DISCARD: usize = 64 * 1024;

/// A host that says so in an answer is to get no more requests until it passes its health checks.
static IMMEDIATE_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

/// A response from upstream that nobody has yet.
pub(super) struct Answer {
    pub(super) head: response::Parts,
    body: Body,
    /// What was read ahead.
    first: Option<Result<Frame<Bytes>, BodyError>>,
    exchange: Exchange,
    arrival: Instant,
}

impl Answer {
    /// The head of the response is there.
    pub(super) fn new(
        cx: &mut StreamCx,
        head: response::Parts,
        body: Body,
        mut exchange: Exchange,
        begun: Instant,
    ) -> Self {
        let arrival = Instant::now();
        cx.info.upstream.first_rx = Some(arrival);
        let sample = match head.status.is_server_error() {
            true => lb::Sample::Failure,
            false => lb::Sample::Answer,
        };
        let latency = arrival.saturating_duration_since(begun);
        lb::report(&exchange.cluster, &exchange.host, latency, sample);
        if let Some(checker) = &exchange.cluster.health
            && head.headers.contains_key(&IMMEDIATE_FAIL)
        {
            checker.fail_immediately(&exchange.host);
        }
        let is_end = body.is_end_stream();
        exchange.awaited = outcome::head(&exchange.cluster, &exchange.host, &head, is_end);
        Self {
            head,
            body,
            first: None,
            exchange,
            arrival,
        }
    }

    /// Reads the first frame if it comes soon: trailers at once are the outcome of a gRPC call.
    pub(super) async fn wait_for_trailers(&mut self, deadlines: &mut Deadlines) {
        if self.body.is_end_stream() {
            return;
        }
        let mut wait = std::pin::pin!(tokio::time::sleep(TRAILERS_WAIT));
        let body = &mut self.body;
        let first = poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            let is_over = wait.as_mut().poll(cx).is_ready() || deadlines.poll(cx).is_ready();
            if is_over {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        });
        self.first = first.await;
        if let Some(Ok(frame)) = &self.first {
            self.exchange.note(frame);
        }
    }

    /// Trailers that came before any data.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        match &self.first {
            Some(Ok(frame)) => frame.trailers_ref(),
            _ => None,
        }
    }

    /// Whether the host switches to the protocol that it was asked for.
    pub(super) fn switches(&self) -> bool {
        self.head.status == StatusCode::SWITCHING_PROTOCOLS
            && matches!(&self.exchange.held, Some(Held::Http1(lease)) if lease.expects_switch())
    }

    /// Nobody gets it: the request is tried again.
    pub(super) fn discard(mut self) {
        let exchange = &mut self.exchange;
        exchange.host.stats.rq_error.fetch_add(1, Relaxed);
        let codes = &exchange.cluster.stats.codes;
        codes.count_retried(self.head.status);
        // What is there already is read, so that the connection can go on.
        let mut task = Context::from_waker(Waker::noop());
        let mut read = 0;
        while !self.body.is_end_stream() && read <= DISCARD {
            match Pin::new(&mut self.body).poll_frame(&mut task) {
                Poll::Ready(Some(Ok(frame))) => {
                    exchange.note(&frame);
                    read += frame.data_ref().map_or(0, Bytes::len);
                }
                Poll::Ready(None) => return exchange.release(self.arrival),
                Poll::Ready(Some(Err(_))) | Poll::Pending => return,
            }
        }
        if self.body.is_end_stream() {
            exchange.release(self.arrival);
        }
    }

    /// Nobody gets its body.
    pub(super) fn decline(self) -> (StatusCode, HeaderMap) {
        (self.head.status, self.head.headers)
    }

    /// It is final. What is there of its body is taken at once: the usual small response is complete
    /// with it, and its connection free before the response goes on.
    pub(super) fn accept(
        self,
        cx: &mut StreamCx,
        mut deadlines: Deadlines,
    ) -> (response::Parts, Body) {
        let switches = self.switches();
        let Self {
            head,
            mut body,
            mut first,
            mut exchange,
            arrival,
        } = self;
        let counter = match head.status.is_server_error() {
            true => &exchange.host.stats.rq_error,
            false => &exchange.host.stats.rq_success,
        };
        counter.fetch_add(1, Relaxed);
        let codes = &exchange.cluster.stats.codes;
        codes.count(head.status, exchange.is_internal);
        if switches {
            // The route has no time limit for what comes now.
            let life = deadlines.life().map(|at| (at, late(Expired::Life)));
            cx.activity.response_deadline.set(life);
            return (head, Body::Upgraded(Box::new(Upgraded::new(exchange))));
        }
        if first.is_none() {
            if body.is_end_stream() {
                cx.info.upstream.last_rx = Some(arrival);
                exchange.complete(arrival);
                return (head, Body::Empty);
            }
            // Nobody is to be woken: who sends the body on asks again.
            let mut task = Context::from_waker(Waker::noop());
            first = match Pin::new(&mut body).poll_frame(&mut task) {
                Poll::Pending => None,
                Poll::Ready(None) => {
                    exchange.complete(arrival);
                    return (head, Body::Empty);
                }
                Poll::Ready(Some(first)) => Some(first),
            };
        }
        if let Some(Ok(frame)) = &first {
            exchange.note(frame);
        }
        if first.is_some() && body.is_end_stream() {
            cx.info.upstream.last_rx = Some(arrival);
            exchange.complete(arrival);
            if let Some(whole) = whole(&first, &head.headers) {
                return (head, Body::Full(whole));
            }
        }
        deadlines.respond();
        let limit = deadlines.response().filter(|_| exchange.held.is_some());
        let limit = limit.map(|(at, expired)| (at, late(expired)));
        cx.activity.response_deadline.set(limit);
        let body = Body::boxed(ResponseBody {
            body,
            first,
            deadlines,
            exchange,
            is_flushed: false,
            activity: Rc::clone(&cx.activity),
        });
        (head, body)
    }
}

fn late(expired: Expired) -> Late {
    Late {
        flags: expired_flags(expired),
        details: expired_details(expired),
    }
}

/// The one frame of a body whose length is known; bodies of unknown length stay so downstream.
fn whole(first: &Option<Result<Frame<Bytes>, BodyError>>, headers: &HeaderMap) -> Option<Bytes> {
    let Some(Ok(frame)) = first else { return None };
    let data = frame.data_ref()?;
    headers
        .contains_key(header::CONTENT_LENGTH)
        .then(|| data.clone())
}
