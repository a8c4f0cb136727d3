//! HTTP/2 bodies: receiving with flow control given back as data is taken, sending as capacity allows.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, SendStream};
use http_body::{Frame, SizeHint};

use super::body::BodyError;

/// The receiving half of an HTTP/2 stream.
#[derive(Debug)]
pub struct H2Body {
    stream: RecvStream,
    /// What the peer said and has not sent yet.
    remaining: Option<u64>,
    is_data_done: bool,
}

impl H2Body {
    /// The body of a message whose head said `content_length`.
    #[must_use]
    pub fn new(stream: RecvStream, content_length: Option<u64>) -> Self {
        Self {
            stream,
            remaining: content_length,
            is_data_done: false,
        }
    }
}

impl http_body::Body for H2Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.is_data_done {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window opens as data is taken: the reader's pace is the sender's.
                    // An error means that the stream is gone, which the next poll reports.
                    drop(this.stream.flow_control().release_capacity(data.len()));
                    if let Some(remaining) = &mut this.remaining {
                        *remaining = remaining.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Http2(error)))),
                None => this.is_data_done = true,
            }
        }
        match ready!(this.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(BodyError::Http2(error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// How sending a body ended without being complete.
#[derive(Debug)]
pub enum SendError {
    /// The body failed; the stream was reset with `INTERNAL_ERROR`.
    Body(BodyError),
    /// The peer reset the stream or the connection ended.
    Stream(h2::Error),
}

/// Sends a body with its trailers; ends the stream. The future takes data from the body only while
/// the peer's window has room, and notices a reset also while the body has nothing.
pub fn send_body<B>(body: B, stream: SendStream<Bytes>) -> SendBody<B> {
    SendBody {
        body,
        stream,
        pending: Bytes::new(),
        sent: 0,
        early: 0,
    }
}

/// [`send_body`] for a stream that was just opened. It has no room before its connection has written the
/// head: a small first chunk does not wait for that, so that both are written at once.
pub fn send_request_body<B>(body: B, stream: SendStream<Bytes>) -> SendBody<B> {
    SendBody {
        early: EARLY,
        ..send_body(body, stream)
    }
}

/// The size of a first chunk that does not wait.
const EARLY: usize = 16 * 1024;

/// A body that can be sent.
pub trait Source: http_body::Body<Data = Bytes, Error = BodyError> + Unpin {}

impl<B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin> Source for B {}

/// Future of [`send_body`]: the number of bytes sent.
#[derive(Debug)]
#[must_use = "a body is sent by polling"]
pub struct SendBody<B> {
    body: B,
    stream: SendStream<Bytes>,
    pending: Bytes,
    sent: u64,
    /// Up to this size, the next chunk is sent whether the window has room or not.
    early: usize,
}

impl<B: Source> Future for SendBody<B> {
    type Output = Result<u64, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if !this.pending.is_empty() {
                ready!(this.poll_send(cx))?;
                if this.body.is_end_stream() && this.pending.is_empty() {
                    return Poll::Ready(Ok(this.sent));
                }
                continue;
            }
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => {
                    if let Poll::Ready(reset) = this.stream.poll_reset(cx) {
                        return Poll::Ready(Err(SendError::Stream(
                            reset.map_or_else(|error| error, h2::Error::from),
                        )));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(None) => {
                    this.stream
                        .send_data(Bytes::new(), true)
                        .map_err(SendError::Stream)?;
                    return Poll::Ready(Ok(this.sent));
                }
                Poll::Ready(Some(Err(error))) => {
                    this.stream.send_reset(h2::Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(SendError::Body(error)));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {
                        if this.body.is_end_stream() {
                            this.stream
                                .send_data(data, true)
                                .map_err(SendError::Stream)?;
                            return Poll::Ready(Ok(this.sent));
                        }
                    }
                    Ok(data) => this.pending = data,
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            this.stream
                                .send_trailers(trailers)
                                .map_err(SendError::Stream)?;
                            return Poll::Ready(Ok(this.sent));
                        }
                    }
                },
            }
        }
    }
}

impl<B: Source> SendBody<B> {
    /// Sends as much of the pending chunk as the window takes; the last piece of the body ends the
    /// stream.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut room = self.stream.capacity();
        if room < self.pending.len() {
            self.stream.reserve_capacity(self.pending.len());
            room = self.stream.capacity();
        }
        if room == 0 && self.pending.len() <= self.early {
            room = self.pending.len();
        }
        self.early = 0;
        while room == 0 {
            room = match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(SendError::Stream(error))),
                // The stream is not sending any more: reset by the peer.
                None => {
                    return Poll::Ready(Err(SendError::Stream(h2::Reason::CANCEL.into())));
                }
            };
        }
        let chunk = self.pending.copy_to_bytes(room.min(self.pending.len()));
        self.sent += chunk.len() as u64;
        let is_end = self.pending.is_empty() && self.body.is_end_stream();
        self.stream
            .send_data(chunk, is_end)
            .map_err(SendError::Stream)?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::http::Body;

    #[tokio::test]
    async fn a_small_request_body_does_not_wait_for_its_connection() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, server) =
            tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let (mut sender, connection) = client.unwrap();
        let mut open = || {
            let request = http::Request::post("http://a/").body(()).unwrap();
            sender.send_request(request, false).unwrap()
        };

        // Nothing drives the connection yet.
        let (_large_response, stream) = open();
        let large = vec![0; EARLY + 1];
        let mut large = send_request_body(Body::full(large), stream);
        assert!((&mut large).now_or_never().is_none());
        let (_response, stream) = open();
        let sent = send_request_body(Body::full("abc"), stream).now_or_never();
        assert!(matches!(sent, Some(Ok(3))), "{sent:?}");

        let (give, take) = oneshot::channel();
        tokio::spawn(connection);
        tokio::spawn(async move {
            let mut server: h2::server::Connection<_, Bytes> = server.unwrap();
            let first = server.accept().await.unwrap().unwrap();
            let second = server.accept().await.unwrap().unwrap();
            give.send((first, second)).unwrap();
            server.accept().await
        });
        let (first, (request, _respond)) = take.await.unwrap();
        let mut body = request.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "abc");
        assert!(body.is_end_stream());
        assert!(matches!(large.await, Ok(sent) if sent == EARLY as u64 + 1));
        drop(first);
    }
}
