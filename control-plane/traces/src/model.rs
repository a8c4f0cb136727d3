//! What the store answers with: traces made of stored spans, operations, dependencies, and the
//! query that selects them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// The 16 bytes that name a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub [u8; 16]);

/// Text that is not a trace id: 1 to 32 hexadecimal digits, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTraceId {
    /// More than 32 digits.
    #[error("longer than 32 hex characters")]
    TooLong,
    /// Empty, or a character that is no hexadecimal digit.
    #[error("not a hexadecimal number")]
    NotHex,
    /// Zero is OpenTelemetry's "no trace".
    #[error("zero is not a trace id")]
    Zero,
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for TraceId {
    type Err = InvalidTraceId;

    /// Shorter ids are padded with zeros on the left, as 64-bit ids of B3 are.
    fn from_str(text: &str) -> Result<Self, InvalidTraceId> {
        if text.len() > 32 {
            return Err(InvalidTraceId::TooLong);
        }
        // `from_str_radix` alone would let a sign through.
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidTraceId::NotHex);
        }
        match u128::from_str_radix(text, 16) {
            Ok(0) => Err(InvalidTraceId::Zero),
            Ok(id) => Ok(Self(id.to_be_bytes())),
            Err(_) => Err(InvalidTraceId::NotHex),
        }
    }
}

/// Who made a span: the resource (with its service) and the instrumentation scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The resource's `service.name`, or `unknown_service`.
    pub service: String,
    /// The resource as it was sent.
    pub resource: Resource,
    /// The scope as it was sent.
    pub scope: InstrumentationScope,
}

/// One span with its source, complete again as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSpan {
    /// Shared by all spans of one source in one answer: compare with `Arc::ptr_eq`.
    pub source: Arc<Source>,
    /// The span, with ids, name, kind and times.
    pub span: Span,
}

/// All stored spans of one trace, by start time.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The trace's id.
    pub id: TraceId,
    /// Never empty.
    pub spans: Vec<StoredSpan>,
    /// The trace has more spans than one answer may hold.
    pub truncated: bool,
}

/// A span name of a service, with its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// The span name.
    pub name: String,
    /// The span kind.
    pub kind: SpanKind,
}

/// How often spans of one service had a parent span of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// The calling service.
    pub parent: String,
    /// The called service.
    pub child: String,
    /// Calls in the asked time.
    pub calls: u64,
}

/// Which traces to find: those with a span that meets every condition at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The span's service; any when `None`.
    pub service: Option<String>,
    /// The span's name; any when `None`.
    pub operation: Option<String>,
    /// Attributes of the span, its resource or its events that must have these values, compared as text;
    /// also `span.kind`, `error`, `otel.status_code` and the other names that Jaeger derives.
    pub tags: Vec<(String, String)>,
    /// Shortest duration, inclusive.
    pub min_duration: Option<Duration>,
    /// Longest duration, inclusive.
    pub max_duration: Option<Duration>,
    /// Earliest start in nanoseconds of Unix time, inclusive.
    pub start: Option<u64>,
    /// Latest start in nanoseconds of Unix time, inclusive.
    pub end: Option<u64>,
    /// Most traces to return.
    pub limit: usize,
}

/// The traces that a search found, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The traces, whole.
    pub traces: Vec<Trace>,
    /// Matching traces left out because the answer would hold too many spans.
    pub left_out: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_are_read_as_jaeger_reads_them() {
        let id: TraceId = "5B8EFFF798038103D269B633813FC60C".parse().unwrap();
        assert_eq!(id.to_string(), "5b8efff798038103d269b633813fc60c");
        let short: TraceId = "d269b633813fc60c".parse().unwrap();
        assert_eq!(short.to_string(), "0000000000000000d269b633813fc60c");
        for (text, why) in [
            ("", InvalidTraceId::NotHex),
            ("xyz", InvalidTraceId::NotHex),
            ("+1", InvalidTraceId::NotHex),
            ("é", InvalidTraceId::NotHex),
            ("0000", InvalidTraceId::Zero),
            (
                "015b8efff798038103d269b633813fc60c",
                InvalidTraceId::TooLong,
            ),
        ] {
            assert_eq!(text.parse::<TraceId>(), Err(why), "{text}");
        }
    }
}
