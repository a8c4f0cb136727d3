//! The one body type that both ends and every filter speak.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::h2_body::H2Body;
use crate::{router::Upgraded, telemetry::stream_info::ResponseFlags};

/// A message body: streamed, never buffered by the proxy itself.
#[derive(Default)]
pub enum Body {
    /// Nothing; the message ends with its head.
    #[default]
    Empty,
    /// Bytes that are already there (local replies).
    Full(Bytes),
    /// From an HTTP/1 connection, either side.
    Http1(hyper::body::Incoming),
    /// From an HTTP/2 connection, either side.
    Http2(H2Body),
    /// None: the host speaks another protocol from now on.
    Upgraded(Box<Upgraded>),
    /// Anything that watches or changes another body.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

/// Why a body ended before its end.
#[derive(Debug)]
pub enum BodyError {
    /// From an HTTP/1 connection.
    Http1(hyper::Error),
    /// From an HTTP/2 stream.
    Http2(h2::Error),
    /// The proxy ended it: a timeout, a limit, a shutdown.
    Ended(&'static str),
    /// The upstream failed after its response had begun, or a time limit of the router passed.
    Upstream {
        /// Response flags to set.
        flags: ResponseFlags,
        /// `%RESPONSE_CODE_DETAILS%` to set.
        details: &'static str,
    },
}

impl Body {
    /// A body of these bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(bytes)
        }
    }

    /// Wraps a body that watches or changes another one.
    #[must_use]
    pub fn boxed(body: impl http_body::Body<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self::Boxed(Box::pin(body))
    }

    /// The body of an HTTP/1 message; [`Body::Empty`] if the head ended the message.
    #[must_use]
    pub fn http1(incoming: hyper::body::Incoming) -> Self {
        if http_body::Body::is_end_stream(&incoming) {
            Self::Empty
        } else {
            Self::Http1(incoming)
        }
    }

    /// The body of an HTTP/2 message; [`Body::Empty`] if the head ended the stream.
    #[must_use]
    pub fn http2(stream: h2::RecvStream, content_length: Option<u64>) -> Self {
        if stream.is_end_stream() {
            Self::Empty
        } else {
            Self::Http2(H2Body::new(stream, content_length))
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty | Self::Upgraded(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Http1(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(BodyError::Http1))),
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Upgraded(_) => true,
            Self::Full(_) => false,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Upgraded(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Http1(_) => "Http1",
            Self::Http2(_) => "Http2",
            Self::Upgraded(_) => "Upgraded",
            Self::Boxed(_) => "Boxed",
        })
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1(error) => error.fmt(f),
            Self::Http2(error) => error.fmt(f),
            Self::Ended(why) | Self::Upstream { details: why, .. } => f.write_str(why),
        }
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Http1(error) => Some(error),
            Self::Http2(error) => Some(error),
            Self::Ended(_) | Self::Upstream { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn full_bodies_give_their_bytes_once() {
        let mut body = Body::full("abc");
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(3));
        assert!(!http_body::Body::is_end_stream(&body));
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "abc");
        assert!(http_body::Body::is_end_stream(&body));
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn no_bytes_is_no_body() {
        assert!(matches!(Body::full(""), Body::Empty));
    }
}
