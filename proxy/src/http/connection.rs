//! A downstream connection from its acceptance to its end: which HTTP it speaks, counts, draining.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{net::TcpStream, task::spawn_local};

use super::{
    DownstreamCx,
    connection_manager::HcmRuntime,
    http1, http2,
    io::{Io, IoWatch},
    mismatch::Mismatch,
};
use crate::{
    config::http_connection_manager::Codec,
    listener::{Active, filters::http_head::PREFACE},
    telemetry::stream_info::{ConnectionInfo, StreamInfo},
    worker::{self, Bell, Open, Worker},
};

/// What the first read takes: most requests are smaller.
const FIRST_READ: usize = 2048;

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed it, or it broke.
    Remote,
    /// We did.
    Local,
}

/// Starts to serve an accepted connection; it counts from this moment.
pub fn start(
    worker: Rc<Worker>,
    listener: Arc<Active>,
    hcm: Arc<HcmRuntime>,
    stream: TcpStream,
    info: ConnectionInfo,
) {
    let now = Instant::now();
    let cx = Rc::new(DownstreamCx {
        info: Rc::new(info),
        watch: Rc::new(IoWatch::default()),
        streams: Cell::new(0),
        requests: Cell::new(0),
        idle_since: Cell::new(now),
        draining: Cell::new(None),
        responding: RefCell::new(None),
        receiving: RefCell::new(None),
        bell: Bell::default(),
        switched: RefCell::new(None),
        was_in_use: Cell::new(false),
        mismatch: Cell::new(None),
        buckets: RefCell::default(),
        listener,
        hcm,
        worker,
    });
    let guard = Guard::new(&cx);
    spawn_local(async move {
        // The whole guard, not only the field that is set.
        let mut guard = guard;
        guard.end = run(&cx, stream).await;
    });
}

async fn run(cx: &Rc<DownstreamCx>, stream: TcpStream) -> End {
    let hcm = &cx.hcm;
    let (is_http2, first) = match hcm.config.codec {
        Codec::Http1 => (false, Bytes::new()),
        Codec::Http2 => (true, Bytes::new()),
        Codec::Auto => {
            let mut timer = cx.worker.timers.timer();
            let idle = hcm.config.idle_timeout;
            let deadline = (!idle.is_zero()).then(|| Instant::now() + idle);
            match timer.run_until(deadline, detect(&stream)).await {
                Ok(Ok(Some(found))) => found,
                Ok(Ok(None) | Err(_)) => return End::Remote,
                Err(_elapsed) => {
                    hcm.stats.cx_idle_timeout.inc();
                    return End::Local;
                }
            }
        }
    };
    if is_http2 {
        hcm.stats.cx_http2_total.inc();
        hcm.stats.cx_http2_active.inc();
        let end = http2::serve(Io::new(stream, first, Rc::clone(&cx.watch)), cx).await;
        hcm.stats.cx_http2_active.dec();
        end
    } else {
        hcm.stats.cx_http1_total.inc();
        hcm.stats.cx_http1_active.inc();
        cx.watch.expect_head();
        let end = http1::serve(Io::new(stream, first, Rc::clone(&cx.watch)), cx).await;
        hcm.stats.cx_http1_active.dec();
        end
    }
}

/// Reads until it is clear whether the client speaks HTTP/2: the bytes read so far, none if it said
/// nothing.
async fn detect(stream: &TcpStream) -> io::Result<Option<(bool, Bytes)>> {
    let mut first = BytesMut::new();
    loop {
        stream.readable().await?;
        first.reserve(FIRST_READ);
        match stream.try_read_buf(&mut first) {
            Ok(0) if first.is_empty() => return Ok(None),
            // The codec finds the end by itself.
            Ok(0) => return Ok(Some((false, first.freeze()))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if first.len() >= PREFACE.len() {
            return Ok(Some((first.starts_with(PREFACE), first.freeze())));
        }
        if !PREFACE.starts_with(&first) {
            return Ok(Some((false, first.freeze())));
        }
    }
}

/// Counts the connection while it lives.
struct Guard {
    cx: Rc<DownstreamCx>,
    end: End,
    _open: Open,
}

impl Guard {
    fn new(cx: &Rc<DownstreamCx>) -> Self {
        let stats = &cx.hcm.stats;
        stats.cx_total.inc();
        stats.cx_active.inc();
        let connection = Rc::clone(cx) as Rc<dyn worker::Connection>;
        // Unless the connection says otherwise at its end, its task was dropped.
        Self {
            _open: Open::new(&cx.worker, connection, cx.info.start),
            cx: Rc::clone(cx),
            end: End::Local,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let cx = &self.cx;
        let stats = &cx.hcm.stats;
        let had_streams = cx.streams.get() > 0 || cx.was_in_use.get();
        // It knows the connection: neither would go without the other.
        cx.switched.take();
        stats.cx_active.dec();
        stats.cx_destroy.inc();
        match self.end {
            End::Remote => stats.cx_destroy_remote.inc(),
            End::Local => stats.cx_destroy_local.inc(),
        }
        if had_streams {
            stats.cx_destroy_active_rq.inc();
            match self.end {
                End::Remote => stats.cx_destroy_remote_active_rq.inc(),
                End::Local => stats.cx_destroy_local_active_rq.inc(),
            }
        }
        if cx.requests.get() == 0 && cx.watch.received.get() == 0 {
            cx.mismatch.set(Some(Mismatch::Silent));
        }
        match cx.mismatch.get() {
            None => {}
            Some(Mismatch::Silent) => stats.cx_silent.inc(),
            Some(Mismatch::Tls | Mismatch::Other) => stats.cx_not_http.inc(),
        }
        let length = u64::try_from(cx.info.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        stats.cx_length_ms.record(length);
        stats.cx_rx_bytes_total.add(cx.watch.received.get());
        stats.cx_tx_bytes_total.add(cx.watch.sent.get());
        cx.log();
    }
}

/// What ends a connection, or makes it end, when nothing happens until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// No stream for `idle_timeout`.
    Idle,
    /// `max_connection_duration`: drain.
    MaxDuration,
    /// Draining, and idle for `drain_timeout`: close.
    DrainedIdle,
    /// Draining for the whole drain time: close, whatever is going on.
    DrainTime,
}

impl DownstreamCx {
    /// Writes the lines of the listener's access logs.
    fn log(&self) {
        let logs = &self.listener.access_logs;
        if logs.is_empty() {
            return;
        }
        let mut info = StreamInfo::of_connection(Rc::clone(&self.info));
        let mismatch = self.mismatch.get();
        info.reason = mismatch.map(|mismatch| mismatch.reason(&self.info).into());
        info.bytes_received.set(self.watch.received.get());
        info.bytes_sent.set(self.watch.sent.get());
        logs.log_connection(&info);
    }

    /// The next of the connection's own deadlines.
    pub(super) fn deadline(&self) -> Option<(Instant, Timeout)> {
        let config = &self.hcm.config;
        let is_idle = self.streams.get() == 0;
        let at = |duration: Duration, since: Instant, what| {
            (!duration.is_zero()).then(|| (since + duration, what))
        };
        let idle = is_idle.then(|| at(config.idle_timeout, self.idle_since.get(), Timeout::Idle));
        let (max, drained, drain) = match self.draining.get() {
            None => {
                let max = config.max_connection_duration.unwrap_or_default();
                (at(max, self.info.start, Timeout::MaxDuration), None, None)
            }
            Some(since) => {
                let quiet = since.max(self.idle_since.get());
                let drained =
                    is_idle.then_some((quiet + config.drain_timeout, Timeout::DrainedIdle));
                (
                    None,
                    drained,
                    Some((since + self.worker.drain_time, Timeout::DrainTime)),
                )
            }
        };
        [idle.flatten(), max, drained, drain]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }
}
