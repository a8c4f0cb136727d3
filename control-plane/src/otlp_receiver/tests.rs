//! Exports over real sockets: both protocols, every encoding, every refusal, and arbitrary bytes.

use std::io::Write as _;
use std::net::SocketAddr;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use outrigger_traces::{Limits, TraceId};
use proptest::prelude::*;
use prost::Message as _;
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding;
use tonic_types::StatusExt as _;

use super::*;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

struct Receiver {
    grpc: SocketAddr,
    http: SocketAddr,
    store: Store,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    _dir: tempfile::TempDir,
}

async fn start(limits: Limits) -> Receiver {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), limits).unwrap();
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (grpc_addr, http_addr) = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let listeners = Listeners {
        grpc: Some(grpc),
        http: Some(http),
    };
    let serving = serve(listeners, store.clone(), async { drop(stopped.await) });
    Receiver {
        grpc: grpc_addr,
        http: http_addr,
        store,
        client: Client::builder(TokioExecutor::new()).build_http(),
        stop: Some(stop),
        served: tokio::spawn(serving),
        _dir: dir,
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.headers["content-type"], JSON);
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Receiver {
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.http));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.client.request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn post(&self, content_type: &str, body: impl Into<Bytes>) -> Reply {
        self.send(
            Method::POST,
            "/v1/traces",
            &[("content-type", content_type)],
            body,
        )
        .await
    }

    async fn grpc(&self) -> TraceServiceClient<tonic::transport::Channel> {
        TraceServiceClient::connect(format!("http://{}", self.grpc))
            .await
            .unwrap()
    }

    fn has(&self, trace: u128) -> bool {
        self.store
            .trace(TraceId(trace.to_be_bytes()))
            .unwrap()
            .is_some()
    }
}

fn span(trace: u128) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: vec![7; 8],
        name: "op".into(),
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_001_000_000,
        ..Default::default()
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans,
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn spans_come_in_over_grpc_plain_and_gzip() {
    let receiver = start(Limits::default()).await;
    let response = receiver
        .grpc()
        .await
        .export(request(vec![span(1)]))
        .await
        .unwrap();
    assert_eq!(response.into_inner().partial_success, None);
    let mut client = receiver
        .grpc()
        .await
        .send_compressed(CompressionEncoding::Gzip);
    client.export(request(vec![span(2)])).await.unwrap();
    assert!(receiver.has(1) && receiver.has(2));
}

#[tokio::test]
async fn spans_come_in_over_http_in_both_encodings_plain_and_gzip() {
    let receiver = start(Limits::default()).await;
    let reply = receiver
        .post(PROTOBUF, request(vec![span(1)]).encode_to_vec())
        .await;
    assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
    assert_eq!(reply.headers["content-type"], PROTOBUF);

    let json = serde_json::to_vec(&request(vec![span(2)])).unwrap();
    let reply = receiver.post("application/json; charset=utf-8", json).await;
    assert_eq!(
        (reply.status, reply.json()),
        (StatusCode::OK, serde_json::json!({}))
    );

    let headers = [("content-type", PROTOBUF), ("content-encoding", "gzip")];
    let body = gzip(&request(vec![span(3)]).encode_to_vec());
    let reply = receiver
        .send(Method::POST, "/v1/traces", &headers, body)
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(receiver.has(1) && receiver.has(2) && receiver.has(3));
}

/// The shape that OTLP's documentation shows, with what other encoders do: nulls, unknown fields, numbers
/// where others write strings.
#[tokio::test]
async fn json_of_other_encoders_is_understood() {
    let receiver = start(Limits::default()).await;
    let body = r#"{"resourceSpans":[{"resource":{"attributes":[
        {"key":"service.name","value":{"stringValue":"my.service"}},
        {"key":"replicas","value":{"intValue":3}}], "entityRefs": null},
      "scopeSpans":[{"scope":{"name":"my.library","version":"1.0.0"},"unknown":{"a":[1]},
        "spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174",
          "parentSpanId":"","name":"I'm a server span","startTimeUnixNano":"1544712660000000000",
          "endTimeUnixNano":1544712661000000000,"kind":2,"links":null,"status":{},
          "attributes":[{"key":"a","value":{"arrayValue":{"values":[{"doubleValue":1.5},{}]}}}]
        }]}]}]}"#;
    let reply = receiver.post(JSON, body).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    let trace = receiver
        .store
        .trace("5b8efff798038103d269b633813fc60c".parse().unwrap());
    let trace = trace.unwrap().unwrap();
    assert_eq!(trace.spans[0].source.service, "my.service");
    assert_eq!(trace.spans[0].span.name, "I'm a server span");
}

#[tokio::test]
async fn invalid_spans_are_told_as_partial_success() {
    let receiver = start(Limits::default()).await;
    let mixed = || {
        request(vec![
            span(1),
            Span {
                span_id: vec![],
                ..span(1)
            },
        ])
    };
    let why = "rejected spans: 1 × span_id is not 8 bytes";

    let response = receiver
        .grpc()
        .await
        .export(mixed())
        .await
        .unwrap()
        .into_inner();
    let partial = response.partial_success.unwrap();
    assert_eq!(
        (partial.rejected_spans, partial.error_message.as_str()),
        (1, why)
    );

    let reply = receiver
        .post(JSON, serde_json::to_vec(&mixed()).unwrap())
        .await;
    let expected =
        serde_json::json!({"partialSuccess": {"rejectedSpans": "1", "errorMessage": why}});
    assert_eq!((reply.status, reply.json()), (StatusCode::OK, expected));
    assert!(receiver.has(1));
}

/// Name, method, path, headers, body; then the status, the code and a part of the message.
type Refused<'a> = (
    &'a str,
    Method,
    &'a str,
    Vec<(&'a str, &'a str)>,
    Vec<u8>,
    u16,
    i64,
    &'a str,
);

#[tokio::test]
async fn refusals_have_otlps_status_and_body() {
    let receiver = start(Limits::default()).await;
    let large = vec![0_u8; MAX_REQUEST + 1];
    let bomb = gzip(&large);
    let gz = ("content-encoding", "gzip");
    let json = ("content-type", JSON);
    let table: Vec<Refused<'_>> = vec![
        (
            "bad JSON",
            Method::POST,
            "/v1/traces",
            vec![json],
            b"{".to_vec(),
            400,
            3,
            "JSON",
        ),
        (
            "wrong type in JSON",
            Method::POST,
            "/v1/traces",
            vec![json],
            br#"{"resourceSpans":5}"#.to_vec(),
            400,
            3,
            "JSON",
        ),
        (
            "bad gzip",
            Method::POST,
            "/v1/traces",
            vec![json, gz],
            b"abc".to_vec(),
            400,
            3,
            "gzip",
        ),
        (
            "too large",
            Method::POST,
            "/v1/traces",
            vec![json],
            large,
            413,
            8,
            "16777216",
        ),
        (
            "gzip bomb",
            Method::POST,
            "/v1/traces",
            vec![json, gz],
            bomb,
            413,
            8,
            "16777216",
        ),
        (
            "other encoding",
            Method::POST,
            "/v1/traces",
            vec![json, ("content-encoding", "zstd")],
            vec![],
            415,
            3,
            "zstd",
        ),
        (
            "no type",
            Method::POST,
            "/v1/traces",
            vec![],
            vec![],
            415,
            3,
            "application/x-protobuf",
        ),
        (
            "other type",
            Method::POST,
            "/v1/traces",
            vec![("content-type", "text/plain")],
            vec![],
            415,
            3,
            "application/json",
        ),
        (
            "GET",
            Method::GET,
            "/v1/traces",
            vec![],
            vec![],
            405,
            12,
            "POST",
        ),
        (
            "metrics",
            Method::POST,
            "/v1/metrics",
            vec![json],
            vec![],
            404,
            12,
            "/v1/metrics",
        ),
    ];
    for (name, method, path, headers, body, status, code, text) in table {
        let reply = receiver.send(method, path, &headers, body).await;
        assert_eq!(reply.status.as_u16(), status, "{name}");
        let said = reply.json();
        assert_eq!(said["code"], code, "{name}");
        assert!(
            said["message"].as_str().unwrap().contains(text),
            "{name}: {said}"
        );
    }
    let reply = receiver.post(PROTOBUF, vec![0xff_u8; 20]).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.headers["content-type"], PROTOBUF);
    let status = tonic_types::Status::decode(reply.body).unwrap();
    assert_eq!(status.code, 3);
    assert!(status.message.contains("protobuf"), "{}", status.message);

    let mut large = span(1);
    large.name = "x".repeat(MAX_REQUEST);
    let refused = receiver
        .grpc()
        .await
        .export(request(vec![large]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
}

#[tokio::test]
async fn a_full_store_asks_to_send_again() {
    let receiver = start(Limits {
        queue_spans: 1,
        ..Limits::default()
    })
    .await;
    let spans = |trace: u128| {
        let many = (1..=500_u64).map(|id| Span {
            span_id: id.to_be_bytes().to_vec(),
            ..span(trace)
        });
        request(many.collect())
    };
    let (mut grpc_refused, mut http_refused) = (None, None);
    // Enough at once that some find the queue taken; repeated because that is a race.
    for round in 0..100_u128 {
        let client = receiver.grpc().await;
        let exports = (0..8_u128).map(|n| {
            let mut client = client.clone();
            async move { client.export(spans(round * 100 + n + 1)).await }
        });
        let posts = (0..8_u128)
            .map(|n| receiver.post(PROTOBUF, spans(round * 100 + n + 50).encode_to_vec()));
        let (exports, posts) = tokio::join!(
            futures_util::future::join_all(exports),
            futures_util::future::join_all(posts)
        );
        grpc_refused = grpc_refused.or_else(|| exports.into_iter().find_map(Result::err));
        http_refused =
            http_refused.or_else(|| posts.into_iter().find(|reply| !reply.status.is_success()));
        if grpc_refused.is_some() && http_refused.is_some() {
            break;
        }
    }
    let grpc = grpc_refused.expect("some gRPC export is refused");
    assert_eq!(grpc.code(), tonic::Code::ResourceExhausted);
    let retry = grpc
        .get_details_retry_info()
        .expect("RetryInfo makes it retryable");
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
    let http = http_refused.expect("some HTTP export is refused");
    assert_eq!(http.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(http.headers["retry-after"], "1");
    assert!(receiver.store.stats().refused >= 1000);
}

#[tokio::test]
async fn bodies_beyond_the_room_are_refused_and_give_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let router = http::router(http::Receiver::new(store, 1000));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    for (size, status) in [
        (900, 400),
        (1100, 429),
        (900, 400),
        (1100, 429),
        (1000, 400),
    ] {
        let request = Request::post(&uri)
            .header("content-type", JSON)
            .body(Full::new(Bytes::from("x".repeat(size))))
            .unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status(), status, "{size} bytes");
        assert_eq!(
            response.headers().contains_key("retry-after"),
            status == 429
        );
    }
}

#[tokio::test]
async fn a_closed_store_is_unavailable() {
    let receiver = start(Limits::default()).await;
    receiver.store.close();
    let refused = receiver
        .grpc()
        .await
        .export(request(vec![span(1)]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    let reply = receiver
        .post(PROTOBUF, request(vec![span(1)]).encode_to_vec())
        .await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn shutdown_ends_with_idle_connections_open() {
    let mut receiver = start(Limits::default()).await;
    let mut client = receiver.grpc().await;
    client.export(request(vec![span(1)])).await.unwrap();
    receiver
        .post(PROTOBUF, request(vec![span(2)]).encode_to_vec())
        .await;
    receiver.stop.take().unwrap().send(()).unwrap();
    let ended = tokio::time::timeout(GRACE + Duration::from_secs(5), &mut receiver.served).await;
    ended.expect("serving ends").unwrap().unwrap();
}

/// Valid messages with fields of any size, so that arbitrary input gets beyond the decoder.
fn any_span() -> impl Strategy<Value = Span> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    (
        bytes(),
        bytes(),
        bytes(),
        any::<String>(),
        any::<i32>(),
        any::<u64>(),
        any::<u64>(),
    )
        .prop_map(
            |(trace_id, span_id, parent_span_id, name, kind, start, end)| Span {
                trace_id,
                span_id,
                parent_span_id,
                name,
                kind,
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                ..Default::default()
            },
        )
}

fn any_body() -> impl Strategy<Value = (Vec<u8>, &'static str, bool)> {
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        any::<String>().prop_map(String::into_bytes),
        // A valid request, cut and with one byte changed.
        (
            prop::collection::vec(any_span(), 0..4),
            any::<bool>(),
            any::<prop::sample::Index>(),
            any::<u8>()
        )
            .prop_map(|(spans, json, at, byte)| {
                let request = request(spans);
                let mut bytes = if json {
                    serde_json::to_vec(&request).unwrap()
                } else {
                    request.encode_to_vec()
                };
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= byte;
                }
                bytes
            }),
        // Nesting deeper than any decoder should follow.
        (
            1..5000_usize,
            prop::sample::select(vec!["[", "{\"resourceSpans\":[", "{\"a\":"])
        )
            .prop_map(|(depth, open)| open.repeat(depth).into_bytes()),
    ];
    (
        body,
        prop::sample::select(vec![PROTOBUF, JSON]),
        any::<bool>(),
    )
}

#[test]
fn arbitrary_bodies_always_get_an_answer() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let receiver = runtime.block_on(start(Limits::default()));
    let config = ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..Default::default()
    };
    proptest!(config, |((body, content_type, compress) in any_body())| {
        let body = if compress { gzip(&body) } else { body };
        let mut headers = vec![("content-type", content_type)];
        if compress {
            headers.push(("content-encoding", "gzip"));
        }
        let reply = runtime.block_on(receiver.send(Method::POST, "/v1/traces", &headers, body));
        prop_assert!(
            matches!(reply.status.as_u16(), 200 | 400),
            "{}: {:?}", reply.status, reply.body
        );
    });
    runtime.block_on(async {
        receiver
            .grpc()
            .await
            .export(request(vec![span(1)]))
            .await
            .unwrap();
    });
    assert!(receiver.has(1));
}
