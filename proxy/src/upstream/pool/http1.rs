//! HTTP/1 connections of one host: one request at a time each, kept alive, the last used first.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    rc::{Rc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::{
    ActiveRequest, Base, Failure, HostPool, Limit, Upload,
    connect::{Metered, connect},
    guard::{Connection, PendingRequest},
    switch::{Expected, Switched, switch},
    wait::Line,
};
use crate::config::{cluster::UpstreamProtocol, http_connection_manager::HeaderCase};

/// `max_response_headers_kb` by default.
const HEAD_KB: u32 = 80;
/// hyper's own limit of what it reads and writes ahead.
const BUFFER: usize = 8192 + 4096 * 100;
/// hyper's own limit of headers, which costs it nothing.
const DEFAULT_HEADERS: u32 = 100;

type Driver = http1::Connection<TokioIo<Metered>, Upload>;

/// The connections of one host and priority.
pub(crate) struct Pool {
    base: Rc<Base>,
    /// The last used is last.
    idle: RefCell<Vec<Idle>>,
    line: Line<Ready>,
    connecting: Cell<usize>,
    is_reaping: Cell<bool>,
}

struct Idle {
    ready: Ready,
    since: Instant,
}

/// A connection that can take a request.
struct Ready {
    sender: SendRequest<Upload>,
    connection: Rc<Connection>,
}

impl HostPool for Pool {
    fn new(base: Base) -> Rc<Self> {
        Rc::new(Self {
            base: Rc::new(base),
            idle: RefCell::default(),
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
        for idle in self.idle.take() {
            idle.ready.close();
        }
    }
}

impl Pool {
    /// A connection for one request: an idle one, or a new one that is waited for.
    pub(crate) async fn acquire(self: &Rc<Self>) -> Result<Lease, Failure> {
        let mut idle_since = None;
        let ready = match self.pop_idle() {
            Some(idle) => {
                idle_since = Some(idle.since);
                idle.ready
            }
            None => self.wait().await?,
        };
        let Some(request) = ActiveRequest::new(&self.base) else {
            self.put(ready, Instant::now());
            return Err(Failure::Overflow(Limit::Requests));
        };
        ready.connection.begin_request();
        Ok(Lease {
            pool: Rc::clone(self),
            ready: Some(ready),
            idle_since,
            switch: None,
            _request: request,
        })
    }

    fn pop_idle(&self) -> Option<Idle> {
        let mut list = self.idle.borrow_mut();
        while let Some(idle) = list.pop() {
            // One that the peer closed is not ready; its end is noted by its task.
            if idle.ready.sender.is_ready() {
                return Some(idle);
            }
        }
        None
    }

    async fn wait(self: &Rc<Self>) -> Result<Ready, Failure> {
        let pending = PendingRequest::new(&self.base).ok_or(Failure::Overflow(Limit::Pending))?;
        let give_back = |ready| self.put(ready, Instant::now());
        let place = self.line.join(&give_back);
        self.make_connections();
        let outcome = place.outcome().await;
        pending.settle();
        outcome
    }

    /// Makes a connection for each request in line that has none on its way.
    fn make_connections(self: &Rc<Self>) {
        while self.connecting.get() < self.line.len() && self.base.may_connect() {
            self.connecting.set(self.connecting.get() + 1);
            let connection = Rc::new(Connection::new(&self.base, Some(Version::HTTP_11)));
            tokio::task::spawn_local(Rc::clone(self).connect(connection));
        }
    }

    async fn connect(self: Rc<Self>, connection: Rc<Connection>) {
        let connected = connect(&self.base, &connection.traffic).await;
        self.connecting.set(self.connecting.get() - 1);
        let io = match connected {
            Ok(io) => io,
            Err(failure) => {
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
        connection.connected(io.local());
        // The handshake of HTTP/1 sends nothing and cannot fail.
        if let Ok((sender, driver)) = self.builder().handshake(TokioIo::new(io)).await {
            let pool = Rc::clone(&self);
            tokio::task::spawn_local(pool.drive(driver, Rc::clone(&connection)));
            self.put(Ready { sender, connection }, Instant::now());
        }
    }

    fn builder(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        let cluster = self.base.cluster();
        let options = match &cluster.config.protocol {
            UpstreamProtocol::Http1(options)
            | UpstreamProtocol::Downstream { http1: options, .. } => options,
            UpstreamProtocol::Http2(_) => return builder,
        };
        let head = cluster.config.max_response_headers_kb.unwrap_or(HEAD_KB) as usize * 1024;
        builder.max_header_size(head).max_buf_size(head.max(BUFFER));
        if cluster.config.max_headers_count != DEFAULT_HEADERS {
            builder.max_headers(cluster.config.max_headers_count as usize);
        }
        match options.header_case {
            HeaderCase::Lower => {}
            HeaderCase::ProperCase => {
                builder.title_case_headers(true);
            }
            HeaderCase::Preserve => {
                builder.preserve_header_case(true);
            }
        }
        builder
    }

    /// Runs a connection to its end.
    async fn drive(self: Rc<Self>, driver: Driver, connection: Rc<Connection>) {
        // The driver is gone afterwards, so that its sender knows that it is closed.
        match self.run(driver, &connection).await {
            Ok((mut io, read)) => match connection.switch.take() {
                Some(switch) => switch.hand_over(Switched { io, read }).await,
                // Whoever is there still will see it closed in any case.
                None => drop(io.shutdown().await),
            },
            Err(error) if error.is_parse() => self.base.stats().upstream_cx_protocol_error.inc(),
            Err(_) => {}
        }
        drop(connection.switch.take());
        self.drop_idle(|ready| ready.sender.is_closed());
        drop(connection);
        self.make_connections();
    }

    /// The socket with what was read ahead.
    async fn run(
        &self,
        mut driver: Driver,
        connection: &Connection,
    ) -> hyper::Result<(Metered, Bytes)> {
        let limit = self.base.cluster().config.max_connection_duration;
        let mut end = poll_fn(|task| driver.poll_without_shutdown(task));
        match limit {
            None => end.await?,
            Some(limit) => match tokio::time::timeout(limit, &mut end).await {
                Ok(ended) => ended?,
                Err(_elapsed) => {
                    self.base.stats().upstream_cx_max_duration_reached.inc();
                    connection.is_draining.set(true);
                    self.drop_idle(|ready| ready.connection.is_draining.get());
                    end.await?;
                }
            },
        }
        let parts = driver.into_parts();
        Ok((parts.io.into_inner(), parts.read_buf))
    }

    fn drop_idle(&self, is_unwanted: impl Fn(&Ready) -> bool) {
        let unwanted: Vec<Idle> = self
            .idle
            .borrow_mut()
            .extract_if(.., |idle| is_unwanted(&idle.ready))
            .collect();
        for idle in unwanted {
            idle.ready.close();
        }
    }

    /// Takes a connection that can serve again: for the first in line, or to be kept.
    fn put(self: &Rc<Self>, ready: Ready, now: Instant) {
        if ready.connection.is_draining.get() || ready.sender.is_closed() {
            ready.close();
            self.make_connections();
            return;
        }
        // Who waits is served even when the host has left meanwhile.
        let Err(ready) = self.line.serve(ready) else {
            return;
        };
        if self.base.is_draining.get() || self.base.host.is_removed() {
            ready.close();
        } else {
            let idle = Idle { ready, since: now };
            self.idle.borrow_mut().push(idle);
            self.reap();
        }
    }

    /// Closes connections that were idle for too long.
    fn reap(self: &Rc<Self>) {
        let timeout = self.base.cluster().config.idle_timeout;
        if !timeout.is_zero() && !self.is_reaping.replace(true) {
            tokio::task::spawn_local(reaper(Rc::downgrade(self), timeout));
        }
    }

    /// Closes what is due; when the next one will be.
    fn close_expired(&self, timeout: Duration) -> Option<Instant> {
        let now = Instant::now();
        let expired: Vec<Idle> = {
            let mut idle = self.idle.borrow_mut();
            let count = idle.partition_point(|idle| idle.since + timeout <= now);
            idle.drain(..count).collect()
        };
        self.base
            .stats()
            .upstream_cx_idle_timeout
            .add(expired.len() as u64);
        for idle in expired {
            idle.ready.close();
        }
        let next = self.idle.borrow().first().map(|idle| idle.since + timeout);
        self.is_reaping.set(next.is_some());
        next
    }
}

async fn reaper(pool: Weak<Pool>, timeout: Duration) {
    while let Some(next) = pool.upgrade().and_then(|pool| pool.close_expired(timeout)) {
        tokio::time::sleep_until(next.into()).await;
    }
}

impl Ready {
    /// Lets the connection end.
    fn close(self) {
        if !self.sender.is_closed() {
            self.connection.closed_by_us.set(true);
        }
    }
}

/// A connection with one request on it. Dropping it early closes the connection.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    ready: Option<Ready>,
    /// Since when the connection had been idle.
    idle_since: Option<Instant>,
    /// The request asks for another protocol: no other one follows on the connection.
    switch: Option<Expected>,
    _request: ActiveRequest,
}

/// A connection that was idle for longer may be closed by its peer just now. What is needed to send a
/// request again is kept only then: at full load it would cost something for nothing.
const STALE: Duration = Duration::from_millis(1);

/// How sending failed.
pub(crate) enum SendError {
    /// Nothing was sent: another connection can take it.
    Unsent(Box<Request<Upload>>),
    /// It may have been sent.
    Failed(Failure),
}

impl Lease {
    /// Sends the request.
    pub(crate) fn send(
        &mut self,
        request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + use<> {
        let sent = self
            .ready
            .as_mut()
            .map(|ready| ready.sender.try_send_request(request));
        async move {
            let Some(sent) = sent else {
                return Err(SendError::Failed(Failure::ConnectionTermination));
            };
            sent.await.map_err(|mut error| match error.take_message() {
                Some(request) => SendError::Unsent(Box::new(request)),
                None => SendError::Failed(Failure::from_http1(error.error())),
            })
        }
    }

    /// The request that is sent next asks for another protocol.
    pub(crate) fn expect_switch(&mut self) {
        if let Some(connection) = self.connection() {
            let (to, expected) = switch();
            connection.switch.set(Some(to));
            self.switch = Some(expected);
        }
    }

    /// Whether the request asks for another protocol.
    pub(crate) fn expects_switch(&self) -> bool {
        self.switch.is_some()
    }

    /// The socket, once the host has agreed; none if it is gone.
    pub(crate) async fn switched(&mut self) -> Option<Switched> {
        self.switch.as_mut()?.socket().await
    }

    /// Notes that the peer sent no proper HTTP/1: we close the connection.
    pub(crate) fn broke_protocol(&self) {
        self.pool.base.stats().upstream_cx_protocol_error.inc();
        self.note_our_end();
    }

    /// Notes that it is us who close the connection.
    pub(crate) fn note_our_end(&self) {
        if let Some(connection) = self.connection() {
            connection.closed_by_us.set(true);
        }
    }

    /// The connection, for the record.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        self.ready.as_ref().map(|ready| &*ready.connection)
    }

    /// Whether the connection served requests before this one.
    pub(crate) fn is_reused(&self) -> bool {
        self.connection()
            .is_some_and(|connection| connection.served.get() > 1)
    }

    /// Whether the peer may have closed the connection meanwhile.
    pub(crate) fn may_be_stale(&self) -> bool {
        self.idle_since
            .is_some_and(|since| since.elapsed() >= STALE)
    }

    /// Bytes that the connection sent and received so far.
    pub(crate) fn traffic(&self) -> Option<(u64, u64)> {
        self.connection().map(|connection| connection.traffic.get())
    }

    /// Request and response are complete: the connection may serve the next request.
    pub(crate) fn release(mut self, now: Instant) {
        if self.switch.is_some() {
            // What the client sends next may be meant for the other protocol, and who knows what the
            // host takes it for.
            return;
        }
        let Some(ready) = self.ready.take() else {
            return;
        };
        ready.connection.end_request();
        if ready.sender.is_ready() || ready.sender.is_closed() {
            self.pool.put(ready, now);
            return;
        }
        let pool = Rc::clone(&self.pool);
        tokio::task::spawn_local(async move {
            let mut ready = ready;
            // A connection that ends instead is noted by its own task.
            if ready.sender.ready().await.is_ok() {
                pool.put(ready, Instant::now());
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.close();
        }
    }
}
