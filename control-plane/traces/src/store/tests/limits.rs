//! Age, size and queue bounds; the ingest rate as a measurement.

use super::*;

/// A span of about a kilobyte that does not compress into a pattern of pages.
fn kilobyte(number: u64) -> Span {
    let mut span = span(u128::from(number) + 1, number + 1, "op", base(), 1000);
    span.attributes = vec![text("payload", &format!("{number:01000}"))];
    span
}

fn fill(store: &Store, numbers: std::ops::Range<u64>) {
    for start in numbers.clone().step_by(500) {
        let spans = (start..(start + 500).min(numbers.end))
            .map(kilobyte)
            .collect();
        put(store, "s", spans);
        let bytes = store.stats().bytes;
        let most = store.handle.shared.limits.max_bytes;
        assert!(
            bytes <= most,
            "{bytes} bytes of at most {most} after {start} spans"
        );
    }
}

#[test]
fn old_spans_go_and_the_file_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_age: Duration::from_secs(2),
        ..Limits::default()
    };
    let store = Store::open(dir.path(), limits).unwrap();
    fill(&store, 0..5000);
    let full = store.stats().bytes;
    wait_until("all spans are gone", || store.stats().evicted == 5000);
    wait_until("services are forgotten", || {
        store.services().unwrap().is_empty()
    });
    wait_until("the file shrinks", || {
        let file = std::fs::metadata(dir.path().join("traces.db"))
            .unwrap()
            .len();
        file < full / 4
    });
    // What was pruned is made anew.
    put(&store, "s", vec![kilobyte(1)]);
    assert_eq!(store.services().unwrap(), ["s"]);
    assert_eq!(store.operations("s", None).unwrap().len(), 1);
    let stored = store.trace(trace_id(2)).unwrap().unwrap();
    assert_eq!(stored.spans[0].source.service, "s");
    assert_eq!(stored.spans[0].span.name, "op");
}

#[test]
fn the_files_stay_inside_the_size_and_the_newest_spans_stay() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_bytes: 8 << 20,
        ..Limits::default()
    };
    let store = Store::open(dir.path(), limits).unwrap();
    // 24 MB in all, three times what fits.
    fill(&store, 0..20_000);
    let stats = store.stats();
    assert!(stats.evicted > 10_000, "{stats:?}");
    assert!(
        store.trace(trace_id(1)).unwrap().is_none(),
        "the oldest is gone"
    );
    for number in 18_000..20_000 {
        assert!(
            store.trace(trace_id(number + 1)).unwrap().is_some(),
            "{number} is still there"
        );
    }
    let used = (stats.stored - stats.evicted) * 1000;
    assert!(used > 3 << 20, "most of the room is used: {stats:?}");
}

#[test]
fn one_request_larger_than_a_small_store_still_stays_inside() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_bytes: 4 << 20,
        ..Limits::default()
    };
    let store = Store::open(dir.path(), limits).unwrap();
    let outcome = put(&store, "s", (0..10_000).map(kilobyte).collect());
    assert_eq!(outcome.accepted, 10_000);
    assert!(store.stats().bytes <= 4 << 20, "{:?}", store.stats());
}

#[test]
fn a_full_queue_refuses_whole_requests_and_says_when_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        queue_spans: 1000,
        ..Limits::default()
    };
    let store = Store::open(dir.path(), limits).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (accepted, refused) = runtime.block_on(async {
        let mut sends = Vec::new();
        for round in 0..200_u64 {
            let spans = (round * 100..round * 100 + 100).map(kilobyte).collect();
            let store = store.clone();
            sends.push(async move { store.ingest(request("s", spans)).await });
        }
        let (mut accepted, mut refused) = (0, 0);
        // All are queued before the first is waited for.
        let mut set = tokio::task::JoinSet::new();
        for send in sends {
            set.spawn(send);
        }
        while let Some(result) = set.join_next().await {
            match result.unwrap() {
                Ok(outcome) => accepted += outcome.accepted,
                Err(IngestError::Busy { retry_after, .. }) => {
                    assert!(retry_after > Duration::ZERO);
                    refused += 100;
                }
                Err(other) => panic!("{other}"),
            }
        }
        (accepted, refused)
    });
    let stats = store.stats();
    assert!(refused > 0, "{stats:?}");
    assert_eq!((stats.stored, stats.refused), (accepted as u64, refused));
    assert_eq!(accepted as u64 + refused, 20_000);
    assert_eq!(stats.queued, 0);
}

#[test]
fn limits_that_cannot_work_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for limits in [
        Limits {
            max_bytes: 1000,
            ..Limits::default()
        },
        Limits {
            max_age: Duration::ZERO,
            ..Limits::default()
        },
        Limits {
            queue_spans: 0,
            ..Limits::default()
        },
    ] {
        let error = Store::open(dir.path(), limits).unwrap_err();
        assert!(matches!(error, Error::Limits(_)), "{error}");
    }
}

/// Eviction in the background: what a write waits for it is bounded by a step, not by how much there is to evict.
#[test]
#[ignore = "a measurement: prints how long writes wait while old spans are removed"]
fn write_stalls_during_eviction() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_bytes: 64 << 20,
        ..Limits::default()
    };
    let store = Store::open(dir.path(), limits).unwrap();
    let mut waits = Vec::new();
    for start in (0..300_000_u64).step_by(200) {
        let spans = (start..start + 200).map(realistic).collect();
        let sent = std::time::Instant::now();
        put(&store, "s", spans);
        waits.push(sent.elapsed());
    }
    waits.sort();
    let at = |part: usize| waits[waits.len() * part / 1000];
    println!(
        "200 spans: p50 {:?}, p99 {:?}, p99.9 {:?}, most {:?}; {:?}",
        at(500),
        at(990),
        at(999),
        waits[waits.len() - 1],
        store.stats()
    );
    assert!(store.stats().evicted > 100_000);
    assert!(waits[waits.len() - 1] < Duration::from_secs(1));
}

/// `cargo test --release -p outrigger-traces rate -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: prints the ingest rate"]
fn ingest_rate() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let spans_in_all = 400_000_u64;
    let requests: Vec<_> = (0..spans_in_all)
        .step_by(500)
        .map(|start| {
            let spans = (start..start + 500).map(realistic).collect();
            request(&format!("service-{}", start / 500 % 10), spans)
        })
        .collect();
    let began = std::time::Instant::now();
    let cpu = cpu_seconds();
    let mut slowest = Duration::ZERO;
    for request in requests {
        let sent = std::time::Instant::now();
        now(store.ingest(request)).unwrap();
        slowest = slowest.max(sent.elapsed());
    }
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let stats = store.stats();
    println!(
        "{spans_in_all} spans in {took:.2} s: {:.0} spans/s, {:.0} spans per CPU second; \
         slowest of 500 {slowest:?}; {:.0} bytes each; {stats:?}",
        spans_in_all as f64 / took,
        spans_in_all as f64 / cpu,
        stats.bytes as f64 / (stats.stored - stats.evicted) as f64,
    );
    assert_eq!(stats.stored, spans_in_all);
}

/// Eight spans to a trace, random trace ids, the attributes of an HTTP server span.
fn realistic(number: u64) -> Span {
    let trace = u128::from(number / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let mut span = span(
        trace,
        number + 1,
        "GET /reviews/{id}",
        base() + number * 1000,
        1_000_000,
    );
    span.parent_span_id = (number / 8 * 8 + 1).to_be_bytes().to_vec();
    span.attributes = vec![
        text("http.request.method", "GET"),
        text("url.path", &format!("/reviews/{number}")),
        text("url.scheme", "http"),
        text("server.address", "reviews.shop.svc.cluster.local"),
        any("server.port", Value::IntValue(9080)),
        any("http.response.status_code", Value::IntValue(200)),
        text("network.protocol.version", "1.1"),
        text("user_agent.original", "fortio.org/fortio-1.60"),
        text(
            "upstream_cluster",
            "outbound|9080||reviews.shop.svc.cluster.local",
        ),
        text("response_flags", "-"),
    ];
    span
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
