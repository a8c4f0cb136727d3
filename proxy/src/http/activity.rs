//! Progress and deadlines of one stream.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::StatusCode;

use super::local_reply::LocalReply;
use crate::{telemetry::stream_info::ResponseFlags, worker::Timer};

/// Written by whoever moves bytes, read by the stream's timers. Shared, because the request's body may be
/// read in another task.
#[derive(Debug)]
pub struct Activity {
    /// When something last moved in either direction.
    pub last: Cell<Instant>,
    /// Longest time without movement; zero is no limit.
    pub idle_timeout: Cell<Duration>,
    /// When the whole request must be there.
    pub request_deadline: Cell<Option<Instant>>,
    /// When the stream must be over.
    pub max_deadline: Cell<Option<Instant>>,
    /// When the response from upstream must be complete, and what is noted if it is not. The router looks
    /// at the clock itself as long as its response is asked for.
    pub response_deadline: Cell<Option<(Instant, Late)>>,
    /// The request is wholly received.
    pub is_request_complete: Cell<bool>,
    /// The request's body broke the protocol.
    pub is_request_broken: Cell<bool>,
    /// Which deadline ended the stream.
    pub expired: Cell<Option<Expiry>>,
}

/// The deadlines of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// `request_headers_timeout`
    RequestHeaders,
    /// `request_timeout`
    Request,
    /// `stream_idle_timeout`, or the route's `idle_timeout`
    Idle,
    /// `max_stream_duration`
    MaxDuration,
    /// A limit of the router's, which the client kept from being seen: it does not read.
    Response(Late),
}

/// What is noted of a response that was not complete in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Response flags.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: &'static str,
}

impl Activity {
    /// Nothing has moved since `now`; no limits.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            last: Cell::new(now),
            idle_timeout: Cell::new(Duration::ZERO),
            request_deadline: Cell::new(None),
            max_deadline: Cell::new(None),
            response_deadline: Cell::new(None),
            is_request_complete: Cell::new(false),
            is_request_broken: Cell::new(false),
            expired: Cell::new(None),
        }
    }

    /// Something moved just now.
    pub fn touch(&self) {
        if !self.idle_timeout.get().is_zero() {
            self.last.set(Instant::now());
        }
    }

    /// The request is wholly received.
    pub fn complete_request(&self) {
        self.is_request_complete.set(true);
        self.request_deadline.set(None);
    }

    /// The request has no end yet, though its head seemed to be one.
    pub fn reopen_request(&self, deadline: Option<Instant>) {
        self.is_request_complete.set(false);
        self.request_deadline.set(deadline);
    }

    /// The next deadline.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, Expiry)> {
        let idle = self.idle_timeout.get();
        let idle = (!idle.is_zero()).then(|| (self.last.get() + idle, Expiry::Idle));
        let request = self.request_deadline.get().map(|at| (at, Expiry::Request));
        let max = self.max_deadline.get().map(|at| (at, Expiry::MaxDuration));
        let response = self.response_deadline.get();
        let response = response.map(|(at, late)| (at, Expiry::Response(late)));
        [idle, request, max, response]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// Ready once a deadline is reached; it is noted in [`Self::expired`].
    pub fn poll_expired(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<Expiry> {
        while let Some((at, expiry)) = self.deadline() {
            if timer.poll_until(at, cx).is_pending() {
                return Poll::Pending;
            }
            // Bytes may have moved the deadline out meanwhile.
            if self.deadline().is_some_and(|(now, _)| now <= at) {
                self.expired.set(Some(expiry));
                return Poll::Ready(expiry);
            }
        }
        Poll::Pending
    }

    /// The future's output, or the deadline that was reached first.
    ///
    /// # Errors
    /// The deadline.
    pub async fn limit<F: Future + Unpin>(
        &self,
        timer: &mut Timer,
        mut future: F,
    ) -> Result<F::Output, Expiry> {
        poll_fn(|cx| match Pin::new(&mut future).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_expired(timer, cx).map(Err),
        })
        .await
    }
}

impl Expiry {
    /// The reply, if the response has not begun.
    #[must_use]
    pub fn reply(self, is_request_complete: bool) -> LocalReply {
        let status = if is_request_complete {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::REQUEST_TIMEOUT
        };
        match self {
            Self::RequestHeaders => LocalReply::new(
                StatusCode::REQUEST_TIMEOUT,
                "request header timeout",
                self.details(),
            )
            .with_reason("the head did not come within request_headers_timeout"),
            Self::Request => LocalReply::new(
                StatusCode::REQUEST_TIMEOUT,
                "request timeout",
                self.details(),
            )
            .with_reason("the request did not come within request_timeout"),
            Self::Idle => LocalReply::new(status, "stream timeout", self.details())
                .with_flags(ResponseFlags::STREAM_IDLE_TIMEOUT)
                .with_reason("nothing moved for the stream's idle timeout"),
            Self::MaxDuration => {
                // DEADLINE_EXCEEDED
                LocalReply::new(status, "downstream duration timeout", self.details())
                    .with_grpc_status(4)
                    .with_reason("the stream's max_stream_duration is over")
            }
            Self::Response(late) => {
                LocalReply::new(status, "upstream request timeout", late.details)
                    .with_flags(late.flags)
                    .with_reason("the route's timeout is over")
            }
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`
    #[must_use]
    pub fn details(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_header_timeout",
            Self::Request => "request_overall_timeout",
            Self::Idle => "stream_idle_timeout",
            Self::MaxDuration => "max_duration_timeout",
            Self::Response(late) => late.details,
        }
    }
}
