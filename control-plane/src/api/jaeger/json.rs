//! Stored spans in the JSON of Jaeger's query API, with the tags that OpenTelemetry prescribes for Jaeger.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use outrigger_traces::{StoredSpan, kind_name, value_text};
use serde::Serialize;
use serde_json::Map;

#[derive(Debug, Serialize)]
pub(super) struct Trace {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<Span>,
    processes: Map<String, serde_json::Value>,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    #[serde(skip_serializing_if = "is_zero")]
    flags: u32,
    operation_name: String,
    references: Vec<Reference>,
    start_time: u64,
    duration: u64,
    tags: Vec<Tag>,
    logs: Vec<Log>,
    #[serde(rename = "processID")]
    process_id: String,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: &'static str,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Debug, Serialize)]
struct Tag {
    key: String,
    r#type: &'static str,
    value: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct Log {
    timestamp: u64,
    fields: Vec<Tag>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    service_name: String,
    tags: Vec<Tag>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Operation {
    name: String,
    span_kind: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dependency {
    parent: String,
    child: String,
    call_count: u64,
}

impl Trace {
    pub(super) fn new(trace: &outrigger_traces::Trace) -> Self {
        // Spans of several scopes may share one process.
        let mut known: Vec<&StoredSpan> = Vec::new();
        let mut processes = Map::new();
        let mut spans = Vec::with_capacity(trace.spans.len());
        for stored in &trace.spans {
            let same = |other: &&StoredSpan| {
                std::ptr::eq(&*other.source, &*stored.source)
                    || other.source.resource == stored.source.resource
            };
            let number = known.iter().position(same).unwrap_or_else(|| {
                known.push(stored);
                let process = Process {
                    service_name: stored.source.service.clone(),
                    tags: process_tags(&stored.source.resource.attributes),
                };
                let process = serde_json::to_value(process).unwrap_or_default();
                processes.insert(format!("p{}", known.len()), process);
                known.len() - 1
            });
            spans.push(Span::new(stored, format!("p{}", number + 1)));
        }
        let warnings = trace.truncated.then(|| {
            vec![format!(
                "the trace has more spans than the {} shown",
                trace.spans.len()
            )]
        });
        Self {
            trace_id: trace_id(&trace.id.0),
            spans,
            processes,
            warnings,
        }
    }
}

impl Span {
    fn new(stored: &StoredSpan, process_id: String) -> Self {
        let span = &stored.span;
        let start_time = span.start_time_unix_nano / 1000;
        Self {
            trace_id: trace_id(&span.trace_id),
            span_id: hex(&span.span_id),
            // Only the W3C trace flags have a meaning to Jaeger.
            flags: span.flags & 0xff,
            operation_name: span.name.clone(),
            references: references(span),
            start_time,
            duration: span
                .end_time_unix_nano
                .saturating_sub(span.start_time_unix_nano)
                / 1000,
            tags: span_tags(stored),
            logs: logs(span),
            process_id,
            warnings: warnings(span),
        }
    }
}

impl Tag {
    fn text(key: &str, value: &str) -> Self {
        Self {
            key: key.into(),
            r#type: "string",
            value: value.into(),
        }
    }

    fn new(pair: &KeyValue) -> Self {
        let (r#type, value) = match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::BoolValue(flag)) => ("bool", (*flag).into()),
            Some(Value::IntValue(number)) => ("int64", (*number).into()),
            Some(Value::DoubleValue(number)) if number.is_finite() => ("float64", (*number).into()),
            Some(Value::BytesValue(bytes)) => ("binary", BASE64.encode(bytes).into()),
            _ => ("string", text(pair.value.as_ref())),
        };
        Self {
            key: pair.key.clone(),
            r#type,
            value,
        }
    }
}

impl Operation {
    pub(super) fn new(operation: &outrigger_traces::Operation) -> Self {
        let span_kind = kind_name(operation.kind).unwrap_or_default();
        Self {
            name: operation.name.clone(),
            span_kind,
        }
    }
}

impl Dependency {
    pub(super) fn new(link: &outrigger_traces::Dependency) -> Self {
        Self {
            parent: link.parent.clone(),
            child: link.child.clone(),
            call_count: link.calls,
        }
    }
}

/// Jaeger writes ids of 64 bits without the zeros in front.
pub(super) fn trace_id(bytes: &[u8]) -> String {
    match bytes.strip_prefix(&[0; 8]) {
        Some(low) => hex(low),
        None => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: Option<&AnyValue>) -> serde_json::Value {
    value
        .map_or_else(String::new, |value| value_text(value).into_owned())
        .into()
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn references(span: &OtlpSpan) -> Vec<Reference> {
    let parent = (!span.parent_span_id.is_empty()).then(|| Reference {
        ref_type: "CHILD_OF",
        trace_id: trace_id(&span.trace_id),
        span_id: hex(&span.parent_span_id),
    });
    let links = span.links.iter().map(|link| Reference {
        ref_type: "FOLLOWS_FROM",
        trace_id: trace_id(&link.trace_id),
        span_id: hex(&link.span_id),
    });
    parent.into_iter().chain(links).collect()
}

fn process_tags(attributes: &[KeyValue]) -> Vec<Tag> {
    let others = attributes.iter().filter(|pair| pair.key != "service.name");
    sorted(others.map(Tag::new).collect())
}

fn span_tags(stored: &StoredSpan) -> Vec<Tag> {
    let StoredSpan { source, span } = stored;
    let mut tags: Vec<Tag> = span.attributes.iter().map(Tag::new).collect();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            tags.push(Tag::text(key, value));
        }
    };
    add("otel.scope.name", &source.scope.name);
    add("otel.scope.version", &source.scope.version);
    add("span.kind", kind_name(span.kind()).unwrap_or_default());
    add("w3c.tracestate", &span.trace_state);
    let status = span.status.clone().unwrap_or_default();
    add("otel.status_description", &status.message);
    match status.code() {
        StatusCode::Unset => {}
        StatusCode::Ok => add("otel.status_code", "OK"),
        StatusCode::Error => {
            add("otel.status_code", "ERROR");
            // Jaeger's page marks spans by this tag; one that the application set stays.
            if !tags.iter().any(|tag| tag.key == "error") {
                tags.push(Tag {
                    key: "error".into(),
                    r#type: "bool",
                    value: true.into(),
                });
            }
        }
    }
    sorted(tags)
}

fn sorted(mut tags: Vec<Tag>) -> Vec<Tag> {
    tags.sort_by(|a, b| a.key.cmp(&b.key));
    tags
}

fn logs(span: &OtlpSpan) -> Vec<Log> {
    let log = |event: &opentelemetry_proto::tonic::trace::v1::span::Event| {
        let name = (!event.name.is_empty()).then(|| Tag::text("event", &event.name));
        Log {
            timestamp: event.time_unix_nano / 1000,
            fields: name
                .into_iter()
                .chain(event.attributes.iter().map(Tag::new))
                .collect(),
        }
    };
    span.events.iter().map(log).collect()
}

fn warnings(span: &OtlpSpan) -> Option<Vec<String>> {
    let dropped = [
        ("attributes", span.dropped_attributes_count),
        ("events", span.dropped_events_count),
        ("links", span.dropped_links_count),
    ];
    let warnings: Vec<String> = dropped
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{count} {what} were dropped"))
        .collect();
    (!warnings.is_empty()).then_some(warnings)
}
