//! The exporter of finished spans: Envoy's OpenTelemetry tracer, over gRPC or HTTP.
//!
//! Spans wait in a buffer of their thread and travel in lumps through one bounded channel to the main
//! thread, which batches them for each provider and sends them through the provider's cluster. What
//! does not fit or cannot be delivered is dropped and counted (`tracing.opentelemetry.spans_dropped`).

mod buffer;
mod client;
mod task;

use std::{fmt, sync::Arc, time::Duration};

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::{mpsc, oneshot};

use super::stats::{Counter, Registry};
use crate::{config::tracing::OpenTelemetry, upstream};

pub use buffer::flush_thread;
pub use task::Task;

/// Lumps of spans that may wait for the main thread.
const MAX_LUMPS: usize = 256;

/// Finds a cluster in the configuration of now.
pub type FindCluster = Box<dyn Fn(&str) -> Option<Arc<upstream::Cluster>> + Send + Sync>;

/// The way to the exporter. Clones share it.
#[derive(Clone, Debug)]
pub struct Exporters(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Message>,
    stats: Stats,
}

#[derive(Clone, Debug)]
struct Stats {
    spans_sent: Counter,
    spans_dropped: Counter,
    timer_flushed: Counter,
}

#[derive(Debug)]
enum Message {
    Spans(Arc<OpenTelemetry>, Vec<Span>),
    Flush(oneshot::Sender<()>),
}

impl Exporters {
    /// The exporter, and the task that the main thread must run for it.
    #[must_use]
    pub fn new(registry: &Registry) -> (Self, Task) {
        let scope = registry.scope("tracing.opentelemetry");
        let stats = Stats {
            spans_sent: scope.counter("spans_sent"),
            spans_dropped: scope.counter("spans_dropped"),
            timer_flushed: scope.counter("timer_flushed"),
        };
        let (queue, messages) = mpsc::channel(MAX_LUMPS);
        let task = Task::new(messages, stats.clone());
        (Self(Arc::new(Shared { queue, stats })), task)
    }

    /// Where spans of this configuration go.
    #[must_use]
    pub fn provider(&self, config: &OpenTelemetry) -> Provider {
        Provider(Arc::new(Destination {
            config: Arc::new(config.clone()),
            shared: Arc::clone(&self.0),
        }))
    }

    /// Waits until every span that threads handed over is sent or given up, but not longer than `limit`.
    /// Threads hand over when they end, and by [`flush_thread`].
    pub async fn flush(&self, limit: Duration) {
        flush_thread();
        let flushed = async {
            let (done, wait) = oneshot::channel();
            if self.0.queue.send(Message::Flush(done)).await.is_ok() {
                // The task ended: there is nothing to wait for.
                let _ended = wait.await;
            }
        };
        // Out of time: the spans are lost with the process.
        let _late = tokio::time::timeout(limit, flushed).await;
    }
}

/// Takes spans of one configuration. Clones share it.
#[derive(Clone, Debug)]
pub struct Provider(Arc<Destination>);

struct Destination {
    config: Arc<OpenTelemetry>,
    shared: Arc<Shared>,
}

impl Provider {
    /// Takes a span; never waits.
    pub fn push(&self, span: Span) {
        buffer::append(&self.0, span);
    }
}

impl Destination {
    /// Hands spans to the main thread, or drops them if it is behind.
    fn send(&self, spans: Vec<Span>) {
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let lump = Message::Spans(Arc::clone(&self.config), spans);
        if self.shared.queue.try_send(lump).is_err() {
            self.shared.stats.spans_dropped.add(count);
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Destination").field(&self.config).finish()
    }
}

#[cfg(test)]
mod tests;
