//! The only place that makes a response ourselves.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;

use crate::telemetry::stream_info::ResponseFlags;

/// An answer of the proxy itself; every one says why.
pub struct LocalReply {
    /// Status for HTTP; for gRPC it is mapped.
    pub status: StatusCode,
    /// Text; may be empty.
    pub body: Bytes,
    /// More headers (`location`, `x-envoy-overloaded` …).
    pub headers: SmallVec<[(HeaderName, HeaderValue); 1]>,
    /// Envoy's response flags.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// `x-outrigger-reason`: object, rule and limit; none for plain answers such as redirects.
    pub reason: Option<Box<str>>,
}

impl LocalReply {
    /// A reply without flags, headers and reason.
    #[must_use]
    pub fn new(
        status: StatusCode,
        body: impl Into<Bytes>,
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            body: body.into(),
            headers: SmallVec::new(),
            flags: ResponseFlags::default(),
            details: details.into(),
            reason: None,
        }
    }

    /// With these response flags.
    #[must_use]
    pub fn with_flags(mut self, flags: ResponseFlags) -> Self {
        self.flags = flags;
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With a text for `x-outrigger-reason`.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Box<str>>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl fmt::Debug for LocalReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalReply")
            .field("status", &self.status)
            .field("details", &self.details)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}
