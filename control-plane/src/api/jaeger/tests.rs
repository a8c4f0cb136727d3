//! The API over a real socket: exact answers, Jaeger's errors, and arbitrary queries.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use outrigger_traces::Limits;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

struct Server {
    addr: SocketAddr,
    client: Client<HttpConnector, Empty<axum::body::Bytes>>,
    _dir: tempfile::TempDir,
}

/// Two services in one trace, as an exporter would send them.
fn export() -> ExportTraceServiceRequest {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    serde_json::from_value(json!({"resourceSpans": [
        {"resource": {"attributes": [text("service.name", "front"), text("zone", "a")]},
         "scopeSpans": [{"scope": {"name": "outrigger", "version": "0.1.0"}, "spans": [{
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "00000000000000a1",
            "name": "GET /", "kind": 3, "flags": 257,
            "startTimeUnixNano": "1700000000000001500", "endTimeUnixNano": "1700000000250001500",
            "attributes": [
                text("url.path", "/"),
                {"key": "http.response.status_code", "value": {"intValue": "503"}},
                {"key": "ratio", "value": {"doubleValue": 0.5}},
                {"key": "cached", "value": {"boolValue": false}},
                {"key": "raw", "value": {"bytesValue": "AQI="}},
                {"key": "list", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "x"}]}}}],
            "events": [{"timeUnixNano": "1700000000100000000", "name": "retry",
                "attributes": [text("why", "reset")]}],
            "links": [{"traceId": "0000000000000000d269b633813fc60c", "spanId": "00000000000000ff"}],
            "droppedAttributesCount": 2,
            "status": {"code": 2, "message": "upstream reset"}}]}]},
        {"resource": {"attributes": [text("service.name", "back")]},
         "scopeSpans": [{"spans": [{
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "00000000000000b2",
            "parentSpanId": "00000000000000a1", "name": "GET /items", "kind": 2,
            "startTimeUnixNano": "1700000000010000000", "endTimeUnixNano": "1700000000020000000",
            "status": {"code": 1}}]}]}
    ]}))
    .unwrap()
}

async fn start() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    store.ingest(export()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(store)).await });
    let client = Client::builder(TokioExecutor::new()).build_http();
    Server {
        addr,
        client,
        _dir: dir,
    }
}

impl Server {
    async fn get(&self, path: &str) -> (u16, Value) {
        let uri = format!("http://{}{path}", self.addr).parse().unwrap();
        let response = self.client.get(uri).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{path}: {body:?}")),
        )
    }
}

fn envelope(data: Value, total: usize) -> Value {
    json!({"data": data, "total": total, "limit": 0, "offset": 0, "errors": null})
}

fn tag(key: &str, kind: &str, value: impl Into<Value>) -> Value {
    json!({"key": key, "type": kind, "value": value.into()})
}

#[tokio::test]
async fn a_trace_has_jaegers_shape() {
    let server = start().await;
    let trace = json!({
        "traceID": "5b8efff798038103d269b633813fc60c",
        "spans": [
            {
                "traceID": "5b8efff798038103d269b633813fc60c",
                "spanID": "00000000000000a1",
                "flags": 1,
                "operationName": "GET /",
                "references": [{"refType": "FOLLOWS_FROM", "traceID": "d269b633813fc60c",
                    "spanID": "00000000000000ff"}],
                "startTime": 1_700_000_000_000_001_u64,
                "duration": 250_000,
                "tags": [
                    tag("cached", "bool", false),
                    tag("error", "bool", true),
                    tag("http.response.status_code", "int64", 503),
                    tag("list", "string", "[1,\"x\"]"),
                    tag("otel.scope.name", "string", "outrigger"),
                    tag("otel.scope.version", "string", "0.1.0"),
                    tag("otel.status_code", "string", "ERROR"),
                    tag("otel.status_description", "string", "upstream reset"),
                    tag("ratio", "float64", 0.5),
                    tag("raw", "binary", "AQI="),
                    tag("span.kind", "string", "client"),
                    tag("url.path", "string", "/"),
                ],
                "logs": [{"timestamp": 1_700_000_000_100_000_u64, "fields": [
                    tag("event", "string", "retry"), tag("why", "string", "reset")]}],
                "processID": "p1",
                "warnings": ["2 attributes were dropped"],
            },
            {
                "traceID": "5b8efff798038103d269b633813fc60c",
                "spanID": "00000000000000b2",
                "operationName": "GET /items",
                "references": [{"refType": "CHILD_OF",
                    "traceID": "5b8efff798038103d269b633813fc60c", "spanID": "00000000000000a1"}],
                "startTime": 1_700_000_000_010_000_u64,
                "duration": 10_000,
                "tags": [
                    tag("otel.status_code", "string", "OK"),
                    tag("span.kind", "string", "server"),
                ],
                "logs": [],
                "processID": "p2",
                "warnings": null,
            },
        ],
        "processes": {
            "p1": {"serviceName": "front", "tags": [tag("zone", "string", "a")]},
            "p2": {"serviceName": "back", "tags": []},
        },
        "warnings": null,
    });
    let expected = envelope(json!([trace]), 0);
    for path in [
        "/api/traces/5b8efff798038103d269b633813fc60c",
        "/api/traces?traceID=5b8efff798038103d269b633813fc60c",
        "/api/traces?service=front&start=1&limit=20&lookback=custom&maxDuration&minDuration",
    ] {
        assert_eq!(server.get(path).await, (200, expected.clone()), "{path}");
    }
}

#[tokio::test]
async fn services_operations_and_dependencies_have_jaegers_shape() {
    let server = start().await;
    let table = [
        ("/api/services", envelope(json!(["back", "front"]), 2)),
        (
            "/api/services/front/operations",
            envelope(json!(["GET /"]), 1),
        ),
        ("/api/services/no%2Fbody/operations", envelope(json!([]), 0)),
        (
            "/api/operations?service=front",
            envelope(json!([{"name": "GET /", "spanKind": "client"}]), 1),
        ),
        (
            "/api/operations?service=front&spanKind=server",
            envelope(json!([]), 0),
        ),
        (
            "/api/dependencies?endTs=1700000001000&lookback=60000",
            envelope(
                json!([{"parent": "front", "child": "back", "callCount": 1}]),
                0,
            ),
        ),
        (
            "/api/dependencies?endTs=1700000001000&lookback=500",
            envelope(json!([]), 0),
        ),
        ("/api/dependencies", envelope(json!([]), 0)),
    ];
    for (path, expected) in table {
        assert_eq!(server.get(path).await, (200, expected), "{path}");
    }
}

#[tokio::test]
async fn searches_use_every_parameter() {
    let server = start().await;
    let table = [
        ("service=front&start=1", true),
        ("service=back&start=1", true),
        // The default goes back two days only.
        ("service=front", false),
        ("service=front&lookback=1h", false),
        ("service=front&lookback=9000d", true),
        ("service=other&start=1", false),
        ("service=front&start=1&operation=GET%20%2F", true),
        ("service=front&start=1&operation=POST", false),
        ("service=front&start=1&end=1700000000000000", false),
        (
            "service=front&start=1700000000000001&end=1700000000000001",
            true,
        ),
        ("service=front&start=1&minDuration=250ms", true),
        ("service=front&start=1&minDuration=251ms", false),
        ("service=front&start=1&maxDuration=249ms", false),
        (
            "service=front&start=1&minDuration=100us&maxDuration=1.5s",
            true,
        ),
        ("service=front&start=1&tag=error:true", true),
        ("service=front&start=1&tag=error:false", false),
        ("service=front&start=1&tag=error:true&tag=url.path:/", true),
        (
            "service=front&start=1&tags=%7B%22http.response.status_code%22%3A%22503%22%7D",
            true,
        ),
        (
            "service=front&start=1&tags=%7B%22http.response.status_code%22%3A503%7D",
            true,
        ),
        (
            "service=front&start=1&tags=%7B%22zone%22%3A%22b%22%7D",
            false,
        ),
    ];
    for (query, found) in table {
        let (status, body) = server.get(&format!("/api/traces?{query}")).await;
        assert_eq!(status, 200, "{query}: {body}");
        assert_eq!(
            body["data"].as_array().unwrap().len(),
            usize::from(found),
            "{query}"
        );
    }
}

#[tokio::test]
async fn errors_are_jaegers() {
    let server = start().await;
    let table = [
        ("/api/traces/1234", 404, "trace not found"),
        ("/api/traces/xyz", 400, "not a hexadecimal number"),
        (
            "/api/traces/015b8efff798038103d269b633813fc60c",
            400,
            "longer than 32 hex characters",
        ),
        ("/api/traces/0", 400, "zero is not a trace id"),
        ("/api/traces", 400, "parameter 'service' is required"),
        (
            "/api/traces?service=",
            400,
            "parameter 'service' is required",
        ),
        (
            "/api/traces?service=a&start=x",
            400,
            "unable to parse param 'start'",
        ),
        (
            "/api/traces?service=a&end=-1",
            400,
            "unable to parse param 'end'",
        ),
        (
            "/api/traces?service=a&limit=many",
            400,
            "unable to parse param 'limit'",
        ),
        (
            "/api/traces?service=a&minDuration=5",
            400,
            "unable to parse param 'minDuration'",
        ),
        (
            "/api/traces?service=a&lookback=soon",
            400,
            "unable to parse param 'lookback'",
        ),
        (
            "/api/traces?service=a&minDuration=2s&maxDuration=1s",
            400,
            "'maxDuration' should be greater than 'minDuration'",
        ),
        (
            "/api/traces?service=a&tag=x",
            400,
            "malformed 'tag' parameter",
        ),
        (
            "/api/traces?service=a&tags=x",
            400,
            "malformed 'tags' parameter",
        ),
        (
            "/api/traces?service=a&tags=%7B%22a%22%3A%5B%5D%7D",
            400,
            "malformed 'tags' parameter",
        ),
        ("/api/operations", 400, "parameter 'service' is required"),
        (
            "/api/operations?service=a&spanKind=x",
            400,
            "unsupported span kind",
        ),
        (
            "/api/dependencies?endTs=x",
            400,
            "unable to parse param 'endTs'",
        ),
        ("/api/metrics/latencies", 404, "no /api/metrics/latencies"),
    ];
    for (path, code, message) in table {
        let (status, body) = server.get(path).await;
        assert_eq!(status, code, "{path}");
        assert_eq!(body["data"], Value::Null, "{path}");
        let error = &body["errors"][0];
        assert_eq!(error["code"], code, "{path}");
        assert!(
            error["msg"].as_str().unwrap().contains(message),
            "{path}: {error}"
        );
    }
    let (status, body) = server.get("/api/traces?traceID=12").await;
    let error = json!([{"code": 404, "msg": "trace not found", "traceID": "0000000000000012"}]);
    assert_eq!(
        (status, &body["errors"], &body["data"]),
        (200, &error, &json!([]))
    );
}

#[test]
fn arbitrary_queries_always_get_an_answer() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(start());
    let name = prop::sample::select(vec![
        "service",
        "operation",
        "tag",
        "tags",
        "minDuration",
        "maxDuration",
        "start",
        "end",
        "lookback",
        "limit",
        "traceID",
        "spanKind",
        "endTs",
    ]);
    let value = prop_oneof![
        "[0-9a-z%.:{}\"&=+-]{0,12}",
        "%[0-9A-F]{2}",
        "[0-9]{1,25}(us|ms|s|d)?"
    ];
    let pairs = prop::collection::vec((name, value), 0..6);
    let path = prop::sample::select(vec!["traces", "operations", "dependencies", "traces/1"]);
    let config = ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..Default::default()
    };
    proptest!(config, |(path in path, pairs in pairs)| {
        let query: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let uri = format!("http://{}/api/{path}?{}", server.addr, query.join("&"));
        // What is no URI at all never reaches the server.
        if let Ok(uri) = uri.replace(['{', '}', '"'], "%7B").parse() {
            let status = runtime.block_on(server.client.get(uri)).unwrap().status().as_u16();
            prop_assert!(matches!(status, 200 | 400 | 404), "{status}");
        }
    });
}
