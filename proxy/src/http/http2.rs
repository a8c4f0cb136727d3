//! HTTP/2 on a downstream connection: the `h2` library's server, one local task per stream.

use std::{
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use h2::{
    PingPong, RecvStream,
    server::{Connection, SendResponse},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body as _;
use tokio::{net::TcpStream, task::spawn_local};

use super::{
    Body, DownstreamCx,
    connection::{End, Timeout},
    h2_body::send_body,
    io::Io,
    mismatch::Mismatch,
    stream::Stream,
};
use crate::{
    config::http_connection_manager::{Codec, HttpConnectionManager},
    worker::Timer,
};

/// `h2`'s settings for a connection manager.
fn builder(config: &HttpConnectionManager) -> h2::server::Builder {
    let options = &config.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.initial_stream_window_size)
        .initial_connection_window_size(options.initial_connection_window_size)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_header_list_size(config.max_request_headers_kb.saturating_mul(1024));
    builder.header_table_size(options.hpack_table_size);
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// Serves the connection to its end.
pub(super) async fn serve(io: Io<TcpStream>, cx: &Rc<DownstreamCx>) -> End {
    let hcm = &cx.hcm;
    let mut timer = cx.worker.timers.timer();
    let idle = hcm.config.idle_timeout;
    let deadline = (!idle.is_zero()).then(|| Instant::now() + idle);
    let handshake = builder(&hcm.config).handshake(io);
    let mut driver = match timer.run_until(deadline, handshake).await {
        Ok(Ok(connection)) => Driver::new(connection, cx, timer),
        Ok(Err(error)) => {
            let end = ended(cx, &error);
            // Nobody has looked at the first bytes before.
            if end == End::Local && hcm.config.codec == Codec::Http2 {
                cx.mismatch.set(Some(Mismatch::Other));
            }
            return end;
        }
        Err(_elapsed) => {
            hcm.stats.cx_idle_timeout.inc();
            return End::Local;
        }
    };
    poll_fn(|task| driver.poll(task)).await
}

/// Notes how a connection broke.
fn ended(cx: &DownstreamCx, error: &h2::Error) -> End {
    if error.is_io() || error.is_remote() {
        return End::Remote;
    }
    cx.hcm.stats.cx_protocol_error.inc();
    End::Local
}

struct Driver<'a> {
    connection: Connection<Io<TcpStream>, Bytes>,
    cx: &'a Rc<DownstreamCx>,
    timer: Timer,
    is_going_away: bool,
    keepalive: Option<Keepalive>,
}

/// PINGs that tell whether the client is still there.
struct Keepalive {
    pings: PingPong,
    timer: Timer,
    interval: std::time::Duration,
    timeout: std::time::Duration,
    /// When the next PING is due, or the answer to the last.
    deadline: Instant,
    is_waiting: bool,
}

impl<'a> Driver<'a> {
    fn new(
        mut connection: Connection<Io<TcpStream>, Bytes>,
        cx: &'a Rc<DownstreamCx>,
        timer: Timer,
    ) -> Self {
        let settings = cx.hcm.config.http2.keepalive.as_ref();
        let keepalive = settings.and_then(|settings| {
            let interval = settings.interval?;
            Some(Keepalive {
                pings: connection.ping_pong()?,
                timer: cx.worker.timers.timer(),
                interval,
                timeout: settings.timeout,
                deadline: Instant::now() + interval,
                is_waiting: false,
            })
        });
        Self {
            connection,
            cx,
            timer,
            is_going_away: false,
            keepalive,
        }
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.connection.poll_accept(task) {
                Poll::Ready(Some(Ok((request, respond)))) => self.start(request, respond),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(ended(self.cx, &error)),
                Poll::Ready(None) => {
                    let end = if self.is_going_away {
                        End::Local
                    } else {
                        End::Remote
                    };
                    return Poll::Ready(end);
                }
                Poll::Pending => {
                    self.cx.bell.remember(task.waker());
                    match self.poll_timers(task) {
                        Timers::Wait => return Poll::Pending,
                        // Something is to be sent.
                        Timers::Again => {}
                        Timers::Close => return Poll::Ready(End::Local),
                    }
                }
            }
        }
    }

    fn start(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let stream = Stream::new(self.cx, Version::HTTP_2);
        let (parts, body) = request.into_parts();
        // A task's future is copied whole when it is spawned, and again when it ends.
        spawn_local(Box::pin(run(stream, Box::new(parts), body, respond)));
        if self.is_going_away {
            return;
        }
        let stats = &self.cx.hcm.stats;
        if self.cx.is_to_go() {
            stats.cx_drain_close.inc();
            self.go_away();
        } else if self.cx.has_max_requests() {
            stats.cx_max_requests_reached.inc();
            self.go_away();
        }
    }

    /// Says GOAWAY in two steps: first without a limit, then, after a round trip, with the last stream
    /// that will be served.
    fn go_away(&mut self) {
        self.is_going_away = true;
        self.connection.graceful_shutdown();
    }

    fn poll_timers(&mut self, task: &mut Context<'_>) -> Timers {
        if self.cx.draining.get().is_some() && !self.is_going_away {
            self.cx.hcm.stats.cx_drain_close.inc();
            self.go_away();
            return Timers::Again;
        }
        if let Some(keepalive) = &mut self.keepalive
            && keepalive.poll_is_dead(task)
        {
            return Timers::Close;
        }
        let stats = &self.cx.hcm.stats;
        while let Some((at, what)) = self.cx.deadline() {
            if self.timer.poll_until(at, task).is_pending() {
                return Timers::Wait;
            }
            match what {
                Timeout::Idle => {
                    stats.cx_idle_timeout.inc();
                    if self.is_going_away {
                        return Timers::Close;
                    }
                    // A client that does not answer the PING of the graceful way does not hold us up.
                    self.cx.drain();
                }
                Timeout::MaxDuration => {
                    stats.cx_max_duration_reached.inc();
                    self.cx.drain();
                }
                Timeout::DrainedIdle | Timeout::DrainTime => return Timers::Close,
            }
            if !self.is_going_away {
                self.go_away();
                return Timers::Again;
            }
        }
        Timers::Wait
    }
}

enum Timers {
    Wait,
    Again,
    Close,
}

impl Keepalive {
    /// Sends PINGs; true when one was not answered in time.
    fn poll_is_dead(&mut self, task: &mut Context<'_>) -> bool {
        if self.is_waiting && self.pings.poll_pong(task).is_ready() {
            self.is_waiting = false;
            self.deadline = Instant::now() + self.interval;
        }
        while self.timer.poll_until(self.deadline, task).is_ready() {
            if self.is_waiting {
                return true;
            }
            if self.pings.send_ping(h2::Ping::opaque()).is_err() {
                return false;
            }
            self.is_waiting = self.pings.poll_pong(task).is_pending();
            let wait = if self.is_waiting {
                self.timeout
            } else {
                self.interval
            };
            self.deadline = Instant::now() + wait;
        }
        false
    }
}

/// One stream's task: serve, then send what came of it, unless the client resets it.
async fn run(
    stream: Box<Stream>,
    parts: Box<Parts>,
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
) {
    let activity = Rc::clone(&stream.cx.activity);
    let mut timer = stream.cx.worker().timers.timer();
    let length = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(content_length);
    let is_head = parts.method == Method::HEAD;
    if !body.is_end_stream() && stream.cx.connection.invites(&parts.headers) {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::CONTINUE;
        // An error means that the client is gone, which is noticed below.
        drop(respond.send_informational(head));
    }
    let response = {
        let mut serve = pin!(stream.serve(parts, Body::http2(body, length)));
        poll_fn(|task| match serve.as_mut().poll(task) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => respond.poll_reset(task).map(|_| None),
        })
        .await
    };
    let Some(response) = response else { return };
    let (head, body) = response.into_parts();
    let is_end = is_head || body.is_end_stream();
    // An error means that the client is gone: dropping the body notes that.
    let Ok(send) = respond.send_response(Response::from_parts(head, ()), is_end) else {
        body.abandon();
        return;
    };
    if !is_end {
        // How it ended is noted by the body.
        drop(activity.limit(&mut timer, send_body(body, send)).await);
    }
}

fn content_length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}
