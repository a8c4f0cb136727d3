//! What a search finds, as a table, and the catalog queries.

use super::*;

/// Three traces, a second apart: 1 is fast, 2 slow with an error, 3 by another service only.
fn filled(dir: &Path) -> (Store, u64) {
    let store = open(dir);
    let base = base();
    let at = |seconds: u64| base + seconds * 1_000_000_000;
    let mut slow = span(2, 1, "GET /a", at(1), 900_000_000);
    slow.status = Some(Status {
        code: 2,
        message: "boom".into(),
    });
    slow.attributes = vec![
        text("user", "ann"),
        any("http.response.status_code", Value::IntValue(503)),
        any("cached", Value::BoolValue(true)),
        any("ratio", Value::DoubleValue(0.5)),
    ];
    slow.events = vec![Event {
        name: "retry".into(),
        attributes: vec![text("try", "2")],
        ..Default::default()
    }];
    let mut fast = span(1, 1, "GET /a", at(0), 10_000_000);
    fast.attributes = vec![text("user", "bob")];
    let mut client = span(2, 2, "call", at(1) + 1000, 5_000_000);
    client.kind = SpanKind::Client as i32;
    client.parent_span_id = 1_u64.to_be_bytes().to_vec();
    put(&store, "front", vec![fast, slow, client]);
    let mut back = span(2, 3, "GET /b", at(1) + 2000, 4_000_000);
    back.parent_span_id = 2_u64.to_be_bytes().to_vec();
    put(
        &store,
        "back",
        vec![back, span(3, 1, "GET /b", at(2), 20_000_000)],
    );
    (store, base)
}

#[test]
fn searches_find_what_meets_every_condition_on_one_span() {
    let dir = tempfile::tempdir().unwrap();
    let (store, base) = filled(dir.path());
    let front = || Query {
        service: Some("front".into()),
        limit: 10,
        ..Default::default()
    };
    let tag = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let ms = Duration::from_millis;
    let table: Vec<(&str, Query, &[u128])> = vec![
        ("service", front(), &[2, 1]),
        (
            "no service",
            Query {
                limit: 10,
                ..Default::default()
            },
            &[3, 2, 1],
        ),
        (
            "unknown service",
            Query {
                service: Some("x".into()),
                ..front()
            },
            &[],
        ),
        (
            "limit takes the newest",
            Query {
                limit: 1,
                ..front()
            },
            &[2],
        ),
        (
            "limit 0",
            Query {
                limit: 0,
                ..front()
            },
            &[],
        ),
        (
            "operation",
            Query {
                operation: Some("call".into()),
                ..front()
            },
            &[2],
        ),
        (
            "operation of another service",
            Query {
                operation: Some("GET /b".into()),
                ..front()
            },
            &[],
        ),
        (
            "min duration",
            Query {
                min_duration: Some(ms(11)),
                ..front()
            },
            &[2],
        ),
        (
            "min duration is inclusive",
            Query {
                min_duration: Some(ms(900)),
                ..front()
            },
            &[2],
        ),
        (
            "max duration",
            Query {
                max_duration: Some(ms(4)),
                ..front()
            },
            &[],
        ),
        (
            "durations, operation: same span",
            Query {
                max_duration: Some(ms(5)),
                operation: Some("GET /a".into()),
                ..front()
            },
            &[],
        ),
        (
            "start",
            Query {
                start: Some(base + 1_000_000_000),
                ..front()
            },
            &[2],
        ),
        (
            "end is inclusive",
            Query {
                end: Some(base),
                ..front()
            },
            &[1],
        ),
        (
            "end before all",
            Query {
                end: Some(base - 1),
                ..front()
            },
            &[],
        ),
        (
            "text tag",
            Query {
                tags: tag("user", "ann"),
                ..front()
            },
            &[2],
        ),
        (
            "text tag, other value",
            Query {
                tags: tag("user", "an"),
                ..front()
            },
            &[],
        ),
        (
            "int tag",
            Query {
                tags: tag("http.response.status_code", "503"),
                ..front()
            },
            &[2],
        ),
        (
            "bool tag",
            Query {
                tags: tag("cached", "true"),
                ..front()
            },
            &[2],
        ),
        (
            "double tag",
            Query {
                tags: tag("ratio", "0.5"),
                ..front()
            },
            &[2],
        ),
        (
            "resource tag",
            Query {
                tags: tag("zone", "a"),
                ..front()
            },
            &[2, 1],
        ),
        (
            "event tag",
            Query {
                tags: tag("try", "2"),
                ..front()
            },
            &[2],
        ),
        (
            "event name",
            Query {
                tags: tag("event", "retry"),
                ..front()
            },
            &[2],
        ),
        (
            "error",
            Query {
                tags: tag("error", "true"),
                ..front()
            },
            &[2],
        ),
        (
            "status",
            Query {
                tags: tag("otel.status_code", "ERROR"),
                ..front()
            },
            &[2],
        ),
        (
            "kind",
            Query {
                tags: tag("span.kind", "client"),
                ..front()
            },
            &[2],
        ),
        (
            "scope",
            Query {
                tags: tag("otel.scope.name", "tests"),
                ..front()
            },
            &[2, 1],
        ),
        (
            "tags on different spans do not add up",
            Query {
                tags: [tag("user", "ann"), tag("span.kind", "client")].concat(),
                ..front()
            },
            &[],
        ),
        (
            "tags on the same span do",
            Query {
                tags: [tag("user", "ann"), tag("span.kind", "server")].concat(),
                ..front()
            },
            &[2],
        ),
        (
            "injection is only text",
            Query {
                service: Some("' OR 1=1 --".into()),
                ..front()
            },
            &[],
        ),
    ];
    for (name, query, expected) in table {
        let found = store.search(&query).unwrap();
        let ids: Vec<u128> = found
            .traces
            .iter()
            .map(|trace| u128::from_be_bytes(trace.id.0))
            .collect();
        assert_eq!(ids, expected, "{name}");
        assert_eq!(found.left_out, 0);
    }
}

#[test]
fn found_traces_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(dir.path());
    let query = Query {
        service: Some("front".into()),
        operation: Some("call".into()),
        limit: 5,
        ..Default::default()
    };
    let found = store.search(&query).unwrap();
    assert_eq!(found.traces[0].spans.len(), 3);
    assert_eq!(found.traces[0].spans[2].source.service, "back");
}

#[test]
fn services_operations_and_dependencies_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, base) = filled(dir.path());
    assert_eq!(store.services().unwrap(), ["back", "front"]);
    let names = |kind| {
        let operations = store.operations("front", kind).unwrap();
        operations
            .into_iter()
            .map(|operation| operation.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["GET /a", "call"]);
    assert_eq!(names(Some(SpanKind::Client)), ["call"]);
    assert_eq!(names(Some(SpanKind::Producer)), Vec::<String>::new());
    assert_eq!(store.operations("nobody", None).unwrap(), []);

    let link = Dependency {
        parent: "front".into(),
        child: "back".into(),
        calls: 1,
    };
    assert_eq!(store.dependencies(base, now_ns()).unwrap(), [link]);
    assert_eq!(store.dependencies(0, base).unwrap(), []);
}
