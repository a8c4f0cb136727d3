//! OTLP over gRPC: the TraceService.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use outrigger_traces::{IngestError, Store};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::MAX_REQUEST;

/// Exports at once on one connection.
const STREAMS: usize = 64;

pub(super) async fn serve(
    listener: TcpListener,
    store: Store,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let service = TraceServiceServer::new(Receiver { store })
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_REQUEST);
    tonic::transport::Server::builder()
        .concurrency_limit_per_connection(STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .add_service(service)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown)
        .await
        .context("OTLP receiver over gRPC")
}

#[derive(Debug)]
struct Receiver {
    store: Store,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let outcome = self
            .store
            .ingest(request.into_inner())
            .await
            .map_err(status)?;
        Ok(Response::new(super::response(outcome)))
    }
}

fn status(error: IngestError) -> Status {
    match &error {
        IngestError::Busy { retry_after, .. } => {
            // Without RetryInfo exporters take RESOURCE_EXHAUSTED for a final answer.
            let details = ErrorDetails::with_retry_info(Some(*retry_after));
            Status::with_error_details(Code::ResourceExhausted, error.to_string(), details)
        }
        IngestError::Failed(_) | IngestError::Closed => Status::unavailable(error.to_string()),
    }
}
