//! The store as its users see it: what goes in comes out, through retries, kills, damage and limits.

mod crash;
mod limits;
mod search;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::*;
use crate::model::Trace;

/// A time that spans in tests count from: an hour ago.
pub(super) fn base() -> u64 {
    now_ns() - 3_600_000_000_000
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    any(key, Value::StringValue(value.into()))
}

pub(super) fn any(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    }
}

pub(super) fn trace_id(number: u128) -> TraceId {
    TraceId(number.to_be_bytes())
}

pub(super) fn span(trace: u128, id: u64, name: &str, start: u64, duration: u64) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        name: name.into(),
        kind: SpanKind::Server as i32,
        start_time_unix_nano: start,
        end_time_unix_nano: start + duration,
        ..Default::default()
    }
}

pub(super) fn request(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", service), text("zone", "a")],
                ..Default::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "tests".into(),
                    version: "1".into(),
                    ..Default::default()
                }),
                spans,
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

/// Runs the future on this thread.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

pub(super) fn open(dir: &Path) -> Store {
    Store::open(dir, Limits::default()).unwrap()
}

pub(super) fn put(store: &Store, service: &str, spans: Vec<Span>) -> Outcome {
    now(store.ingest(request(service, spans))).unwrap()
}

/// Waits for a condition, with a deadline far beyond what it needs.
pub(super) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(std::time::Instant::now() < until, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn full_span() -> Span {
    Span {
        parent_span_id: vec![9; 8],
        trace_state: "a=b".into(),
        flags: 0x101,
        attributes: vec![
            text("url.path", "/reviews"),
            any("http.response.status_code", Value::IntValue(503)),
        ],
        events: vec![Event {
            name: "retry".into(),
            time_unix_nano: 5,
            ..Default::default()
        }],
        status: Some(Status {
            code: 2,
            message: "upstream reset".into(),
        }),
        ..span(7, 1, "GET /reviews", base(), 1_500_000)
    }
}

#[test]
fn a_span_comes_back_as_it_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let outcome = put(&store, "reviews", vec![full_span()]);
    assert_eq!(
        outcome,
        Outcome {
            accepted: 1,
            rejected: 0,
            message: String::new()
        }
    );

    let trace = store.trace(trace_id(7)).unwrap().unwrap();
    assert_eq!(trace.spans.len(), 1);
    let sent = full_span();
    let stored = &trace.spans[0];
    // `base` moves with the clock.
    let mut got = stored.span.clone();
    assert_eq!(got.end_time_unix_nano - got.start_time_unix_nano, 1_500_000);
    got.start_time_unix_nano = sent.start_time_unix_nano;
    got.end_time_unix_nano = sent.end_time_unix_nano;
    assert_eq!(got, sent);
    assert_eq!(stored.source.service, "reviews");
    assert_eq!(stored.source.scope.name, "tests");
    assert_eq!(stored.source.resource.attributes[1], text("zone", "a"));
    assert_eq!(store.trace(trace_id(8)).unwrap(), None);
}

#[test]
fn a_retry_of_the_exporter_stores_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let spans = vec![span(1, 1, "a", base(), 1), span(1, 2, "b", base(), 1)];
    for _ in 0..3 {
        assert_eq!(put(&store, "s", spans.clone()).accepted, 2);
    }
    assert_eq!(store.trace(trace_id(1)).unwrap().unwrap().spans.len(), 2);
    let stats = store.stats();
    assert_eq!((stats.stored, stats.duplicates), (2, 4));
}

#[test]
fn invalid_spans_are_counted_and_named_and_the_others_stored() {
    let good = span(1, 1, "a", base(), 1);
    type Break = fn(&mut Span);
    let table: [(&str, Break); 10] = [
        ("trace_id is not 16 bytes", |s| s.trace_id = vec![1; 8]),
        ("trace_id is zero", |s| s.trace_id = vec![0; 16]),
        ("span_id is not 8 bytes", |s| s.span_id = vec![]),
        ("span_id is zero", |s| s.span_id = vec![0; 8]),
        ("parent_span_id is not 8 bytes", |s| {
            s.parent_span_id = vec![1; 3]
        }),
        ("start or end time is missing", |s| {
            s.start_time_unix_nano = 0
        }),
        ("start or end time is missing", |s| s.end_time_unix_nano = 0),
        ("end time is before start time", |s| {
            s.end_time_unix_nano = s.start_time_unix_nano - 1
        }),
        ("time is out of range", |s| s.end_time_unix_nano = u64::MAX),
        ("start time is more than a day in the future", |s| {
            s.start_time_unix_nano += 2 * 24 * 3_600_000_000_000;
            s.end_time_unix_nano = s.start_time_unix_nano;
        }),
    ];
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (reason, spoil) in table {
        let mut bad = span(2, 2, "bad", base(), 1);
        spoil(&mut bad);
        let outcome = put(&store, "s", vec![good.clone(), bad]);
        let message = format!("rejected spans: 1 × {reason}");
        assert_eq!(
            outcome,
            Outcome {
                accepted: 1,
                rejected: 1,
                message
            }
        );
    }
    assert_eq!(store.stats().rejected, 10);
    assert_eq!(store.trace(trace_id(2)).unwrap(), None);
}

#[test]
fn oversized_parts_are_cut_and_counted_and_oversized_spans_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut long = span(1, 1, &"é".repeat(2000), base(), 1);
    long.attributes = (0..300).map(|n| text(&format!("k{n}"), "v")).collect();
    long.attributes[0] = text("k0", &"ü".repeat(20_000));
    put(&store, "s", vec![long]);
    let trace = store.trace(trace_id(1)).unwrap().unwrap();
    let stored = &trace.spans[0].span;
    assert_eq!(stored.attributes.len(), 256);
    assert_eq!(stored.dropped_attributes_count, 44);
    assert_eq!(stored.name, "é".repeat(512) + "…");
    let value = crate::value_text(stored.attributes[0].value.as_ref().unwrap()).into_owned();
    assert_eq!(value, "ü".repeat(8192) + "…");

    let mut huge = span(2, 1, "huge", base(), 1);
    huge.attributes = (0..40)
        .map(|n| text(&format!("k{n}"), &"x".repeat(10_000)))
        .collect();
    let outcome = put(&store, "s", vec![huge]);
    assert_eq!(outcome.message, "rejected spans: 1 × larger than 256 KiB");
}

#[test]
fn a_resource_without_a_name_is_an_unknown_service() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut unnamed = request("x", vec![span(1, 1, "a", base(), 1)]);
    unnamed.resource_spans[0].resource = None;
    now(store.ingest(unnamed)).unwrap();
    assert_eq!(store.services().unwrap(), ["unknown_service"]);
}

#[test]
fn late_spans_join_their_trace() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "front", vec![span(1, 1, "root", base(), 100)]);
    put(&store, "other", vec![span(2, 1, "root", base(), 100)]);
    // Older than the retention by its own time, but it arrives now.
    put(
        &store,
        "late",
        vec![span(1, 2, "late", base() - 48 * 3_600_000_000_000, 10)],
    );
    let trace: Trace = store.trace(trace_id(1)).unwrap().unwrap();
    let names: Vec<_> = trace
        .spans
        .iter()
        .map(|stored| stored.span.name.as_str())
        .collect();
    assert_eq!(names, ["late", "root"]);
}

#[test]
fn a_closed_store_refuses_and_still_answers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "s", vec![span(1, 1, "a", base(), 1)]);
    store.close();
    let refused = now(store.ingest(request("s", vec![span(1, 2, "a", base(), 1)])));
    assert_eq!(refused, Err(IngestError::Closed));
    assert!(store.trace(trace_id(1)).unwrap().is_some());
}

#[test]
fn a_second_store_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = Store::open(dir.path(), Limits::default()).unwrap_err();
    assert!(matches!(error, Error::InUse(_)), "{error}");
    drop(store);
    open(dir.path());
}
