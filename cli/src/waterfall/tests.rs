//! What is drawn, for ordinary, broken and hostile traces.

use proptest::prelude::*;

use super::*;

fn span(
    id: &str,
    parent: Option<&str>,
    service: &str,
    operation: &str,
    start: u64,
    end: u64,
) -> Span {
    Span {
        id: id.into(),
        parent: parent.map(str::to_owned),
        service: service.into(),
        operation: operation.into(),
        start_us: 1_700_000_000_000_000 + start,
        duration_us: end - start,
        ..Default::default()
    }
}

fn with(mut span: Span, tags: &[(&str, &str)]) -> Span {
    span.tags = tags
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    span
}

fn trace(spans: Vec<Span>) -> Trace {
    Trace {
        id: "5b8efff798038103d269b633813fc60c".into(),
        spans,
        warnings: Vec::new(),
    }
}

fn shop() -> Trace {
    trace(vec![
        span("a", None, "front", "GET /", 0, 100_000),
        span("b", Some("a"), "front", "reviews", 10_000, 60_000),
        with(
            span("c", Some("b"), "reviews", "GET /reviews", 12_000, 58_000),
            &[
                ("otel.status_code", "ERROR"),
                ("http.response.status_code", "503"),
                ("response_flags", "UO"),
                (
                    "outrigger.reason",
                    "circuit-breaker max_requests=100 TrafficPolicy/shop/reviews",
                ),
            ],
        ),
        span("d", Some("a"), "stock", "GET /stock", 60_000, 60_400),
    ])
}

#[test]
fn characters_that_widen_the_one_before_are_cut_too() {
    // Each `#` is as wide as two columns with the selector behind it.
    let wide = "#\u{fe0f}".repeat(6);
    for room in 1..=12 {
        assert!(text::width(&fit(&wide, room)) <= room, "{room}");
        assert!(text::width(&text::fit_end(&wide, room)) <= room, "{room}");
        for line in text::wrap(&wide, room) {
            assert!(text::width(&line) <= room.max(2), "{room}");
        }
    }
}

#[test]
fn a_trace_is_drawn_as_a_tree_with_bars() {
    let expected = "\
trace 5b8efff798038103d269b633813fc60c · front GET / · 4 spans, 3 services,
100.00 ms · 1 span with an error
                         0                                100.00 ms
front GET /              ██████████████████████████████████████████  100.00 ms
├ front reviews              █████████████████████                    50.00 ms
│ └ reviews GET /reviews      ███████████████████                     46.00 ms ✗
      ↳ status 503 · flags UO · circuit-breaker max_requests=100
      TrafficPolicy/shop/reviews
└ stock GET /stock                                ▏                     400 µs
";
    let drawn = render(&shop(), 80, false);
    assert_eq!(drawn, expected, "\n{drawn}");
}

#[test]
fn colour_changes_nothing_but_colour() {
    let coloured = render(&shop(), 80, true);
    assert!(coloured.contains("\u{1b}["));
    assert_eq!(uncoloured(&coloured), render(&shop(), 80, false));
}

#[test]
fn missing_parents_and_circles_lose_no_span() {
    let broken = trace(vec![
        span("a", Some("gone"), "s", "orphan", 5, 6),
        span("b", Some("c"), "s", "circle-1", 1, 2),
        span("c", Some("b"), "s", "circle-2", 2, 3),
        span("d", Some("d"), "s", "own-parent", 3, 4),
        span("e", None, "s", "twin", 0, 1),
        span("e", None, "s", "twin", 0, 1),
    ]);
    let drawn = render(&broken, 80, false);
    for (name, times) in [
        ("orphan", 1),
        ("circle-1", 1),
        ("circle-2", 1),
        ("own-parent", 1),
        ("s twin", 3),
    ] {
        // The headline names the root too.
        assert_eq!(drawn.matches(name).count(), times, "{name}\n{drawn}");
    }
    assert!(drawn.contains("└ s circle-2"), "{drawn}");
}

#[test]
fn an_empty_trace_and_a_very_deep_one_are_drawn() {
    assert!(render(&trace(Vec::new()), 80, false).contains("0 spans"));
    let deep = (0..5000).map(|n| {
        let parent = (n > 0).then(|| (n - 1).to_string());
        span(
            &n.to_string(),
            parent.as_deref(),
            "svc",
            &format!("op{n}"),
            0,
            10,
        )
    });
    let drawn = render(&trace(deep.collect()), 60, false);
    assert_eq!(
        drawn.lines().filter(|line| line.contains("svc op")).count(),
        5001
    );
    assert_narrow(&drawn, 60);
}

#[test]
fn names_cannot_steer_the_terminal() {
    let hostile = trace(vec![with(
        span(
            "a",
            None,
            "evil\u{1b}[2J",
            "line\nbreak\u{202e}\u{9b}1m",
            0,
            1,
        ),
        &[("outrigger.reason", "x\r\u{1b}]0;title\u{7}")],
    )]);
    let drawn = render(&hostile, 80, false);
    let allowed = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
    assert!(drawn.chars().all(allowed), "{drawn:?}");
}

#[test]
fn durations_are_written_for_people() {
    let table = [
        (0, "0 µs"),
        (999, "999 µs"),
        (1_500, "1.50 ms"),
        (999_000, "999.00 ms"),
        (1_000_000, "1.00 s"),
        (90_000_000, "1.5 min"),
        (7_200_000_000, "2.0 h"),
        (u64::MAX, "> 9999 d"),
    ];
    for (micros, expected) in table {
        assert_eq!(duration(micros), expected);
    }
}

#[test]
fn jaegers_json_is_read() {
    let value = serde_json::json!({
        "traceID": "1", "warnings": ["incomplete"],
        "processes": {"p1": {"serviceName": "front", "tags": []}},
        "spans": [{
            "traceID": "1", "spanID": "b", "operationName": "GET /", "processID": "p1",
            "references": [
                {"refType": "CHILD_OF", "traceID": "2", "spanID": "x"},
                {"refType": "FOLLOWS_FROM", "traceID": "1", "spanID": "y"},
                {"refType": "CHILD_OF", "traceID": "1", "spanID": "a"}],
            "startTime": 5, "duration": 7, "logs": [],
            "tags": [{"key": "error", "type": "bool", "value": true},
                     {"key": "code", "type": "int64", "value": 503}]}]});
    let trace = Trace::from_jaeger(&value).unwrap();
    let span = &trace.spans[0];
    assert_eq!(
        (span.service.as_str(), span.parent.as_deref()),
        ("front", Some("a"))
    );
    assert_eq!((span.start_us, span.end_us()), (5, 12));
    assert_eq!(span.tag("code"), Some("503"));
    assert!(span.is_error());
    assert_eq!(trace.warnings, ["incomplete"]);
    assert!(Trace::from_jaeger(&serde_json::json!({"traceID": 1})).is_err());
}

fn uncoloured(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            let _code: String = chars.by_ref().take_while(|c| *c != 'm').collect();
        } else {
            plain.push(c);
        }
    }
    plain
}

fn assert_narrow(drawn: &str, width: usize) {
    for line in drawn.lines() {
        let columns = unicode_width::UnicodeWidthStr::width(line);
        assert!(
            columns <= width,
            "{columns} columns, {width} allowed: {line:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_trace_is_drawn_wider_than_asked(
        spans in prop::collection::vec(
            ("[a-e]", prop::option::of("[a-e]"), any::<String>(), any::<String>(),
             any::<u64>(), any::<u64>(), any::<String>(), any::<bool>()),
            0..12,
        ),
        width in 0..200_usize,
        colour in any::<bool>(),
    ) {
        let spans: Vec<Span> = spans
            .into_iter()
            .map(|(id, parent, service, operation, start_us, duration_us, reason, error)| Span {
                id,
                parent,
                service,
                operation,
                start_us,
                duration_us,
                tags: [("outrigger.reason".to_owned(), reason), ("error".to_owned(), error.to_string())].into(),
            })
            .collect();
        let count = spans.len();
        let drawn = uncoloured(&render(&trace(spans), width, colour));
        assert_narrow(&drawn, width.max(MIN_WIDTH));
        prop_assert!(drawn.lines().count() > count);
    }
}
