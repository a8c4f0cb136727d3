//! The response's body on its way to the codec. It takes the stream along and ends its record exactly
//! once: complete, failed, or dropped because the client went away.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::{
    Body, BodyError,
    stream::{Outcome, Stream},
};
use crate::telemetry::stream_info::ResponseFlags;

/// A body that knows its stream.
#[derive(Debug)]
pub struct ResponseBody {
    body: Body,
    /// None if the connection is switched to another protocol after the head, and goes on with the stream.
    stream: Option<Box<Stream>>,
    /// The codec never asks for it: the answer to HEAD.
    is_bodyless: bool,
    drops_trailers: bool,
}

impl ResponseBody {
    pub(super) fn new(
        body: Body,
        stream: Box<Stream>,
        is_bodyless: bool,
        drops_trailers: bool,
    ) -> Self {
        Self {
            body,
            stream: Some(stream),
            is_bodyless,
            drops_trailers,
        }
    }

    /// None: the connection leaves HTTP.
    pub(super) fn none() -> Self {
        Self {
            body: Body::Empty,
            stream: None,
            is_bodyless: true,
            drops_trailers: false,
        }
    }

    /// Nobody takes the body any more.
    pub(super) fn abandon(mut self) {
        if let Some(stream) = &mut self.stream {
            stream.finish(&Outcome::Downstream, None);
        }
    }

    fn note(&mut self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        match frame {
            None => stream.finish(&Outcome::Complete, None),
            Some(Err(error)) => {
                let (flags, details) = describe(error);
                stream.finish(&Outcome::Failed(flags, details), None);
            }
            Some(Ok(frame)) => {
                stream.cx.activity.touch();
                if let Some(data) = frame.data_ref() {
                    let sent = &stream.cx.info.bytes_sent;
                    sent.set(sent.get() + data.len() as u64);
                    if self.body.is_end_stream() {
                        stream.finish(&Outcome::Complete, None);
                    }
                } else {
                    stream.finish(&Outcome::Complete, frame.trailers_ref());
                }
            }
        }
    }
}

/// What is noted of a body that failed.
fn describe(error: &BodyError) -> (ResponseFlags, &'static str) {
    match error {
        BodyError::Upstream { flags, details } => (*flags, details),
        BodyError::Http1(_) => (
            ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            "upstream_reset_after_response_started{connection_termination}",
        ),
        BodyError::Http2(_) => (
            ResponseFlags::UPSTREAM_REMOTE_RESET,
            "upstream_reset_after_response_started{remote_reset}",
        ),
        BodyError::Ended(why) => (ResponseFlags::LOCAL_RESET, why),
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.note(frame.as_ref());
        if this.drops_trailers && matches!(&frame, Some(Ok(frame)) if frame.is_trailers()) {
            return Poll::Ready(None);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let is_all_sent = self.is_all_sent();
        let Some(stream) = &mut self.stream else {
            return;
        };
        // Codecs drop what is known to be empty, and what may not be sent, without asking for it.
        let is_complete = self.is_bodyless
            || self.body.is_end_stream()
            || stream.cx.info.response_code.is_some_and(|status| {
                status == http::StatusCode::NO_CONTENT || status == http::StatusCode::NOT_MODIFIED
            })
            || is_all_sent;
        if is_complete {
            stream.finish(&Outcome::Complete, None);
        }
    }
}

impl ResponseBody {
    /// HTTP/1 stops asking once the announced length is sent.
    fn is_all_sent(&self) -> bool {
        self.body.size_hint().exact() == Some(0)
    }
}
