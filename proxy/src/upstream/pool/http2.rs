//! HTTP/2 connections of one host: many requests at a time, another connection when one is full.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    PingPong, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::{Request, Version};
use tokio::sync::Notify;

use super::{
    ActiveRequest, Base, Failure, HostPool, Limit,
    connect::{Metered, connect},
    guard::{Connection, PendingRequest},
    wait::Line,
};
use crate::config::{
    cluster::UpstreamProtocol,
    http_connection_manager::{Http2Keepalive, Http2Options},
};

/// The connections of one host and priority.
pub(crate) struct Pool {
    base: Rc<Base>,
    options: Http2Options,
    connections: RefCell<Vec<Rc<Multiplexed>>>,
    line: Line<Slot>,
    connecting: Cell<usize>,
    is_reaping: Cell<bool>,
}

struct Multiplexed {
    sender: RefCell<SendRequest<Bytes>>,
    connection: Connection,
    idle_since: Cell<Instant>,
    /// Asks for a PING now: the connection was idle for long.
    ping: Rc<Notify>,
}

/// Room for one stream, taken.
struct Slot {
    on: Rc<Multiplexed>,
}

impl HostPool for Pool {
    fn new(base: Base) -> Rc<Self> {
        let options = match &base.cluster().config.protocol {
            UpstreamProtocol::Http2(options)
            | UpstreamProtocol::Downstream { http2: options, .. } => options.clone(),
            UpstreamProtocol::Http1(_) => Http2Options::default(),
        };
        Rc::new(Self {
            base: Rc::new(base),
            options,
            connections: RefCell::default(),
            line: Line::new(),
            connecting: Cell::new(0),
            is_reaping: Cell::new(false),
        })
    }

    fn base(&self) -> &Rc<Base> {
        &self.base
    }

    fn drain(&self) {
        self.base.is_draining.set(true);
        for on in &*self.connections.borrow() {
            on.connection.is_draining.set(true);
        }
        self.drop_finished();
    }
}

impl Pool {
    /// Room for one request: on a connection that has some, or on a new one that is waited for.
    pub(crate) async fn acquire(self: &Rc<Self>) -> Result<Lease, Failure> {
        let slot = match self.slot() {
            Some(slot) => slot,
            None => self.wait().await?,
        };
        match ActiveRequest::new(&self.base) {
            Some(request) => Ok(Lease {
                pool: Rc::clone(self),
                on: Some(slot.on),
                _request: request,
            }),
            None => {
                self.give_back(slot);
                Err(Failure::Overflow(Limit::Requests))
            }
        }
    }

    fn slot(&self) -> Option<Slot> {
        let connections = self.connections.borrow();
        connections
            .iter()
            .find(|on| on.has_room(&self.options))
            .map(|on| on.take(&self.options))
    }

    async fn wait(self: &Rc<Self>) -> Result<Slot, Failure> {
        let pending = PendingRequest::new(&self.base).ok_or(Failure::Overflow(Limit::Pending))?;
        let give_back = |slot| self.give_back(slot);
        let place = self.line.join(&give_back);
        self.make_connections();
        let outcome = place.outcome().await;
        pending.settle();
        outcome
    }

    fn give_back(self: &Rc<Self>, slot: Slot) {
        self.ended(&slot.on);
    }

    /// Makes connections until those on their way have room for everybody in line.
    fn make_connections(self: &Rc<Self>) {
        let room = self.options.max_concurrent_streams.max(1) as usize;
        while self.connecting.get().saturating_mul(room) < self.line.len()
            && self.base.may_connect()
        {
            self.connecting.set(self.connecting.get() + 1);
            let connection = Connection::new(&self.base, Some(Version::HTTP_2));
            tokio::task::spawn_local(Rc::clone(self).connect(connection));
        }
    }

    async fn connect(self: Rc<Self>, connection: Connection) {
        let connected = connect(&self.base, &connection.traffic).await;
        let io = match connected {
            Ok(io) => io,
            Err(failure) => {
                self.connecting.set(self.connecting.get() - 1);
                connection.closed_by_us.set(failure.is_timeout);
                drop(connection);
                let ejected = self.line.fail(&failure) as u64;
                self.base
                    .stats()
                    .upstream_rq_pending_failure_eject
                    .add(ejected);
                return;
            }
        };
        let local = io.local();
        let shaken = self.builder().handshake(io).await;
        self.connecting.set(self.connecting.get() - 1);
        match shaken {
            Ok((sender, driver)) => {
                connection.connected(local);
                let on = Rc::new(Multiplexed {
                    sender: RefCell::new(sender),
                    connection,
                    idle_since: Cell::new(Instant::now()),
                    ping: Rc::default(),
                });
                self.connections.borrow_mut().push(Rc::clone(&on));
                tokio::task::spawn_local(drive(Rc::clone(&self), driver, Rc::downgrade(&on)));
                // Who waits is served even when the host has left meanwhile.
                self.serve_line(&on);
                if self.base.is_draining.get() || self.base.host.is_removed() {
                    on.connection.is_draining.set(true);
                    self.drop_finished();
                } else {
                    self.reap();
                }
            }
            Err(error) => {
                drop(connection);
                let failure = super::ConnectFailure {
                    is_timeout: false,
                    is_local: false,
                    reason: error.to_string().into(),
                };
                let ejected = self.line.fail(&failure) as u64;
                self.base
                    .stats()
                    .upstream_rq_pending_failure_eject
                    .add(ejected);
            }
        }
    }

    fn builder(&self) -> client::Builder {
        let options = &self.options;
        let head = self.base.cluster().config.max_response_headers_kb;
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .max_header_list_size(head.unwrap_or(HEAD_KB).saturating_mul(1024))
            .header_table_size(options.hpack_table_size)
            .initial_window_size(options.initial_stream_window_size)
            .initial_connection_window_size(options.initial_connection_window_size)
            .initial_max_send_streams(options.max_concurrent_streams.max(1) as usize)
            .max_send_buffer_size(
                self.base.cluster().config.per_connection_buffer_limit_bytes as usize,
            );
        builder
    }

    /// Hands the room of a connection to those in line.
    fn serve_line(self: &Rc<Self>, on: &Rc<Multiplexed>) {
        while self.line.len() > 0 && on.has_room(&self.options) {
            if let Err(slot) = self.line.serve(on.take(&self.options)) {
                slot.on.connection.end_request();
                return;
            }
        }
    }

    /// A stream of the connection ended.
    fn ended(self: &Rc<Self>, on: &Rc<Multiplexed>) {
        on.connection.end_request();
        self.serve_line(on);
        if on.connection.active.get() == 0 {
            on.idle_since.set(Instant::now());
            if on.connection.is_draining.get() {
                self.drop_finished();
            } else {
                self.reap();
            }
        }
    }

    /// Lets connections end that take no more requests and have none.
    fn drop_finished(&self) {
        self.drop_connections(|on| {
            on.connection.is_draining.get() && on.connection.active.get() == 0
        });
    }

    fn drop_connections(&self, is_unwanted: impl Fn(&Rc<Multiplexed>) -> bool) -> usize {
        let unwanted: Vec<Rc<Multiplexed>> = self
            .connections
            .borrow_mut()
            .extract_if(.., |on| is_unwanted(on))
            .collect();
        for on in &unwanted {
            on.connection.closed_by_us.set(true);
        }
        unwanted.len()
    }

    /// Closes connections that were idle for too long.
    fn reap(self: &Rc<Self>) {
        let timeout = self.base.cluster().config.idle_timeout;
        if !timeout.is_zero() && !self.is_reaping.replace(true) {
            tokio::task::spawn_local(reaper(Rc::downgrade(self), timeout));
        }
    }

    /// Closes what is due; when to look again.
    fn close_expired(&self, timeout: Duration) -> Option<Instant> {
        let now = Instant::now();
        let idle = |on: &Rc<Multiplexed>| on.connection.active.get() == 0;
        let expired = self.drop_connections(|on| idle(on) && on.idle_since.get() + timeout <= now);
        self.base
            .stats()
            .upstream_cx_idle_timeout
            .add(expired as u64);
        let connections = self.connections.borrow();
        let next = connections
            .iter()
            .filter(|on| idle(on))
            .map(|on| on.idle_since.get() + timeout)
            .min();
        self.is_reaping.set(next.is_some());
        next
    }
}

async fn reaper(pool: Weak<Pool>, timeout: Duration) {
    while let Some(next) = pool.upgrade().and_then(|pool| pool.close_expired(timeout)) {
        tokio::time::sleep_until(next.into()).await;
    }
}

/// `max_response_headers_kb` by default.
const HEAD_KB: u32 = 60;

type Driver = client::Connection<Metered, Bytes>;

/// Runs a connection to its end.
async fn drive(pool: Rc<Pool>, mut driver: Driver, on: Weak<Multiplexed>) {
    let ping = on
        .upgrade()
        .map(|on| Rc::clone(&on.ping))
        .unwrap_or_default();
    let keepalive = keepalive(pool.options.keepalive.clone(), driver.ping_pong(), ping);
    let limit = pool.base.cluster().config.max_connection_duration;
    let mut expiry = std::pin::pin!(async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    });
    let mut keepalive = std::pin::pin!(keepalive);
    let mut driver = std::pin::pin!(driver);
    let mut is_expired = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut driver => break ended,
            () = &mut keepalive => break Ok(()),
            () = &mut expiry, if !is_expired => {
                is_expired = true;
                pool.base.stats().upstream_cx_max_duration_reached.inc();
                if let Some(on) = on.upgrade() {
                    on.connection.is_draining.set(true);
                }
                pool.drop_finished();
            }
        }
    };
    if let Err(error) = ended {
        let stats = pool.base.stats();
        if error.is_go_away() && error.is_remote() {
            stats.upstream_cx_close_notify.inc();
        } else if error.is_library() {
            stats.upstream_cx_protocol_error.inc();
        }
    }
    pool.connections
        .borrow_mut()
        .retain(|other| !std::ptr::eq(Rc::as_ptr(other), on.as_ptr()));
    pool.make_connections();
}

/// Ends when a PING was not answered in time. PINGs go out after each interval, and when asked for.
async fn keepalive(settings: Option<Http2Keepalive>, pings: Option<PingPong>, asked: Rc<Notify>) {
    let (Some(settings), Some(mut pings)) = (settings, pings) else {
        return std::future::pending().await;
    };
    loop {
        let interval = async {
            let Some(interval) = settings.interval else {
                return std::future::pending().await;
            };
            let jitter = rand::random::<f64>() * settings.interval_jitter_percent / 100.0;
            tokio::time::sleep(interval.mul_f64(1.0 + jitter)).await;
        };
        tokio::select! {
            () = interval => {}
            () = asked.notified() => {}
        }
        let ping = pings.ping(h2::Ping::opaque());
        match tokio::time::timeout(settings.timeout, ping).await {
            Ok(Ok(_pong)) => {}
            // The connection's own end says more than this error.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_elapsed) => return,
        }
    }
}

impl Multiplexed {
    fn has_room(&self, options: &Http2Options) -> bool {
        if self.connection.is_draining.get() {
            return false;
        }
        let mut sender = self.sender.borrow_mut();
        let limit = sender
            .current_max_send_streams()
            .min(options.max_concurrent_streams as usize);
        if self.connection.active.get() as usize >= limit {
            return false;
        }
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
            // GOAWAY, or the connection is gone: streams in flight finish.
            Poll::Ready(Err(_)) => {
                self.connection.is_draining.set(true);
                false
            }
        }
    }

    fn take(self: &Rc<Self>, options: &Http2Options) -> Slot {
        let settings = options.keepalive.as_ref();
        if let Some(limit) = settings.and_then(|settings| settings.connection_idle_interval)
            && self.connection.active.get() == 0
            && self.idle_since.get().elapsed() >= limit
        {
            self.ping.notify_one();
        }
        self.connection.begin_request();
        Slot {
            on: Rc::clone(self),
        }
    }
}

/// One stream on a connection, from its opening to its end.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    on: Option<Rc<Multiplexed>>,
    _request: ActiveRequest,
}

impl Lease {
    /// Opens the stream.
    pub(crate) fn send(
        &self,
        request: Request<()>,
        is_end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        let on = self.on.as_ref().ok_or(Failure::ConnectionTermination)?;
        let mut sender = on.sender.borrow_mut();
        sender
            .send_request(request, is_end)
            .map_err(|error| Failure::from_http2(&error))
    }

    /// The connection, for the record.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        self.on.as_ref().map(|on| &on.connection)
    }
}

impl Lease {
    /// Whether the connection served requests before this one.
    pub(crate) fn is_reused(&self) -> bool {
        self.connection()
            .is_some_and(|connection| connection.served.get() > 1)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(on) = self.on.take() {
            self.pool.ended(&on);
        }
    }
}
