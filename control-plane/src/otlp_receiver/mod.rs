//! Takes traces in by OTLP, over gRPC and HTTP, and hands them to the span store.
//!
//! An export is acknowledged when its spans are committed. A full store answers "send again" in the words of
//! each protocol (`RESOURCE_EXHAUSTED` with `RetryInfo`, 429 with `Retry-After`); invalid spans are told as
//! OTLP partial success.

mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::time::Duration;

use outrigger_base::signal;
use outrigger_traces::{Outcome, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};

/// Largest request, as sent and after decompression.
const MAX_REQUEST: usize = 16 << 20;
/// How long open exports may take to finish at shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// Where to take spans in; a protocol without a listener is not served.
#[derive(Debug, Default)]
pub struct Listeners {
    /// OTLP over gRPC, by convention port 4317.
    pub grpc: Option<TcpListener>,
    /// OTLP over HTTP, by convention port 4318.
    pub http: Option<TcpListener>,
}

/// Serves both protocols until `shutdown` is done, then lets open exports finish, for a few seconds at most.
///
/// # Errors
/// When a listener fails.
pub async fn serve(
    listeners: Listeners,
    store: Store,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let grpc = async {
        match listeners.grpc {
            Some(listener) => {
                grpc::serve(listener, store.clone(), signal::stopped(stopped.clone())).await
            }
            None => Ok(()),
        }
    };
    let http = async {
        match listeners.http {
            Some(listener) => {
                http::serve(listener, store.clone(), signal::stopped(stopped.clone())).await
            }
            None => Ok(()),
        }
    };
    let serving = async { tokio::try_join!(grpc, http) };
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result.map(drop),
        () = shutdown => {}
    }
    // Both servers hold a receiver until they end.
    stop.send_replace(true);
    match tokio::time::timeout(GRACE, serving).await {
        Ok(result) => result.map(drop),
        Err(_) => {
            tracing::warn!("OTLP receiver: exports still open after {GRACE:?}, closing");
            Ok(())
        }
    }
}

/// Full success has no `partial_success`: a set one, even if empty, is a warning to exporters.
fn response(outcome: Outcome) -> ExportTraceServiceResponse {
    let partial_success = (outcome.rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: i64::try_from(outcome.rejected).unwrap_or(i64::MAX),
        error_message: outcome.message,
    });
    ExportTraceServiceResponse { partial_success }
}
