//! Guards for what is counted: requests, waiting requests, connections. Dropping one is the only way
//! to count it out, so that no path can forget.

use std::{cell::Cell, fmt, rc::Rc, sync::atomic::Ordering::Relaxed, time::Instant};

use http::Version;

use super::{Base, switch::SwitchTo};

/// One request in flight on a connection.
#[derive(Debug)]
pub(crate) struct ActiveRequest {
    base: Rc<Base>,
}

impl ActiveRequest {
    /// Counts a request in; none if `max_requests` are in flight.
    pub(super) fn new(base: &Rc<Base>) -> Option<Self> {
        let stats = base.stats();
        if !base.resources().requests.try_acquire() {
            stats.upstream_rq_active_overflow.inc();
            return None;
        }
        drop(stats);
        Some(Self::counted(base))
    }

    /// Counts a connection's only use in, whatever the limit.
    pub(super) fn unlimited(base: &Rc<Base>) -> Self {
        base.resources().requests.acquire();
        Self::counted(base)
    }

    fn counted(base: &Rc<Base>) -> Self {
        let stats = base.stats();
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        base.host.stats.rq_total.fetch_add(1, Relaxed);
        base.host.stats.rq_active.fetch_add(1, Relaxed);
        Self {
            base: Rc::clone(base),
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.base.stats().upstream_rq_active.dec();
        self.base.host.stats.rq_active.fetch_sub(1, Relaxed);
        self.base.resources().requests.release();
    }
}

/// One request that waits for a connection.
#[derive(Debug)]
pub(super) struct PendingRequest {
    base: Rc<Base>,
    /// It was served or failed; else it is given up when this goes.
    is_settled: Cell<bool>,
}

impl PendingRequest {
    /// Counts a request in; none if `max_pending_requests` wait.
    pub(super) fn new(base: &Rc<Base>) -> Option<Self> {
        let stats = base.stats();
        if !base.resources().pending.try_acquire() {
            stats.upstream_rq_pending_overflow.inc();
            // It was taken for this request, which will have no connection made.
            base.give_unused_slot();
            return None;
        }
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        Some(Self {
            base: Rc::clone(base),
            is_settled: Cell::new(false),
        })
    }

    /// The wait ended with an outcome.
    pub(super) fn settle(&self) {
        self.is_settled.set(true);
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if !self.is_settled.get() {
            self.base.stats().upstream_rq_cancelled.inc();
        }
        self.base.stats().upstream_rq_pending_active.dec();
        self.base.resources().pending.release();
    }
}

/// What went over one connection.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) sent: Cell<u64>,
    pub(super) received: Cell<u64>,
}

impl Traffic {
    /// Bytes sent and received.
    pub(super) fn get(&self) -> (u64, u64) {
        (self.sent.get(), self.received.get())
    }
}

/// One connection, from the start of its making to its end.
pub(crate) struct Connection {
    /// Unique in this process.
    pub(crate) id: u64,
    base: Rc<Base>,
    start: Instant,
    /// Our address, once connected.
    pub(super) local: Cell<Option<std::net::SocketAddr>>,
    /// Bytes sent and received.
    pub(super) traffic: Rc<Traffic>,
    /// Requests in flight.
    pub(super) active: Cell<u32>,
    /// Requests that were sent on it.
    pub(super) served: Cell<u32>,
    /// No new request is sent on it.
    pub(super) is_draining: Cell<bool>,
    /// It ends because we want it to.
    pub(super) closed_by_us: Cell<bool>,
    /// The request on it asks for another protocol: where the socket goes if the host agrees.
    pub(super) switch: Cell<Option<SwitchTo>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection for `protocol`; none for bytes.
    pub(super) fn new(base: &Rc<Base>, protocol: Option<Version>) -> Self {
        let stats = base.stats();
        base.keep_slot();
        base.resources().connections.acquire();
        match protocol {
            None => {}
            Some(Version::HTTP_2) => stats.upstream_cx_http2_total.inc(),
            Some(_) => stats.upstream_cx_http1_total.inc(),
        }
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        base.host.stats.cx_total.fetch_add(1, Relaxed);
        base.host.stats.cx_active.fetch_add(1, Relaxed);
        base.connections.set(base.connections.get() + 1);
        Self {
            id: Base::next_connection_id(),
            base: Rc::clone(base),
            start: Instant::now(),
            local: Cell::new(None),
            traffic: Rc::default(),
            active: Cell::new(0),
            served: Cell::new(0),
            is_draining: Cell::new(false),
            closed_by_us: Cell::new(false),
            switch: Cell::new(None),
        }
    }

    /// Our address, once connected.
    pub(crate) fn local(&self) -> Option<std::net::SocketAddr> {
        self.local.get()
    }

    pub(super) fn connected(&self, local: Option<std::net::SocketAddr>) {
        self.local.set(local);
        let elapsed = self.start.elapsed().as_millis();
        let stats = self.base.stats();
        stats
            .upstream_cx_connect_ms
            .record(u64::try_from(elapsed).unwrap_or(u64::MAX));
    }

    /// Counts one more request sent; whether it is the last that may be.
    pub(super) fn begin_request(&self) {
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get() + 1);
        let limit = self.base.cluster().config.max_requests_per_connection;
        if limit > 0 && self.served.get() >= limit && !self.is_draining.replace(true) {
            self.base.stats().upstream_cx_max_requests.inc();
        }
    }

    /// Counts bytes that were read.
    pub(super) fn received(&self, bytes: u64) {
        self.base.stats().upstream_cx_rx_bytes_total.add(bytes);
    }

    /// Counts bytes that were written.
    pub(super) fn sent(&self, bytes: u64) {
        self.base.stats().upstream_cx_tx_bytes_total.add(bytes);
    }

    pub(super) fn end_request(&self) {
        self.active.set(self.active.get().saturating_sub(1));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let stats = self.base.stats();
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        let with_active = self.active.get() > 0;
        let (destroyed, destroyed_with_active) = if self.closed_by_us.get() {
            (
                &stats.upstream_cx_destroy_local,
                &stats.upstream_cx_destroy_local_with_active_rq,
            )
        } else {
            (
                &stats.upstream_cx_destroy_remote,
                &stats.upstream_cx_destroy_remote_with_active_rq,
            )
        };
        destroyed.inc();
        if with_active {
            stats.upstream_cx_destroy_with_active_rq.inc();
            destroyed_with_active.inc();
        }
        stats
            .upstream_rq_per_cx
            .record(u64::from(self.served.get()));
        let length = self.start.elapsed().as_millis();
        stats
            .upstream_cx_length_ms
            .record(u64::try_from(length).unwrap_or(u64::MAX));
        self.base.host.stats.cx_active.fetch_sub(1, Relaxed);
        self.base.connections.set(self.base.connections.get() - 1);
        self.base.resources().connections.release();
        self.base.give_unused_slot();
    }
}
