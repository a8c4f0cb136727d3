//! From an OTLP request to rows: every span is checked, cut to the caps, and encoded here, on the
//! request's thread, so that the writer only inserts. Pure: the time comes in as an argument.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// A longer list of attributes, events or links is cut, and the cut counted as OpenTelemetry does.
const MAX_ATTRIBUTES: usize = 256;
const MAX_EVENTS: usize = 256;
const MAX_LINKS: usize = 256;
/// Longer text values and names are cut.
const MAX_TEXT: usize = 16 * 1024;
const MAX_NAME: usize = 1024;
/// A span that is still larger when encoded is rejected, as is a resource.
const MAX_SPAN: usize = 256 * 1024;
const MAX_SOURCE: usize = 64 * 1024;
/// How far ahead of our clock a span may start: clocks differ, but a day is no skew.
const MAX_AHEAD_NS: u64 = 24 * 3600 * 1_000_000_000;

/// The service name of a resource that has none.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// What one request brought, ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) sources: Vec<SourceRows>,
    pub(crate) spans: usize,
    pub(crate) bytes: usize,
    pub(crate) rejected: Rejected,
}

/// The rows of one resource and scope.
#[derive(Debug)]
pub(crate) struct SourceRows {
    pub(crate) service: String,
    pub(crate) resource: Vec<u8>,
    pub(crate) scope: Vec<u8>,
    pub(crate) rows: Vec<Row>,
}

/// One span; `body` holds what the columns do not.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    pub(crate) parent_id: Option<[u8; 8]>,
    pub(crate) name: String,
    pub(crate) kind: i32,
    pub(crate) start: i64,
    pub(crate) duration: i64,
    pub(crate) body: Vec<u8>,
}

/// Rejected spans, counted by reason.
#[derive(Debug, Default)]
pub(crate) struct Rejected(BTreeMap<&'static str, usize>);

impl Rejected {
    pub(crate) fn count(&self) -> usize {
        self.0.values().sum()
    }

    /// What to tell the exporter; empty when nothing was rejected.
    pub(crate) fn message(&self) -> String {
        let mut text = String::new();
        for (reason, count) in &self.0 {
            let lead = if text.is_empty() {
                "rejected spans: "
            } else {
                "; "
            };
            text.push_str(&format!("{lead}{count} × {reason}"));
        }
        text
    }

    fn add(&mut self, reason: &'static str, count: usize) {
        *self.0.entry(reason).or_default() += count;
    }
}

/// Checks and encodes a request; `now` is Unix time in nanoseconds.
pub(crate) fn prepare(request: ExportTraceServiceRequest, now: u64) -> Batch {
    let mut batch = Batch::default();
    for resource_spans in request.resource_spans {
        let mut resource = resource_spans.resource.unwrap_or_default();
        cut_resource(&mut resource);
        let service = service_name(&resource);
        let encoded = resource.encode_to_vec();
        for scope_spans in resource_spans.scope_spans {
            if scope_spans.spans.is_empty() {
                continue;
            }
            let mut scope = scope_spans.scope.unwrap_or_default();
            cut_scope(&mut scope);
            let scope = scope.encode_to_vec();
            if encoded.len() + scope.len() > MAX_SOURCE {
                let reason = "resource and scope larger than 64 KiB";
                batch.rejected.add(reason, scope_spans.spans.len());
                continue;
            }
            let mut rows = Vec::with_capacity(scope_spans.spans.len());
            for span in scope_spans.spans {
                match row(span, now) {
                    Ok(row) => {
                        batch.bytes += row.body.len() + row.name.len() + size_of::<Row>();
                        rows.push(row);
                    }
                    Err(reason) => batch.rejected.add(reason, 1),
                }
            }
            if rows.is_empty() {
                continue;
            }
            batch.spans += rows.len();
            batch.bytes += encoded.len() + scope.len();
            batch.sources.push(SourceRows {
                service: service.clone(),
                resource: encoded.clone(),
                scope,
                rows,
            });
        }
    }
    batch
}

fn row(mut span: Span, now: u64) -> Result<Row, &'static str> {
    let trace_id: [u8; 16] = span
        .trace_id
        .as_slice()
        .try_into()
        .map_err(|_| "trace_id is not 16 bytes")?;
    if trace_id == [0; 16] {
        return Err("trace_id is zero");
    }
    let span_id: [u8; 8] = span
        .span_id
        .as_slice()
        .try_into()
        .map_err(|_| "span_id is not 8 bytes")?;
    if span_id == [0; 8] {
        return Err("span_id is zero");
    }
    let parent_id = match span.parent_span_id.as_slice() {
        [] => None,
        bytes => {
            let id: [u8; 8] = bytes
                .try_into()
                .map_err(|_| "parent_span_id is not 8 bytes")?;
            (id != [0; 8]).then_some(id)
        }
    };
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    if start == 0 || end == 0 {
        return Err("start or end time is missing");
    }
    if end < start {
        return Err("end time is before start time");
    }
    if start > now.saturating_add(MAX_AHEAD_NS) {
        return Err("start time is more than a day in the future");
    }
    // `now` fits an i64 until the year 2262, so only the end can be too large.
    let (Ok(start), Ok(_)) = (i64::try_from(start), i64::try_from(end)) else {
        return Err("time is out of range");
    };
    let duration = i64::try_from(end).map_or(0, |end| end - start);

    let mut name = std::mem::take(&mut span.name);
    cut_text(&mut name, MAX_NAME);
    let kind = span.kind() as i32;
    cut_span(&mut span);
    span.kind = 0;
    span.trace_id = Vec::new();
    span.span_id = Vec::new();
    span.parent_span_id = Vec::new();
    span.start_time_unix_nano = 0;
    span.end_time_unix_nano = 0;
    if span.encoded_len() > MAX_SPAN {
        return Err("larger than 256 KiB");
    }
    let body = span.encode_to_vec();
    Ok(Row {
        trace_id,
        span_id,
        parent_id,
        name,
        kind,
        start,
        duration,
        body,
    })
}

fn service_name(resource: &Resource) -> String {
    resource
        .attributes
        .iter()
        .find(|pair| pair.key == "service.name")
        .and_then(|pair| pair.value.as_ref())
        .map(|value| {
            let mut name = crate::tags::value_text(value).into_owned();
            cut_text(&mut name, MAX_NAME);
            name
        })
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| UNKNOWN_SERVICE.to_owned())
}

fn cut_resource(resource: &mut Resource) {
    let cut = cut_attributes(&mut resource.attributes);
    resource.dropped_attributes_count = resource.dropped_attributes_count.saturating_add(cut);
}

fn cut_scope(scope: &mut InstrumentationScope) {
    cut_text(&mut scope.name, MAX_NAME);
    cut_text(&mut scope.version, MAX_NAME);
    let cut = cut_attributes(&mut scope.attributes);
    scope.dropped_attributes_count = scope.dropped_attributes_count.saturating_add(cut);
}

fn cut_span(span: &mut Span) {
    let cut = cut_attributes(&mut span.attributes);
    span.dropped_attributes_count = span.dropped_attributes_count.saturating_add(cut);
    let cut = cut_list(&mut span.events, MAX_EVENTS);
    span.dropped_events_count = span.dropped_events_count.saturating_add(cut);
    let cut = cut_list(&mut span.links, MAX_LINKS);
    span.dropped_links_count = span.dropped_links_count.saturating_add(cut);
    for event in &mut span.events {
        cut_text(&mut event.name, MAX_NAME);
        let cut = cut_attributes(&mut event.attributes);
        event.dropped_attributes_count = event.dropped_attributes_count.saturating_add(cut);
    }
    for link in &mut span.links {
        let cut = cut_attributes(&mut link.attributes);
        link.dropped_attributes_count = link.dropped_attributes_count.saturating_add(cut);
    }
    cut_text(&mut span.trace_state, MAX_NAME);
    if let Some(status) = &mut span.status {
        cut_text(&mut status.message, MAX_TEXT);
    }
}

fn cut_attributes(attributes: &mut Vec<KeyValue>) -> u32 {
    let cut = cut_list(attributes, MAX_ATTRIBUTES);
    for pair in attributes {
        cut_text(&mut pair.key, MAX_NAME);
        // Texts inside lists and maps are only bounded by the span's whole size.
        if let Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) = &mut pair.value
        {
            cut_text(text, MAX_TEXT);
        }
    }
    cut
}

fn cut_list<T>(list: &mut Vec<T>, most: usize) -> u32 {
    let cut = list.len().saturating_sub(most);
    list.truncate(most);
    u32::try_from(cut).unwrap_or(u32::MAX)
}

fn cut_text(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
}
