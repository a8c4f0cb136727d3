//! How a stream goes on after a filter, and what it keeps for one.

use std::fmt;

use futures_util::future::LocalBoxFuture;
use http::HeaderMap;

use crate::{http::LocalReply, telemetry::stream_info::StreamInfo};

/// How a stream goes on after a filter.
pub enum Flow {
    /// With the next one.
    Continue,
    /// With this answer; no later filter sees the request.
    Reply(LocalReply),
    /// With what the future says. Only who waits allocates. It is dropped when the client goes away or
    /// a time limit passes.
    Wait(LocalBoxFuture<'static, Self>),
    /// With the next one; the stream keeps this to its end. (Who need not wait gives it to
    /// [`StreamCx::keep`](crate::http::StreamCx::keep).)
    Keep(Box<dyn Kept>),
}

/// What a stream keeps to its end for a filter: a permit, a gauge. It is dropped with the stream's
/// record finished, whichever way the stream ended.
pub trait Kept: fmt::Debug {
    /// The stream is over; its trailers are those of the response.
    fn finish(&mut self, info: &StreamInfo, trailers: Option<&HeaderMap>) {
        let _ = (info, trailers);
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Reply(reply) => f.debug_tuple("Reply").field(reply).finish(),
            Self::Wait(_) => f.write_str("Wait"),
            Self::Keep(kept) => f.debug_tuple("Keep").field(kept).finish(),
        }
    }
}
