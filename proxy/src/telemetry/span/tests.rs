use std::time::Duration;

use http::{StatusCode, uri::Scheme};
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use proptest::prelude::*;

use super::*;
use crate::{
    config::{
        format::Format,
        tracing::{Exporter, OpenTelemetry},
    },
    telemetry::{format::RequestHead, stats::Registry, testing},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    pairs.iter().map(pair).collect()
}

fn config() -> Tracing {
    Tracing {
        provider: Some(OpenTelemetry {
            service_name: "shop".into(),
            exporter: Exporter::Grpc {
                cluster: "otel".into(),
                authority: None,
                timeout: Duration::from_secs(1),
            },
        }),
        client_sampling: 100.0,
        random_sampling: 100.0,
        overall_sampling: 100.0,
        verbose: false,
        max_path_tag_length: 256,
        custom_tags: Vec::new(),
        spawn_upstream_span: false,
        operation: None,
    }
}

fn tracer(config: Tracing, direction: TrafficDirection) -> Tracer {
    let registry = Registry::new(0);
    let (exporters, _task) = Exporters::new(&registry);
    Tracer::new(
        &Arc::new(config),
        direction,
        &exporters,
        &registry.scope("http.in"),
    )
    .unwrap()
}

fn start(config: Tracing, headers: &mut HeaderMap) -> ActiveSpan {
    let mut info = testing::stream_info();
    tracer(config, TrafficDirection::Inbound).start(headers, &mut info);
    *info.trace.unwrap()
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[test]
fn a_new_trace_starts_without_context() {
    let mut headers = headers(&[("tracestate", "stale=1")]);
    let span = start(config(), &mut headers);
    assert!(span.sampled && span.trace_id != 0 && span.span_id != 0);
    assert_eq!(span.parent_id, None);
    let expected = format!("00-{:032x}-{:016x}-01", span.trace_id, span.span_id);
    assert_eq!(value(&headers, "traceparent"), expected);
    assert!(!headers.contains_key("tracestate") && !headers.contains_key("b3"));
}

#[test]
fn w3c_context_is_continued_and_wins_over_b3() {
    let traceparent = format!("00-{TRACE}-{SPAN}-00");
    let b3 = "11111111111111112222222222222222-3333333333333333-1";
    let mut headers = headers(&[
        ("traceparent", &traceparent),
        ("tracestate", "a=1"),
        ("b3", b3),
    ]);
    let span = start(config(), &mut headers);
    assert_eq!(format!("{:032x}", span.trace_id), TRACE);
    assert_eq!(
        span.parent_id.map(|id| format!("{id:016x}")).as_deref(),
        Some(SPAN)
    );
    assert!(!span.sampled, "the caller decided");
    let id = span.span_id;
    assert_eq!(
        value(&headers, "traceparent"),
        format!("00-{TRACE}-{id:016x}-00")
    );
    assert_eq!(value(&headers, "b3"), format!("{TRACE}-{id:016x}-0-{SPAN}"));
    assert_eq!(value(&headers, "tracestate"), "a=1");
}

#[test]
fn b3_in_several_headers_is_continued() {
    let mut headers = headers(&[
        ("x-b3-traceid", "a3ce929d0e0e4736"),
        ("x-b3-spanid", SPAN),
        ("x-b3-parentspanid", "1111111111111111"),
        ("x-b3-sampled", "1"),
    ]);
    let span = start(config(), &mut headers);
    assert!(span.sampled);
    assert_eq!(
        value(&headers, "x-b3-traceid"),
        "0000000000000000a3ce929d0e0e4736"
    );
    assert_eq!(
        value(&headers, "x-b3-spanid"),
        format!("{:016x}", span.span_id)
    );
    assert_eq!(value(&headers, "x-b3-parentspanid"), SPAN);
    assert_eq!(value(&headers, "x-b3-sampled"), "1");
    assert!(value(&headers, "traceparent").starts_with("00-0000000000000000a3ce929d0e0e4736-"));
}

#[test]
fn a_callers_yes_needs_our_own() {
    let mut never = config();
    never.random_sampling = 0.0;
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let mut headers = headers(&[("traceparent", &traceparent)]);
    let span = start(never, &mut headers);
    assert!(!span.sampled);
    assert!(value(&headers, "traceparent").ends_with("-00"));
}

#[test]
fn b3_in_one_header_may_be_a_decision_alone() {
    for (b3, sampled) in [("0", false), ("1", true), ("d", true)] {
        let mut headers = headers(&[("b3", b3)]);
        assert_eq!(start(config(), &mut headers).sampled, sampled);
        assert!(
            value(&headers, "b3").len() > 32,
            "the new trace is passed on"
        );
    }
}

#[test]
fn bad_context_starts_a_new_trace() {
    for traceparent in [
        "",
        "00",
        &format!("00-{TRACE}-{SPAN}"),
        &format!("ff-{TRACE}-{SPAN}-01"),
        &format!("00-{TRACE}-{SPAN}-01-more"),
        &format!("00-{}-{SPAN}-01", "0".repeat(32)),
        &format!("00-{TRACE}-{}-01", "0".repeat(16)),
        &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        &format!("00-{TRACE}-{SPAN}-0g"),
    ] {
        let span = start(config(), &mut headers(&[("traceparent", traceparent)]));
        assert_eq!(span.parent_id, None, "{traceparent}");
    }
    let later = format!("01-{TRACE}-{SPAN}-01-more");
    assert!(
        start(config(), &mut headers(&[("traceparent", &later)]))
            .parent_id
            .is_some()
    );
}

#[test]
fn sampling_follows_the_request_id() {
    // The first eight digits, modulo 10000, are compared: 0x00000064 is 100, one percent.
    let id = "00000064-7f8f-4185-9489-115a430939d3";
    for (random, overall, reason) in [
        (1.0, 100.0, Reason::NotTraceable),
        (1.01, 100.0, Reason::Sampling),
        (100.0, 1.0, Reason::NotTraceable),
        (100.0, 1.01, Reason::Sampling),
    ] {
        let mut config = config();
        config.random_sampling = random;
        config.overall_sampling = overall;
        let mut headers = headers(&[("x-request-id", id)]);
        let span = start(config, &mut headers);
        assert_eq!(
            span.sampled,
            reason == Reason::Sampling,
            "{random} {overall}"
        );
        let mark = if span.sampled { "9" } else { "4" };
        assert_eq!(value(&headers, "x-request-id").get(14..15), Some(mark));
    }
}

#[test]
fn clients_and_services_can_ask_for_a_trace() {
    let id = "00000064-7f8f-4185-9489-115a430939d3";
    for (name, client, mark) in [
        ("x-client-trace-id", 100.0, "b"),
        ("x-client-trace-id", 0.0, "4"),
        ("x-envoy-force-trace", 0.0, "a"),
    ] {
        let mut config = config();
        config.random_sampling = 0.0;
        config.client_sampling = client;
        let mut headers = headers(&[("x-request-id", id), (name, "x")]);
        assert_eq!(start(config, &mut headers).sampled, mark != "4");
        assert_eq!(
            value(&headers, "x-request-id").get(14..15),
            Some(mark),
            "{name}"
        );
    }
}

#[test]
fn a_marked_request_id_decides() {
    let mut never = config();
    never.random_sampling = 0.0;
    let id = "00000064-7f8f-9185-9489-115a430939d3";
    assert!(start(never, &mut headers(&[("x-request-id", id)])).sampled);
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?;
    found.value.clone()?.value
}

fn text(span: &Span, key: &str) -> String {
    match attribute(span, key) {
        Some(Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    }
}

fn record(config: &Tracing, is_outbound: bool, code: u16) -> (Span, Option<Span>) {
    let mut info = testing::stream_info();
    let mut headers = headers(&[
        ("host", "shop.example:8080"),
        ("user-agent", "curl/8"),
        ("x-tenant", "t1"),
        ("x-request-id", "00000064-7f8f-4185-9489-115a430939d3"),
    ]);
    let tracer = tracer(config.clone(), TrafficDirection::Inbound);
    tracer.start(&mut headers, &mut info);
    info.response_code = StatusCode::from_u16(code).ok();
    info.details = Some("via_upstream".into());
    info.reason = Some("circuit-breaker".into());
    info.flags = super::super::flags::ResponseFlags::UPSTREAM_OVERFLOW;
    info.downstream.last_tx = Some(info.start + Duration::from_millis(5));
    info.upstream.first_tx = Some(info.start + Duration::from_millis(1));
    info.upstream.first_rx = Some(info.start + Duration::from_millis(3));
    info.upstream.cluster = Some(testing::cluster("c", &[], &Registry::new(0)));
    let method = http::Method::POST;
    let cx = Context {
        info: &info,
        request: Some(RequestHead {
            method: &method,
            path: "/a/b?q=1",
            scheme: Scheme::HTTP.as_str(),
            headers: &headers,
        }),
        response: None,
        trailers: None,
    };
    let span = info.trace.as_deref().unwrap();
    let recorder = record::Recorder {
        config,
        route_tags: &[],
        is_outbound,
        span,
        cx: &cx,
        end: SystemTime::now(),
    };
    (
        recorder.own_span(),
        span.upstream_id.and_then(|id| recorder.upstream_span(id)),
    )
}

#[test]
fn a_server_span_has_the_conventions_attributes() {
    let mut config = config();
    let tag = |tag: &str, value| CustomTag {
        tag: tag.into(),
        value,
    };
    let header = |name, default: Option<&str>| CustomTagValue::RequestHeader {
        name: HeaderName::from_static(name),
        default: default.map(Into::into),
    };
    config.custom_tags = vec![
        tag("zone", CustomTagValue::Literal("z1".into())),
        tag("tenant", header("x-tenant", None)),
        tag("absent", header("x-absent", Some("none"))),
        tag("left-out", header("x-absent", None)),
    ];
    let (span, upstream) = record(&config, false, 503);
    assert!(upstream.is_none());
    assert_eq!(span.kind, i32::from(SpanKind::Server));
    assert_eq!(span.name, "POST");
    assert_eq!(
        span.end_time_unix_nano - span.start_time_unix_nano,
        5_000_000
    );
    for (key, expected) in [
        ("http.request.method", "POST"),
        ("url.path", "/a/b"),
        ("url.query", "q=1"),
        ("url.scheme", "http"),
        ("server.address", "shop.example"),
        ("client.address", "10.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "curl/8"),
        ("guid:x-request-id", "00000064-7f8f-9185-9489-115a430939d3"),
        ("upstream_cluster", "c"),
        ("outrigger.response_flags", "UO"),
        ("outrigger.reason", "circuit-breaker"),
        ("error.type", "503"),
        ("zone", "z1"),
        ("tenant", "t1"),
        ("absent", "none"),
    ] {
        assert_eq!(text(&span, key), expected, "{key}");
    }
    assert_eq!(attribute(&span, "server.port"), Some(Value::IntValue(8080)));
    assert_eq!(
        attribute(&span, "http.response.status_code"),
        Some(Value::IntValue(503))
    );
    assert_eq!(attribute(&span, "left-out"), None);
    assert_eq!(span.status.unwrap().code, 2);
    assert!(record(&config, false, 404).0.status.is_none());
}

#[test]
fn an_outbound_listener_makes_a_client_span_or_two_spans() {
    let mut config = config();
    config.operation = Some(Format::parse("op %REQ(:METHOD)%").unwrap());
    let (span, upstream) = record(&config, true, 200);
    assert!(upstream.is_none());
    assert_eq!(span.kind, i32::from(SpanKind::Client));
    assert_eq!(text(&span, "url.full"), "http://shop.example:8080/a/b");
    assert_eq!(span.name, "op POST");

    config.spawn_upstream_span = true;
    let (span, upstream) = record(&config, true, 200);
    let upstream = upstream.unwrap();
    assert_eq!(span.kind, i32::from(SpanKind::Server));
    assert_eq!(upstream.kind, i32::from(SpanKind::Client));
    assert_eq!(upstream.parent_span_id, span.span_id);
    assert_eq!(upstream.trace_id, span.trace_id);
}

#[test]
fn verbose_spans_tell_the_moments_of_their_stream() {
    let mut config = config();
    config.spawn_upstream_span = true;
    assert!(record(&config, true, 200).0.events.is_empty());
    config.verbose = true;
    let (span, upstream) = record(&config, true, 200);
    let moments: Vec<(&str, u64)> = span
        .events
        .iter()
        .map(|event| {
            let since = event.time_unix_nano - span.start_time_unix_nano;
            (event.name.as_str(), since)
        })
        .collect();
    // What did not happen is left out.
    assert_eq!(
        moments,
        [
            ("first_upstream_tx_byte_sent", 1_000_000),
            ("first_upstream_rx_byte_received", 3_000_000),
            ("last_downstream_tx_byte_sent", 5_000_000),
        ]
    );
    assert_eq!(upstream.unwrap().events, span.events);
}

#[test]
fn a_copy_has_a_span_below_its_streams() {
    let mut info = testing::stream_info();
    let mut headers = HeaderMap::new();
    let tracer = tracer(config(), TrafficDirection::Inbound);
    assert!(tracer.mirror(&info, &mut headers, Some(true)).is_none());
    tracer.start(&mut headers, &mut info);
    let own = info.trace.clone().unwrap();
    for sampled in [None, Some(true), Some(false)] {
        let copy = tracer.mirror(&info, &mut headers, sampled).unwrap();
        assert_eq!(copy.trace_id, own.trace_id);
        assert_eq!(copy.parent_id, Some(own.span_id));
        assert_eq!(copy.sampled, sampled.unwrap_or(own.sampled));
        let id = format!("{:016x}", copy.span_id);
        assert!(value(&headers, "traceparent").contains(&id));
    }
}

#[test]
fn a_routes_tags_are_read_when_the_span_starts() {
    let tag = CustomTag {
        tag: "tenant".into(),
        value: CustomTagValue::RequestHeader {
            name: HeaderName::from_static("x-tenant"),
            default: None,
        },
    };
    let headers = headers(&[("x-tenant", "t1")]);
    assert_eq!(tag_value(&tag, &headers).unwrap(), "t1");
    assert_eq!(tag_value(&tag, &HeaderMap::new()), None);
}

#[test]
fn with_a_span_for_the_upstream_that_one_is_passed_on() {
    let mut config = config();
    config.spawn_upstream_span = true;
    let mut headers = HeaderMap::new();
    let span = start(config, &mut headers);
    let id = format!("{:016x}", span.upstream_id.unwrap());
    assert!(value(&headers, "traceparent").contains(&id));
}

proptest! {
    #[test]
    fn any_headers_give_a_context(
        traceparent in "([0-9a-fA-F]{0,34}-){0,4}[ -~]{0,8}",
        b3 in "[0-9a-f]{0,33}(-[0-9a-fd]{0,17}){0,4}",
        trace_id in "[0-9a-zA-Z]{0,40}",
        sampled in "[01dtruefals]{0,5}",
        request_id in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-z]{0,12}",
    ) {
        let mut headers = headers(&[
            ("traceparent", &traceparent),
            ("b3", &b3),
            ("x-b3-traceid", &trace_id),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", &sampled),
            ("x-request-id", &request_id),
        ]);
        let span = start(config(), &mut headers);
        prop_assert!(span.trace_id != 0 && span.span_id != 0);
        // What we pass on is understood by ourselves.
        let next = Incoming::read(&headers);
        prop_assert_eq!(next.parent, Some((span.trace_id, span.span_id)));
        prop_assert_eq!(next.sampled, Some(span.sampled));
    }
}
