//! What every step of a stream's life can reach.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use http::{StatusCode, uri::Scheme};

use super::{
    activity::Activity, connection_manager::HcmRuntime, headers, io::IoWatch, mismatch::Mismatch,
    upgrade::Switched,
};
use crate::{
    filters::http::{Kept, local_ratelimit::TokenBucket},
    listener::Active,
    router,
    telemetry::{
        format::RequestRecord,
        stream_info::{ConnectionInfo, StreamInfo},
    },
    worker::{self, Bell, SharedSnapshot, Worker},
};

/// The context of one stream (one request and its response).
///
/// The request's head travels beside it as [`http::request::Parts`] in one normal form, whatever the
/// downstream spoke: `parts.uri` is only path and query, the authority is the `host` header (set
/// exactly once), the scheme is [`StreamCx::scheme`].
#[derive(Debug)]
pub struct StreamCx {
    /// The connection that the stream came on.
    pub connection: Rc<DownstreamCx>,
    /// The configuration that this stream sees from its start to its end.
    pub snapshot: SharedSnapshot,
    /// The record of the stream.
    pub info: StreamInfo,
    /// The route that was found, with the levels above it.
    pub matched: Option<router::Match>,
    /// `:scheme` as the proxy understands it (from the connection, or `x-forwarded-proto`).
    pub scheme: Scheme,
    /// Whether the request came from inside (Envoy's `x-envoy-internal` rule).
    pub is_internal: bool,
    /// The request as logs see it: as it was last recorded on its way.
    pub record: Option<RequestRecord>,
    /// What the bodies tell about progress, and the stream's deadlines.
    pub activity: Rc<Activity>,
    /// Whether the request asks for another protocol.
    pub upgrade: Upgrade,
    /// What filters keep to the end of the stream.
    pub(super) kept: Vec<Box<dyn Kept>>,
}

/// Whether an HTTP/1 request asks for another protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// It does not.
    #[default]
    No,
    /// For WebSocket, about which Envoy knows more than about others.
    WebSocket,
    /// For another one.
    Other,
}

/// What all streams of one downstream connection share.
#[derive(Debug)]
pub struct DownstreamCx {
    /// The worker that owns the connection.
    pub worker: Rc<Worker>,
    /// The listener as it was when the connection was accepted.
    pub listener: Arc<Active>,
    /// The connection manager of its filter chain.
    pub hcm: Arc<HcmRuntime>,
    /// Addresses, times.
    pub info: Rc<ConnectionInfo>,
    /// What the socket shows.
    pub watch: Rc<IoWatch>,
    /// Streams that are not finished.
    pub streams: Cell<u32>,
    /// Streams there ever were.
    pub requests: Cell<u32>,
    /// Since when there has been no stream.
    pub idle_since: Cell<Instant>,
    /// Since when the connection is being drained.
    pub draining: Cell<Option<Instant>>,
    /// HTTP/1: the stream whose response is being sent, so that the connection watches its deadlines.
    pub responding: RefCell<Option<Rc<Activity>>>,
    /// HTTP/1: the stream whose request is coming in, and when to see whether the client is still there.
    pub receiving: RefCell<Option<(Instant, Rc<Activity>)>>,
    /// Wakes the connection's task.
    pub bell: Bell,
    /// HTTP/1: the stream with which the connection leaves HTTP.
    pub(super) switched: RefCell<Option<Switched>>,
    /// It ended while a stream went on.
    pub(super) was_in_use: Cell<bool>,
    /// What the client speaks instead of HTTP.
    pub(super) mismatch: Cell<Option<Mismatch>>,
    /// Token buckets of limits that each connection has for itself, by the limit's number.
    pub buckets: RefCell<Vec<(u64, Arc<TokenBucket>)>>,
}

impl StreamCx {
    /// The worker that runs the stream.
    #[must_use]
    pub fn worker(&self) -> &Rc<Worker> {
        &self.connection.worker
    }

    /// Keeps a filter's guard to the end of the stream.
    pub fn keep(&mut self, kept: Box<dyn Kept>) {
        self.kept.push(kept);
    }

    /// The context of another request that is made because of this one: of no stream, and internal.
    #[must_use]
    pub fn beside(&self) -> Self {
        let info = StreamInfo::new(Rc::clone(&self.connection.info), self.info.protocol);
        Self {
            connection: Rc::clone(&self.connection),
            snapshot: Rc::clone(&self.snapshot),
            activity: Rc::new(Activity::new(info.start)),
            info,
            matched: None,
            scheme: self.scheme.clone(),
            is_internal: true,
            record: None,
            upgrade: Upgrade::No,
            kept: Vec::new(),
        }
    }

    /// Notes the request's head for access logs and spans, if there are any. Called again after each
    /// step that changes the head, so that they see it as it was sent.
    pub fn record(&mut self, parts: &http::request::Parts) {
        if let Some(needed) = &self.connection.hcm.needed {
            self.record = Some(RequestRecord::new(parts, &self.scheme, &needed.request));
        }
    }

    /// The connection manager that the stream belongs to.
    #[must_use]
    pub fn hcm(&self) -> &Arc<HcmRuntime> {
        &self.connection.hcm
    }
}

impl worker::Connection for DownstreamCx {
    fn listener(&self) -> &Arc<Active> {
        &self.listener
    }

    fn drain(&self) {
        Self::drain(self);
    }
}

impl DownstreamCx {
    /// Begins to drain: HTTP/1 closes after the next response, HTTP/2 says GOAWAY.
    pub fn drain(&self) {
        if self.draining.get().is_none() {
            self.draining.set(Some(Instant::now()));
            self.wake();
        }
    }

    /// Whether a client is to be told at once to send the body of a request with these headers
    /// (`100 Continue`), before anything is known of the request, as Envoy does; it is counted then.
    #[must_use]
    pub fn invites(&self, headers: &http::HeaderMap) -> bool {
        let hcm = &self.hcm;
        let invites = !hcm.config.proxy_100_continue && headers::expects_continue(headers);
        if invites {
            hcm.stats.rq.count(StatusCode::CONTINUE);
            hcm.listener_responses.count(StatusCode::CONTINUE);
        }
        invites
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// Whether the client is to go elsewhere; asked once for each response, since it may be by chance.
    #[must_use]
    pub fn is_to_go(&self) -> bool {
        self.draining.get().is_some()
            || self.worker.is_failing_health_checks()
            || self.worker.tells_to_go(self.info.listener.direction)
    }

    /// Whether there were as many requests as there may be.
    #[must_use]
    pub fn has_max_requests(&self) -> bool {
        let max = self.hcm.config.max_requests_per_connection;
        max > 0 && self.requests.get() >= max
    }
}
