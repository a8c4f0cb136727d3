use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;
use crate::{config::tracing::Exporter, telemetry::testing};

const LONG: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
struct Collector {
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    is_refusing: bool,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        if self.is_refusing {
            return Err(tonic::Status::invalid_argument("no"));
        }
        self.received.lock().unwrap().push(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector(collector: Collector) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    address
}

fn grpc() -> OpenTelemetry {
    OpenTelemetry {
        service_name: "shop".into(),
        exporter: Exporter::Grpc {
            cluster: "otel|weird name".into(),
            authority: None,
            timeout: LONG,
        },
    }
}

fn span(name: &str) -> Span {
    Span {
        name: name.to_owned(),
        ..Span::default()
    }
}

fn find(address: SocketAddr) -> FindCluster {
    let cluster = testing::cluster("otel|weird name", &[address], &Registry::new(0));
    Box::new(move |name| (name == "otel|weird name").then(|| Arc::clone(&cluster)))
}

fn counted(registry: &Registry) -> (u64, u64) {
    let scope = registry.scope("tracing.opentelemetry");
    (
        scope.counter("spans_sent").value(),
        scope.counter("spans_dropped").value(),
    )
}

#[tokio::test]
async fn spans_reach_a_grpc_collector() {
    let registry = Registry::new(0);
    let received = Collector::default();
    let address = collector(received.clone()).await;
    let (exporters, task) = Exporters::new(&registry);
    tokio::spawn(task.run(find(address)));
    let provider = exporters.provider(&grpc());
    (0..600).for_each(|_| provider.push(span("s")));
    exporters.flush(LONG).await;
    let requests = received.received.lock().unwrap();
    let batches: Vec<usize> = requests
        .iter()
        .map(|request| request.resource_spans[0].scope_spans[0].spans.len())
        .collect();
    assert_eq!(batches.iter().sum::<usize>(), 600);
    assert!(batches.iter().all(|spans| *spans <= 512), "{batches:?}");
    let resource = requests[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(resource.attributes[0].key, "service.name");
    let name = resource.attributes[0].value.clone().unwrap().value.unwrap();
    assert_eq!(name, Value::StringValue("shop".to_owned()));
    assert_eq!(counted(&registry), (600, 0));
}

#[tokio::test]
async fn spans_are_sent_without_being_asked_for() {
    let registry = Registry::new(0);
    let received = Collector::default();
    let address = collector(received.clone()).await;
    let (exporters, task) = Exporters::new(&registry);
    tokio::spawn(task.run(find(address)));
    exporters.provider(&grpc()).push(span("s"));
    let start = std::time::Instant::now();
    while received.received.lock().unwrap().is_empty() {
        assert!(start.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn refused_spans_are_dropped_and_counted() {
    let registry = Registry::new(0);
    let refusing = Collector {
        is_refusing: true,
        ..Collector::default()
    };
    let address = collector(refusing).await;
    let (exporters, task) = Exporters::new(&registry);
    tokio::spawn(task.run(find(address)));
    exporters.provider(&grpc()).push(span("s"));
    exporters.flush(LONG).await;
    assert_eq!(counted(&registry), (0, 1));
}

#[tokio::test]
async fn spans_without_a_collector_are_bounded() {
    let registry = Registry::new(0);
    let (exporters, task) = Exporters::new(&registry);
    tokio::spawn(task.run(Box::new(|_| None)));
    let provider = exporters.provider(&grpc());
    for _ in 0..100 {
        (0..64).for_each(|_| provider.push(span("s")));
        tokio::task::yield_now().await;
    }
    exporters.flush(LONG).await;
    let (sent, dropped) = counted(&registry);
    assert_eq!(sent, 0);
    assert_eq!(dropped, 6400 - 4096);
}

#[tokio::test]
async fn spans_reach_an_http_collector() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let registry = Registry::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            request.extend_from_slice(&buffer[..read]);
            if request.windows(4).any(|window| window == b"shop") {
                break;
            }
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        String::from_utf8_lossy(&request).into_owned()
    });
    let (exporters, task) = Exporters::new(&registry);
    tokio::spawn(task.run(find(address)));
    let config = OpenTelemetry {
        service_name: "shop".into(),
        exporter: Exporter::Http {
            cluster: "otel|weird name".into(),
            authority: "collector:4318".into(),
            path: "/v1/traces".into(),
            timeout: LONG,
            headers: vec![("x-key".into(), "k".into())],
        },
    };
    exporters.provider(&config).push(span("over-http"));
    exporters.flush(LONG).await;
    let request = tokio::time::timeout(LONG, request)
        .await
        .unwrap()
        .unwrap()
        .to_lowercase();
    for part in [
        "post /v1/traces http/1.1",
        "host: collector:4318",
        "content-type: application/x-protobuf",
        "x-key: k",
        "over-http",
    ] {
        assert!(request.contains(part), "{part}: {request}");
    }
    assert_eq!(counted(&registry), (1, 0));
}
