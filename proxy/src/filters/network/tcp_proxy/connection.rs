//! The life of one connection.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::{io::Interest, net::TcpStream, task::spawn_local};

use super::{
    TcpProxyRuntime,
    connect::{Connect, Found, Origin},
    early::{Early, Made},
};
use crate::{
    listener::Active,
    relay::{End, Meter, Relay, Side, Way},
    telemetry::stream_info::{ConnectionInfo, ResponseFlags, StreamInfo},
    upstream::pool::tcp::TcpUpstream,
    worker::{self, Bell, Open, Timer, Worker},
};

/// A downstream connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    listener: Arc<Active>,
    pub(super) proxy: Arc<TcpProxyRuntime>,
    pub(super) info: Rc<ConnectionInfo>,
    /// Since when it is drained.
    draining: Cell<Option<Instant>>,
    /// Wakes its task.
    bell: Bell,
    received: Cell<u64>,
    sent: Cell<u64>,
}

/// What ends a connection that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timeout {
    Idle,
    MaxDuration,
    Drained,
}

/// Starts to serve an accepted connection; it counts from this moment. Its connection to a host may be there
/// already.
pub fn start(
    worker: Rc<Worker>,
    listener: Arc<Active>,
    proxy: Arc<TcpProxyRuntime>,
    stream: TcpStream,
    info: ConnectionInfo,
    early: Option<Early>,
) {
    let cx = Rc::new(Connection {
        worker,
        listener,
        proxy,
        info: Rc::new(info),
        draining: Cell::new(None),
        bell: Bell::default(),
        received: Cell::new(0),
        sent: Cell::new(0),
    });
    let guard = Guard::new(cx, early.as_ref());
    spawn_local(async move {
        let mut guard = guard;
        guard.run(stream, early).await;
    });
}

impl worker::Connection for Connection {
    fn listener(&self) -> &Arc<Active> {
        &self.listener
    }

    /// It goes on: nobody can tell its client to go. It ends when the drain time does.
    fn drain(&self) {
        if self.draining.get().is_none() {
            self.draining.set(Some(Instant::now()));
            self.bell.ring();
        }
    }
}

impl Connection {
    /// The next deadline, with `idle_since` while idleness counts.
    fn deadline(&self, idle_since: Option<Instant>) -> Option<(Instant, Timeout)> {
        let config = &self.proxy.config;
        let idle = idle_since.zip(config.idle_timeout);
        let idle = idle.map(|(since, timeout)| (since + timeout, Timeout::Idle));
        let max = config.max_downstream_connection_duration;
        let max = max.map(|max| (self.info.start + max, Timeout::MaxDuration));
        let drained = self.draining.get();
        let drained = drained.map(|since| (since + self.worker.drain_time, Timeout::Drained));
        [idle, max, drained]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    fn poll_expired(
        &self,
        timer: &mut Timer,
        idle_since: Option<Instant>,
        task: &mut Context<'_>,
    ) -> Poll<Timeout> {
        match self.deadline(idle_since) {
            None => Poll::Pending,
            Some((at, what)) => timer.poll_until(at, task).map(|()| what),
        }
    }

    /// The future's output, or what ended the connection before.
    async fn limit<F: Future>(&self, timer: &mut Timer, future: F) -> Result<F::Output, Timeout> {
        let mut future = pin!(future);
        poll_fn(|task| {
            self.bell.remember(task.waker());
            match future.as_mut().poll(task) {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                Poll::Pending => self.poll_expired(timer, None, task).map(Err),
            }
        })
        .await
    }
}

/// Counts what a relay moves.
struct Count<'a> {
    cx: &'a Connection,
    upstream: &'a TcpUpstream,
    moved: Cell<bool>,
}

impl Meter for Count<'_> {
    fn read(&self, way: Way, bytes: u64) {
        self.moved.set(true);
        match way {
            Way::Up => {
                self.cx.received.set(self.cx.received.get() + bytes);
                self.cx.proxy.stats.rx_bytes_total.add(bytes);
            }
            Way::Down => self.upstream.received(bytes),
        }
    }

    fn written(&self, way: Way, bytes: u64) {
        self.moved.set(true);
        match way {
            Way::Up => self.upstream.sent(bytes),
            Way::Down => {
                self.cx.sent.set(self.cx.sent.get() + bytes);
                self.cx.proxy.stats.tx_bytes_total.add(bytes);
            }
        }
    }
}

/// Ends when a socket is reset.
async fn until_broken(socket: &TcpStream) {
    while socket
        .ready(Interest::ERROR)
        .await
        .is_ok_and(|ready| !ready.is_error())
    {}
}

/// Counts the connection while it lives, and writes its record at the end.
struct Guard {
    cx: Rc<Connection>,
    found: Rc<RefCell<Found>>,
    upstream: Option<(Option<std::net::SocketAddr>, u64)>,
    _open: Open,
}

impl Guard {
    fn new(cx: Rc<Connection>, early: Option<&Early>) -> Self {
        cx.proxy.stats.cx_total.inc();
        let connection = Rc::clone(&cx) as Rc<dyn worker::Connection>;
        Self {
            _open: Open::new(&cx.worker, connection, cx.info.start),
            cx,
            found: early.map_or_else(Rc::default, Early::found),
            upstream: None,
        }
    }

    async fn run(&mut self, stream: TcpStream, early: Option<Early>) {
        let mut timer = self.cx.worker.timers.timer();
        let cx = Rc::clone(&self.cx);
        let connected = match early {
            Some(early) => cx.limit(&mut timer, early.finish()).await,
            None => {
                let connect = Connect::new(&cx.worker, &cx.proxy, Origin::of(&cx.info));
                let connected = cx.limit(&mut timer, connect.run(&self.found)).await;
                connected.map(|made| made.map_or(Made::Failed, Made::Connected))
            }
        };
        let (mut upstream, is_broken) = match connected {
            Ok(Made::Connected(upstream)) => (upstream, false),
            Ok(Made::Broken(upstream)) => (upstream, true),
            Ok(Made::Failed) => return,
            Err(timeout) => return self.expired(timeout),
        };
        upstream.begin();
        self.upstream = Some((upstream.local(), upstream.id()));
        let count = Count {
            cx: &cx,
            upstream: &upstream,
            moved: Cell::new(false),
        };
        let mut relay = Relay::default();
        let mut idle_since = Instant::now();
        let end = {
            // Only what is half closed is watched for this.
            let mut breaks = None;
            poll_fn(|task| {
                if is_broken {
                    return Poll::Ready(Ok(End::Broken(Side::Upstream)));
                }
                cx.bell.remember(task.waker());
                if let Poll::Ready(end) = relay.poll(task, &stream, &upstream.stream, &count) {
                    return Poll::Ready(Ok(end));
                }
                if let Some(side) = relay.listener() {
                    let socket = match side {
                        Side::Downstream => &stream,
                        Side::Upstream => &upstream.stream,
                    };
                    let breaks = breaks.get_or_insert_with(|| Box::pin(until_broken(socket)));
                    if breaks.as_mut().poll(task).is_ready() {
                        return Poll::Ready(Ok(End::Broken(side)));
                    }
                }
                if count.moved.take() {
                    idle_since = Instant::now();
                }
                cx.poll_expired(&mut timer, Some(idle_since), task).map(Err)
            })
            .await
        };
        let by_us = match end {
            Ok(End::Closed(last)) => last == Side::Downstream,
            // What was cut off is not to look as if it had ended: the other side is reset too, and if that
            // fails it is gone already.
            Ok(End::Broken(Side::Downstream)) => {
                let _gone = upstream.stream.set_zero_linger();
                true
            }
            Ok(End::Broken(Side::Upstream)) => {
                self.flag(ResponseFlags::UPSTREAM_REMOTE_RESET);
                let _gone = stream.set_zero_linger();
                false
            }
            Err(timeout) => {
                self.expired(timeout);
                true
            }
        };
        upstream.end(by_us);
    }

    fn flag(&self, flag: ResponseFlags) {
        self.found.borrow_mut().flags.insert(flag);
    }

    fn expired(&self, timeout: Timeout) {
        match timeout {
            Timeout::Idle => self.cx.proxy.stats.idle_timeout.inc(),
            Timeout::MaxDuration => {
                self.cx.proxy.stats.max_duration.inc();
                self.flag(ResponseFlags::DURATION_TIMEOUT);
            }
            Timeout::Drained => {}
        }
    }

    /// The connection's record, for access logs.
    fn record(&self) -> StreamInfo {
        let cx = &self.cx;
        let found = self.found.take();
        let mut info = StreamInfo::of_connection(Rc::clone(&cx.info));
        info.flags = found.flags;
        info.bytes_received.set(cx.received.get());
        info.bytes_sent.set(cx.sent.get());
        info.reason = found.reason;
        let upstream = &mut info.upstream;
        upstream.cluster = found.cluster;
        upstream.host = found.host;
        upstream.attempts = found.attempts;
        upstream.transport_failure = found.transport_failure;
        if let Some((local, id)) = self.upstream {
            upstream.local = local;
            upstream.connection_id = Some(id);
        }
        info
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let cx = Rc::clone(&self.cx);
        let logs = [&cx.listener.access_logs, &cx.proxy.access_logs];
        if logs.iter().all(|logs| logs.is_empty()) {
            return;
        }
        let info = self.record();
        logs.iter().for_each(|logs| logs.log_connection(&info));
    }
}
