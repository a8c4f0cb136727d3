//! What every step of a stream's life can reach.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Instant};

use http::uri::Scheme;

use super::connection_manager::HcmRuntime;
use crate::{
    listener::Active, snapshot::Snapshot, telemetry::stream_info::StreamInfo, worker::Worker,
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
    pub snapshot: Rc<Arc<Snapshot>>,
    /// The record of the stream.
    pub info: StreamInfo,
    /// `:scheme` as the proxy understands it (from the connection, or `x-forwarded-proto`).
    pub scheme: Scheme,
    /// Whether the request came from inside (Envoy's `x-envoy-internal` rule).
    pub is_internal: bool,
    /// What the bodies tell about progress.
    pub activity: Rc<Activity>,
}

/// What all streams of one downstream connection share.
#[derive(Debug)]
pub struct DownstreamCx {
    /// The worker that owns the connection.
    pub worker: Rc<Worker>,
    /// The listener as it was when the connection was accepted.
    pub listener: Arc<Active>,
    /// Addresses, times.
    pub info: Rc<crate::telemetry::stream_info::ConnectionInfo>,
}

impl StreamCx {
    /// The worker that runs the stream.
    #[must_use]
    pub fn worker(&self) -> &Rc<Worker> {
        &self.connection.worker
    }

    /// The connection manager that the stream belongs to.
    #[must_use]
    pub fn hcm(&self) -> &Arc<HcmRuntime> {
        &self.connection.listener.hcm
    }
}

/// Progress of a stream's bodies: written by whoever moves them, read by the stream's timers.
#[derive(Debug)]
pub struct Activity {
    /// When something last moved in either direction.
    pub last: Cell<Instant>,
    /// The request is wholly received.
    pub is_request_complete: Cell<bool>,
    /// When the request was wholly received.
    pub request_end: Cell<Option<Instant>>,
    /// Request body bytes taken.
    pub bytes_received: Cell<u64>,
}

impl Activity {
    /// Nothing has moved since `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            last: Cell::new(now),
            is_request_complete: Cell::new(false),
            request_end: Cell::new(None),
            bytes_received: Cell::new(0),
        }
    }
}
