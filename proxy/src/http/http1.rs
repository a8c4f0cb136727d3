//! HTTP/1 on a downstream connection: hyper's server with our streams, timeouts and refusals.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, Response, Version};
use http_body::{Body as _, Frame};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Body, BodyError, DownstreamCx, LocalReply,
    activity::Expiry,
    connection::{End, Timeout},
    io::Io,
    mismatch::Mismatch,
    response_body::ResponseBody,
    stream::Stream,
    strict, upgrade,
};
use crate::{
    config::http_connection_manager::{HeaderCase, HttpConnectionManager},
    worker::Timer,
};

/// What a connection reads and writes ahead at most.
const BUFFER: usize = 64 * 1024;
/// hyper's own limit of headers, which costs it nothing.
const DEFAULT_HEADERS: u32 = 100;

/// hyper's settings for a connection manager.
#[must_use]
pub(super) fn builder(config: &HttpConnectionManager) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let head = config.max_request_headers_kb as usize * 1024;
    builder
        .auto_date_header(false)
        .max_header_size(head)
        .max_buf_size(head.max(BUFFER));
    if config.max_headers_count != DEFAULT_HEADERS {
        builder.max_headers(config.max_headers_count as usize);
    }
    match config.http1.header_case {
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

type Connection = http1::Connection<TokioIo<Io<TcpStream>>, Streams>;

/// Why the connection stops being driven.
enum Stop {
    /// hyper is done.
    Done(Result<(), hyper::Error>),
    /// A deadline without a stream's response to send.
    Expired(Expiry),
    /// To be closed without a word.
    Close,
    /// The client has closed.
    Gone,
}

/// Serves the connection to its end.
pub(super) async fn serve(io: Io<TcpStream>, cx: &Rc<DownstreamCx>) -> End {
    let streams = Streams { cx: Rc::clone(cx) };
    let mut connection = cx.hcm.http1.serve_connection(TokioIo::new(io), streams);
    let mut timer = cx.worker.timers.timer();
    let stop = poll_fn(|task| poll_connection(&mut connection, cx, &mut timer, task)).await;
    match stop {
        Stop::Done(Ok(())) => {
            let parts = connection.into_parts();
            let mut stream = parts.io.into_inner();
            let switched = cx.switched.take();
            // hyper ends when the client has closed or after a last response.
            let end = if let Some(switched) = switched {
                upgrade::relay(&mut stream, parts.read_buf, switched, cx, &mut timer).await
            } else if cx.watch.is_remote_closed() {
                End::Remote
            } else {
                End::Local
            };
            close(&mut stream, end, Duration::ZERO, &mut timer).await;
            end
        }
        Stop::Done(Err(error)) => {
            if cx.watch.codec_reply.get().is_none() {
                return if cx.watch.is_remote_closed() || error.is_incomplete_message() {
                    End::Remote
                } else {
                    End::Local
                };
            }
            let parts = connection.into_parts();
            let mut reply = strict::parse_failure(&error, &cx.watch, &cx.hcm.config);
            if cx.requests.get() == 0
                && let Some(mismatch) = Mismatch::of(&parts.read_buf)
            {
                cx.mismatch.set(Some(mismatch));
                reply = reply.with_reason(mismatch.reason(&cx.info));
            }
            refuse(parts.io.into_inner(), cx, reply, &mut timer).await
        }
        Stop::Expired(expiry) => {
            let io = connection.into_parts().io.into_inner();
            refuse(io, cx, expiry.reply(false), &mut timer).await
        }
        Stop::Close => {
            drop(connection);
            End::Local
        }
        Stop::Gone => {
            drop(connection);
            End::Remote
        }
    }
}

fn poll_connection(
    connection: &mut Connection,
    cx: &Rc<DownstreamCx>,
    timer: &mut Timer,
    task: &mut Context<'_>,
) -> Poll<Stop> {
    if let Poll::Ready(done) = connection.poll_without_shutdown(task) {
        return Poll::Ready(Stop::Done(done));
    }
    if cx.watch.is_abandoned() {
        return Poll::Ready(Stop::Gone);
    }
    cx.bell.remember(task.waker());
    let stats = &cx.hcm.stats;
    loop {
        // The stream's own deadlines once its response is on its way: a client that stops reading stops
        // everything that could look at a clock.
        let responding = cx.responding.borrow().clone();
        if let Some(activity) = responding
            && activity.poll_expired(timer, task).is_ready()
        {
            return Poll::Ready(Stop::Close);
        }
        look_for_client(cx, timer, task);
        if cx.streams.get() == 0
            && let Some((at, expiry)) = head_deadline(cx)
            && timer.poll_until(at, task).is_ready()
        {
            match expiry {
                Expiry::RequestHeaders => stats.rq_header_timeout.inc(),
                Expiry::Request => stats.rq_timeout.inc(),
                Expiry::Idle => stats.rq_idle_timeout.inc(),
                Expiry::MaxDuration => stats.rq_max_duration_reached.inc(),
                Expiry::Response(_) => {}
            }
            return Poll::Ready(Stop::Expired(expiry));
        }
        let Some((at, what)) = cx.deadline() else {
            return Poll::Pending;
        };
        if timer.poll_until(at, task).is_pending() {
            return Poll::Pending;
        }
        match what {
            Timeout::MaxDuration => {
                stats.cx_max_duration_reached.inc();
                cx.drain();
            }
            Timeout::Idle if cx.watch.head_start.get().is_some() => {
                // Not idle: a head is coming in, under its own deadlines.
                cx.idle_since.set(Instant::now());
            }
            Timeout::Idle => {
                stats.cx_idle_timeout.inc();
                return Poll::Ready(Stop::Close);
            }
            Timeout::DrainedIdle | Timeout::DrainTime => {
                stats.cx_drain_close.inc();
                return Poll::Ready(Stop::Close);
            }
        }
    }
}

/// From time to time. Where the upstream takes no more of a body, the client is not read from, and its end
/// would not be seen; nor does any timeout of the router run before the end of the request.
fn look_for_client(cx: &DownstreamCx, timer: &mut Timer, task: &mut Context<'_>) {
    const INTERVAL: Duration = Duration::from_secs(1);
    let mut receiving = cx.receiving.borrow_mut();
    if let Some((since, activity)) = &mut *receiving {
        if activity.is_request_complete.get() {
            *receiving = None;
        } else if timer.poll_until(*since + INTERVAL, task).is_ready() {
            *since = Instant::now();
            cx.watch.look();
            task.waker().wake_by_ref();
        }
    }
}

/// When a head that has begun to come in must be there.
fn head_deadline(cx: &DownstreamCx) -> Option<(Instant, Expiry)> {
    let start = cx.watch.head_start.get()?;
    let config = &cx.hcm.config;
    [
        (config.request_headers_timeout, Expiry::RequestHeaders),
        (config.request_timeout, Expiry::Request),
        (config.stream_idle_timeout, Expiry::Idle),
        (
            config.max_stream_duration.unwrap_or_default(),
            Expiry::MaxDuration,
        ),
    ]
    .into_iter()
    .filter(|(timeout, _)| !timeout.is_zero())
    .map(|(timeout, expiry)| (start + timeout, expiry))
    .min_by_key(|(at, _)| *at)
}

/// Answers what never became a request, then closes.
async fn refuse(
    mut io: Io<TcpStream>,
    cx: &Rc<DownstreamCx>,
    reply: LocalReply,
    timer: &mut Timer,
) -> End {
    cx.watch.set_between_responses(false);
    let (text, stream) = Stream::new(cx, Version::HTTP_11).refuse(reply);
    let delay = cx.hcm.config.delayed_close_timeout;
    let limit = Instant::now() + delay.max(Duration::from_secs(1));
    let write = async {
        io.write_all(&text).await?;
        io.flush().await
    };
    let written: Result<io::Result<()>, _> = timer.run_until(Some(limit), write).await;
    if let Ok(Ok(())) = written {
        stream.complete();
        close(&mut io, End::Local, delay, timer).await;
    }
    End::Local
}

/// Closes our half and waits a little for the client's, so that what was written last is not lost to
/// a reset.
async fn close(io: &mut Io<TcpStream>, end: End, delay: Duration, timer: &mut Timer) {
    if io.shutdown().await.is_err() || end == End::Remote || delay.is_zero() {
        return;
    }
    let deadline = Instant::now() + delay;
    let drain = async {
        let mut rest = BytesMut::with_capacity(4096);
        while let Ok(count) = io.read_buf(&mut rest).await
            && count > 0
        {
            rest.clear();
        }
    };
    // Whether the client was quick enough does not matter.
    let _in_time = timer.run_until(Some(deadline), drain).await;
}

/// Makes a stream of each request.
struct Streams {
    cx: Rc<DownstreamCx>,
}

impl Service<Request<Incoming>> for Streams {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let stream = Stream::new(&self.cx, request.version());
        self.cx.watch.set_between_responses(false);
        let (parts, body) = request.into_parts();
        let parts = Box::new(parts);
        if !body.is_end_stream() {
            let receiving = (Instant::now(), Rc::clone(&stream.cx.activity));
            *self.cx.receiving.borrow_mut() = Some(receiving);
        }
        let is_invited = parts.version == Version::HTTP_11 && !body.is_end_stream();
        if !is_invited || !self.cx.invites(&parts.headers) {
            return Box::pin(async move { Ok(stream.serve(parts, Body::http1(body)).await) });
        }
        Box::pin(async move {
            let body = invite(body).await;
            Ok(stream.serve(parts, body).await)
        })
    }
}

/// Lets hyper say `100 Continue`: it does when the body is asked for and no response has begun.
async fn invite(mut body: Incoming) -> Body {
    let asked = poll_fn(|task| Poll::Ready(Pin::new(&mut body).poll_frame(task))).await;
    // hyper goes on with its connection before it comes back here.
    tokio::task::yield_now().await;
    match asked {
        Poll::Pending => Body::http1(body),
        Poll::Ready(first) => Body::boxed(Begun {
            first: first.map(|frame| frame.map_err(BodyError::Http1)),
            rest: Body::Http1(body),
        }),
    }
}

/// A body whose first frame was taken already.
struct Begun {
    first: Option<Result<Frame<Bytes>, BodyError>>,
    rest: Body,
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut this.rest).poll_frame(task),
        }
    }
}

/// The text of a response without hyper.
pub(super) fn text_of(response: &Response<Body>) -> BytesMut {
    let mut out = BytesMut::with_capacity(256);
    let status = response.status();
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    for (name, value) in response.headers() {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
    if let Body::Full(body) = response.body() {
        out.put_slice(body);
    }
    out
}
