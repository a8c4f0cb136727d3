//! Trace context in headers: W3C `traceparent`, B3 in one header and in several.
//!
//! W3C wins where both came. What goes on is W3C, and B3 in the forms in which it came, so that
//! neighbours of either kind stay in one trace.

use std::io::Write;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::ActiveSpan;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static B3: HeaderName = HeaderName::from_static("b3");
static B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
static B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
static B3_PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Which forms of B3 came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) b3_single: bool,
    pub(super) b3_multi: bool,
}

/// Trace context of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    /// Trace and span of the caller.
    pub(super) parent: Option<(u128, u64)>,
    /// The caller's decision, if it made one.
    pub(super) sampled: Option<bool>,
    pub(super) tracestate: Option<HeaderValue>,
    pub(super) forms: Forms,
}

impl Incoming {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let forms = Forms {
            b3_single: headers.contains_key(&B3),
            b3_multi: [&B3_TRACE_ID, &B3_SAMPLED, &B3_FLAGS]
                .into_iter()
                .any(|name| headers.contains_key(name)),
        };
        if let Some((trace_id, span_id, sampled)) = only(headers, &TRACEPARENT).and_then(w3c) {
            return Self {
                parent: Some((trace_id, span_id)),
                sampled: Some(sampled),
                tracestate: headers.get(&TRACESTATE).cloned(),
                forms,
            };
        }
        let single = only(headers, &B3).and_then(b3_single);
        let (parent, sampled) = single.or_else(|| b3_multi(headers)).unwrap_or_default();
        Self {
            parent,
            sampled,
            tracestate: None,
            forms,
        }
    }
}

/// The value of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value.as_bytes())
}

/// `00-<trace>-<span>-<flags>`; later versions may go on after a dash.
fn w3c(value: &[u8]) -> Option<(u128, u64, bool)> {
    let (version, rest) = field(value.trim_ascii(), 2)?;
    let (trace_id, rest) = field(dash(rest)?, 32)?;
    let (span_id, rest) = field(dash(rest)?, 16)?;
    let (flags, rest) = field(dash(rest)?, 2)?;
    let is_whole = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    let span_id = u64::try_from(span_id).ok()?;
    (is_whole && trace_id != 0 && span_id != 0).then_some((trace_id, span_id, flags & 1 == 1))
}

/// A lower-case hexadecimal number of exactly this many digits, and what follows.
fn field(text: &[u8], digits: usize) -> Option<(u128, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    if number.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    Some((hex(number)?, rest))
}

fn dash(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b"-")
}

fn hex(text: &[u8]) -> Option<u128> {
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    text.iter().try_fold(0_u128, |number, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some(number << 4 | u128::from(digit))
    })
}

type B3Context = (Option<(u128, u64)>, Option<bool>);

fn b3_ids(trace_id: &[u8], span_id: &[u8]) -> Option<(u128, u64)> {
    if !matches!(trace_id.len(), 16 | 32) || span_id.len() != 16 {
        return None;
    }
    let (trace_id, span_id) = (hex(trace_id)?, u64::try_from(hex(span_id)?).ok()?);
    (trace_id != 0 && span_id != 0).then_some((trace_id, span_id))
}

fn b3_sampled(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// `<trace>-<span>[-<sampled>[-<parent>]]`, or a decision alone.
fn b3_single(value: &[u8]) -> Option<B3Context> {
    let mut parts = value.trim_ascii().split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(span_id) = parts.next() else {
        return Some((None, Some(b3_sampled(first)?)));
    };
    let ids = b3_ids(first, span_id)?;
    let sampled = match parts.next() {
        Some(sampled) => Some(b3_sampled(sampled)?),
        None => None,
    };
    Some((Some(ids), sampled))
}

fn b3_multi(headers: &HeaderMap) -> Option<B3Context> {
    let debug = only(headers, &B3_FLAGS).is_some_and(|flags| flags == b"1");
    let sampled = match debug {
        true => Some(true),
        false => only(headers, &B3_SAMPLED).and_then(b3_sampled),
    };
    let ids = only(headers, &B3_TRACE_ID)
        .zip(only(headers, &B3_SPAN_ID))
        .and_then(|(trace_id, span_id)| b3_ids(trace_id, span_id));
    (ids.is_some() || sampled.is_some()).then_some((ids, sampled))
}

/// Writes the context for the upstream.
pub(super) fn write(span: &ActiveSpan, headers: &mut HeaderMap) {
    let id = span.upstream_id.unwrap_or(span.span_id);
    let parent = match span.upstream_id {
        Some(_) => Some(span.span_id),
        None => span.parent_id,
    };
    let sampled = u8::from(span.sampled);
    let trace_id = span.trace_id;
    set(
        headers,
        &TRACEPARENT,
        format_args!("00-{trace_id:032x}-{id:016x}-{sampled:02x}"),
    );
    if span.tracestate.is_none() {
        // It belonged to a trace that ended here.
        headers.remove(&TRACESTATE);
    }
    if span.forms.b3_single {
        match parent {
            Some(parent) => set(
                headers,
                &B3,
                format_args!("{trace_id:032x}-{id:016x}-{sampled}-{parent:016x}"),
            ),
            None => set(
                headers,
                &B3,
                format_args!("{trace_id:032x}-{id:016x}-{sampled}"),
            ),
        }
    }
    if span.forms.b3_multi {
        set(headers, &B3_TRACE_ID, format_args!("{trace_id:032x}"));
        set(headers, &B3_SPAN_ID, format_args!("{id:016x}"));
        set(headers, &B3_SAMPLED, format_args!("{sampled}"));
        match parent {
            Some(parent) => set(headers, &B3_PARENT_ID, format_args!("{parent:016x}")),
            None => drop(headers.remove(&B3_PARENT_ID)),
        }
    }
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: std::fmt::Arguments<'_>) {
    let mut text = Vec::with_capacity(80);
    // Writing to a Vec cannot fail, and digits and dashes make a header value.
    let _infallible = text.write_fmt(value);
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(text)) {
        headers.insert(name.clone(), value);
    }
}
