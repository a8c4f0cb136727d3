//! The command against a server on a real socket.

use clap::Parser as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Answers every request by its path and query, one request a connection.
async fn server(answer: fn(&str) -> (u16, serde_json::Value)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut buffer = [0; 1024];
                match socket.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&buffer[..read]),
                }
            }
            let head = String::from_utf8_lossy(&request).into_owned();
            let (status, body) = answer(head.split(' ').nth(1).unwrap_or_default());
            let body = body.to_string();
            let reply = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            drop(socket.write_all(reply.as_bytes()).await);
        }
    });
    url
}

fn jaeger_trace(id: &str, start: u64) -> serde_json::Value {
    json!({
        "traceID": id, "warnings": null,
        "processes": {"p1": {"serviceName": "front"}, "p2": {"serviceName": "back"}},
        "spans": [
            {"traceID": id, "spanID": "b", "operationName": "GET /b", "processID": "p2",
             "references": [{"refType": "CHILD_OF", "traceID": id, "spanID": "a"}],
             "startTime": start + 10, "duration": 20, "tags": [{"key": "error", "value": true}]},
            {"traceID": id, "spanID": "a", "operationName": "GET /", "processID": "p1",
             "references": [], "startTime": start, "duration": 1500, "tags": []}]})
}

fn shop(path: &str) -> (u16, serde_json::Value) {
    let data = match path {
        "/api/services" => json!(["back", "front", "idle one"]),
        "/api/traces/aa" => json!([jaeger_trace("aa", 1_000_000)]),
        _ if path.starts_with("/api/traces?service=front&") => {
            json!([jaeger_trace("aa", 1_000_000), jaeger_trace("bb", 3_000_000)])
        }
        _ if path.starts_with("/api/traces?service=back&") => {
            json!([jaeger_trace("bb", 3_000_000), jaeger_trace("cc", 2_000_000)])
        }
        _ if path.starts_with("/api/traces?service=idle%20one&") => json!([]),
        _ => {
            let errors = json!([{"code": 404, "msg": "trace not found"}]);
            return (404, json!({"data": null, "errors": errors}));
        }
    };
    (
        200,
        json!({"data": data, "total": 0, "limit": 0, "offset": 0, "errors": null}),
    )
}

fn wanted(service: Option<&str>, limit: usize) -> api::Wanted {
    api::Wanted {
        service: service.map(str::to_owned),
        limit,
        since: Duration::from_secs(60),
        min_duration: None,
    }
}

#[tokio::test]
async fn traces_of_all_services_are_merged_newest_first() {
    let api = api::Api::new(&server(shop).await).unwrap();
    let ids = |traces: Vec<waterfall::Trace>| {
        traces.into_iter().map(|trace| trace.id).collect::<Vec<_>>()
    };
    assert_eq!(
        ids(api.newest(&wanted(None, 10), 5_000_000).await.unwrap()),
        ["bb", "cc", "aa"]
    );
    assert_eq!(
        ids(api.newest(&wanted(None, 2), 5_000_000).await.unwrap()),
        ["bb", "cc"]
    );
    assert_eq!(
        ids(api
            .newest(&wanted(Some("front"), 10), 5_000_000)
            .await
            .unwrap()),
        ["bb", "aa"]
    );
}

#[tokio::test]
async fn the_table_names_root_errors_and_age() {
    let api = api::Api::new(&server(shop).await).unwrap();
    let traces = api
        .newest(&wanted(Some("front"), 1), 5_000_000)
        .await
        .unwrap();
    let table = listing::table(&listing::rows(&traces, 65_000_000), 120);
    let cells: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        cells[0],
        [
            "TRACE", "ROOT", "SPANS", "SERVICES", "DURATION", "ERRORS", "AGE"
        ]
    );
    assert_eq!(
        cells[1],
        [
            "bb", "front", "GET", "/", "2", "2", "1.50", "ms", "1", "62s"
        ]
    );
}

#[tokio::test]
async fn the_search_passes_on_time_and_duration() {
    let api = api::Api::new(
        &server(|path| {
            let expected =
                "/api/traces?service=a%2Fb&limit=7&start=40000000&end=100000000&minDuration=1500us";
            assert_eq!(path, expected);
            (200, json!({"data": null}))
        })
        .await,
    )
    .unwrap();
    let wanted = api::Wanted {
        min_duration: Some(Duration::from_micros(1500)),
        ..wanted(Some("a/b"), 7)
    };
    assert!(api.newest(&wanted, 100_000_000).await.unwrap().is_empty());
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let shop = server(shop).await;
    let other = server(|_| (200, json!(["not", "jaeger"]))).await;
    let table = [
        (
            closed.as_str(),
            "aa",
            format!("can't reach the trace API at {closed} (Connection refused"),
        ),
        (closed.as_str(), "aa", "--server URL".to_owned()),
        (
            shop.as_str(),
            "ff",
            format!("{shop}/api/traces/ff: trace not found"),
        ),
        (shop.as_str(), "../x", "is not a trace id".to_owned()),
        (
            other.as_str(),
            "aa",
            "did not answer as Jaeger's query API".to_owned(),
        ),
    ];
    for (url, id, expected) in table {
        let error = api::Api::new(url).unwrap().trace(id).await.unwrap_err();
        assert!(format!("{error:#}").contains(&expected), "{error:#}");
    }
    for url in ["https://x", "ftp://x", "http://x?a=b", "::"] {
        let error = api::Api::new(url).unwrap_err();
        assert!(format!("{error:#}").contains(url), "{error:#}");
    }
}

#[tokio::test]
async fn the_command_runs_from_its_arguments() {
    let url = server(shop).await;
    for more in [
        &["aa"][..],
        &["--limit", "1"],
        &["-o", "json"],
        &["aa", "-o", "yaml"],
    ] {
        let args = Args::try_parse_from(["traces", "--server", &url].iter().chain(more)).unwrap();
        assert_eq!(run(args).await.unwrap(), ExitCode::SUCCESS);
    }
    for wrong in [
        &["--limit", "0"][..],
        &["--since", "soon"],
        &["aa", "--service", "x"],
    ] {
        let error = Args::try_parse_from(["traces"].iter().chain(wrong)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong:?}");
    }
}

#[test]
fn durations_have_one_unit() {
    let table = [
        ("15m", Some(Duration::from_mins(15))),
        ("1.5s", Some(Duration::from_millis(1500))),
        ("2d", Some(Duration::from_hours(48))),
        ("5", None),
        ("h", None),
        ("", None),
        ("1.2.3s", None),
    ];
    for (text, expected) in table {
        assert_eq!(duration(text).ok(), expected, "{text}");
    }
}
