//! Requests for another protocol, and an HTTP/1 connection after both sides switched to it: bytes both ways,
//! as they come, until one side closes or time is up.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, StatusCode, Version, header, request::Parts};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    Body, DownstreamCx, LocalReply, StreamCx, Upgrade,
    activity::Expiry,
    connection::{End, Timeout},
    headers::Seen,
    io::Io,
    stream::{Outcome, Stream},
};
use crate::{
    config::{route::Action, upgrade::is_allowed},
    router,
    telemetry::stream_info::ResponseFlags,
    worker::Timer,
};

/// What one side may be ahead of the other.
const BUFFER: usize = 16 * 1024;

/// A stream whose connections speak another protocol now.
#[derive(Debug)]
pub(super) struct Switched {
    pub(super) stream: Box<Stream>,
    pub(super) upstream: Box<router::Upgraded>,
}

/// What ended it.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Client,
    Host,
    Expired(Expiry),
    Drained,
}

/// Notes that the request asks for another protocol. Its headers stay, and it has no end.
pub(super) fn begin(cx: &mut StreamCx, headers: &HeaderMap, seen: &mut Seen) {
    seen.connection = false;
    seen.upgrade = false;
    let is_websocket = headers
        .get(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    cx.upgrade = match is_websocket {
        true => Upgrade::WebSocket,
        false => Upgrade::Other,
    };
    let timeout = cx.hcm().config.request_timeout;
    let deadline = (!timeout.is_zero()).then(|| cx.info.start + timeout);
    cx.activity.reopen_request(deadline);
}

/// Whether the connection may switch to the protocol that the request asks for.
///
/// # Errors
/// The answer if not.
pub(super) fn check(cx: &StreamCx, parts: &Parts, body: &Body) -> Result<(), LocalReply> {
    let hcm = cx.hcm();
    let protocol = parts
        .headers
        .get(header::UPGRADE)
        .map_or(&b""[..], |protocol| protocol.as_bytes());
    let of_route = match cx.matched.as_ref().map(|matched| &matched.route.action) {
        Some(Action::Forward(forward)) => &forward.upgrades[..],
        _ => &[],
    };
    let is_http11 = parts.version == Version::HTTP_11;
    if !is_http11 || !is_allowed(of_route, &hcm.config.upgrades, protocol) {
        hcm.stats.rq_ws_on_non_ws_route.inc();
        let protocol = String::from_utf8_lossy(protocol);
        return Err(
            LocalReply::new(StatusCode::FORBIDDEN, "", "upgrade_failed").with_reason(format!(
                "the upgrade to {protocol} is not enabled here (upgrade_configs)"
            )),
        );
    }
    // Where it ended, hosts could take the other protocol for its body, or the reverse.
    if !matches!(body, Body::Empty) {
        return Err(
            LocalReply::new(StatusCode::BAD_REQUEST, "", "upgrade_failed")
                .with_reason("a request for another protocol that has a body"),
        );
    }
    Ok(())
}

/// Relays until the end, and finishes the stream's record. `read` came from the client already.
pub(super) async fn relay(
    io: &mut Io<TcpStream>,
    read: Bytes,
    switched: Switched,
    cx: &Rc<DownstreamCx>,
    timer: &mut Timer,
) -> End {
    let Switched {
        mut stream,
        mut upstream,
    } = switched;
    let activity = Rc::clone(&stream.cx.activity);
    // Only until here: what follows has no end that could be late.
    activity.request_deadline.set(None);
    let ended = match upstream.socket().await {
        None => Ended::Host,
        Some(mut host) => {
            let received = Rc::clone(&stream.cx.info.bytes_received);
            let sent = &stream.cx.info.bytes_sent;
            let mut up = Pipe::new(read, |count| {
                activity.touch();
                received.set(received.get() + count);
            });
            let mut down = Pipe::new(host.read, |count| {
                activity.touch();
                sent.set(sent.get() + count);
            });
            poll_fn(|task| {
                if let Poll::Ready(side) = down.poll(task, &mut host.io, io) {
                    return Poll::Ready(side.of(Ended::Host, Ended::Client));
                }
                if let Poll::Ready(side) = up.poll(task, io, &mut host.io) {
                    return Poll::Ready(side.of(Ended::Client, Ended::Host));
                }
                if let Poll::Ready(expiry) = activity.poll_expired(timer, task) {
                    return Poll::Ready(Ended::Expired(expiry));
                }
                cx.bell.remember(task.waker());
                poll_connection(cx, timer, task).map(|()| Ended::Drained)
            })
            .await
        }
    };
    match ended {
        Ended::Host => {
            let outcome = Outcome::Failed(
                ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
                "upstream_reset_after_response_started{connection_termination}",
            );
            stream.finish(&outcome, None);
            End::Local
        }
        Ended::Expired(expiry) => {
            match expiry {
                Expiry::Response(_) => upstream.expire(),
                _ => upstream.close(),
            }
            stream.finish(&Outcome::Downstream, None);
            End::Local
        }
        Ended::Drained => {
            upstream.close();
            stream.finish(&Outcome::Downstream, None);
            End::Local
        }
        Ended::Client => {
            upstream.close();
            stream.finish(&Outcome::Downstream, None);
            cx.was_in_use.set(true);
            End::Remote
        }
    }
}

/// Ready when the connection's own time is over.
fn poll_connection(cx: &DownstreamCx, timer: &mut Timer, task: &mut Context<'_>) -> Poll<()> {
    let stats = &cx.hcm.stats;
    while let Some((at, what)) = cx.deadline() {
        ready!(timer.poll_until(at, task));
        match what {
            Timeout::MaxDuration => {
                stats.cx_max_duration_reached.inc();
                cx.drain();
            }
            Timeout::DrainTime => {
                stats.cx_drain_close.inc();
                return Poll::Ready(());
            }
            // It has a stream.
            Timeout::Idle | Timeout::DrainedIdle => cx.idle_since.set(Instant::now()),
        }
    }
    Poll::Pending
}

/// Which side of a pipe is closed.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Reader,
    Writer,
}

impl Side {
    fn of<T>(&self, reader: T, writer: T) -> T {
        match self {
            Self::Reader => reader,
            Self::Writer => writer,
        }
    }
}

/// One direction. It reads only what it can write: whoever is fast waits for the other.
struct Pipe<F> {
    /// Read, and not yet written: what was there at the beginning, then a part of `buffer`.
    first: Bytes,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    is_ended: bool,
    /// Is told what was read.
    note: F,
}

impl<F: FnMut(u64)> Pipe<F> {
    fn new(first: Bytes, mut note: F) -> Self {
        if !first.is_empty() {
            note(first.len() as u64);
        }
        Self {
            first,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            is_ended: false,
            note,
        }
    }

    /// Moves what can be moved. Ready when one side is closed; what the reader had said before went out.
    fn poll(
        &mut self,
        task: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Side> {
        loop {
            while !self.pending().is_empty() {
                match ready!(Pin::new(&mut *writer).poll_write(task, self.pending())) {
                    Ok(count) if count > 0 => self.advance(count),
                    Ok(_) | Err(_) => return Poll::Ready(Side::Writer),
                }
            }
            if self.is_ended {
                return Poll::Ready(Side::Reader);
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            let result = ready!(Pin::new(&mut *reader).poll_read(task, &mut buffer));
            (self.start, self.end) = (0, buffer.filled().len());
            if result.is_err() || self.end == 0 {
                self.is_ended = true;
            } else {
                (self.note)(self.end as u64);
            }
        }
    }

    fn pending(&self) -> &[u8] {
        match self.first.is_empty() {
            false => &self.first,
            true => self.buffer.get(self.start..self.end).unwrap_or_default(),
        }
    }

    fn advance(&mut self, count: usize) {
        match self.first.is_empty() {
            false => self.first.advance(count),
            true => self.start += count,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_goes_first_and_the_rest_is_not_piled_up() {
        let (mut client, mut reader) = duplex(64 * 1024);
        let (mut writer, mut host) = duplex(1024);
        let mut counted = 0;
        let mut pipe = Pipe::new(Bytes::from_static(b"first "), |count| counted += count);
        client.write_all(&[b'x'; 40_000]).await.unwrap();
        let mut task = Context::from_waker(std::task::Waker::noop());
        assert!(pipe.poll(&mut task, &mut reader, &mut writer).is_pending());
        drop(client);
        let mut seen = Vec::new();
        let relay = async {
            let side = poll_fn(|task| pipe.poll(task, &mut reader, &mut writer)).await;
            drop(writer);
            side
        };
        let (side, read) = tokio::join!(relay, host.read_to_end(&mut seen));
        assert_eq!(side, Side::Reader);
        assert_eq!(read.unwrap(), 40_006);
        assert!(seen.starts_with(b"first xxx"));
        assert_eq!(counted, 40_006);
    }

    #[tokio::test]
    async fn no_more_than_a_buffer_is_read_for_who_takes_nothing() {
        let (mut client, mut reader) = duplex(64 * 1024);
        let (mut writer, _host) = duplex(1);
        let mut counted = 0;
        let mut pipe = Pipe::new(Bytes::new(), |count| counted += count);
        client.write_all(&[b'x'; 60_000]).await.unwrap();
        for _ in 0..10 {
            let mut task = Context::from_waker(std::task::Waker::noop());
            assert!(pipe.poll(&mut task, &mut reader, &mut writer).is_pending());
        }
        assert_eq!(counted, BUFFER as u64);
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_is_told_apart() {
        let (_client, mut reader) = duplex(64);
        let (mut writer, host) = duplex(64);
        drop(host);
        let mut pipe = Pipe::new(Bytes::from_static(b"lost"), |_| {});
        let side = poll_fn(|task| pipe.poll(task, &mut reader, &mut writer)).await;
        assert_eq!(side, Side::Writer);
    }
}
