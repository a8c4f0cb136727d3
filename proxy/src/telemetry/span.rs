//! Trace context: read from requests, passed on, and made into spans.

use http::HeaderValue;

/// The span of a stream, and the context that goes on with its requests.
#[derive(Clone, Debug)]
pub struct ActiveSpan {
    /// The trace; never zero.
    pub trace_id: u128,
    /// This span; never zero.
    pub span_id: u64,
    /// The caller's span, if there was one.
    pub parent_id: Option<u64>,
    /// Whether the span is exported.
    pub sampled: bool,
    /// `tracestate` as it came.
    pub tracestate: Option<HeaderValue>,
}
