//! The main thread's part: batches for each provider, one in flight at a time, with back-off.

use std::{collections::HashMap, future::pending, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    FindCluster, Message, Stats,
    client::{Client, Failure},
};
use crate::config::tracing::OpenTelemetry;

/// Spans in one request.
const BATCH: usize = 512;
/// A batch is sent when its first span is this old.
const LINGER: Duration = Duration::from_secs(1);
/// Spans that may wait for one provider.
const MAX_WAITING: usize = 4096;
/// After the first failure; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A provider without spans is forgotten after this.
const FORGET: Duration = Duration::from_secs(60);

/// The exporter's task.
#[derive(Debug)]
pub struct Task {
    messages: mpsc::Receiver<Message>,
    stats: Stats,
    pipes: HashMap<Arc<OpenTelemetry>, Pipe>,
}

/// What waits for one provider.
#[derive(Debug)]
struct Pipe {
    waiting: Vec<Span>,
    client: Option<Client>,
    is_sending: bool,
    failures: u32,
    /// When to send next, if something waits; when to forget the pipe, if not.
    due: Instant,
}

/// A batch that came back.
struct Outcome {
    config: Arc<OpenTelemetry>,
    client: Result<Client, Failure>,
    spans: Vec<Span>,
    result: Result<(), Failure>,
}

type Sending = FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

impl Task {
    pub(super) fn new(messages: mpsc::Receiver<Message>, stats: Stats) -> Self {
        Self {
            messages,
            stats,
            pipes: HashMap::new(),
        }
    }

    /// Exports until every [`super::Exporters`] is gone. `clusters` finds a cluster in the
    /// configuration of the moment.
    pub async fn run(mut self, clusters: FindCluster) {
        let mut sending = Sending::new();
        loop {
            let due = self
                .pipes
                .values()
                .filter(|pipe| !pipe.is_sending)
                .map(|pipe| pipe.due)
                .min();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(Message::Spans(config, spans)) => self.take(config, spans),
                    Some(Message::Flush(done)) => self.drain(&clusters, &mut sending, done).await,
                    None => return,
                },
                Some(outcome) = sending.next() => self.finish(outcome),
                () = timer => {}
            }
            self.send_due(&clusters, &sending);
        }
    }

    fn take(&mut self, config: Arc<OpenTelemetry>, mut spans: Vec<Span>) {
        let pipe = self.pipes.entry(config).or_insert_with(|| Pipe {
            waiting: Vec::new(),
            client: None,
            is_sending: false,
            failures: 0,
            due: Instant::now(),
        });
        if pipe.waiting.is_empty() && pipe.failures == 0 {
            pipe.due = Instant::now() + LINGER;
        }
        let room = MAX_WAITING.saturating_sub(pipe.waiting.len());
        if spans.len() > room {
            self.stats.spans_dropped.add(count(spans.len() - room));
            spans.truncate(room);
        }
        pipe.waiting.append(&mut spans);
        if pipe.waiting.len() >= BATCH && pipe.failures == 0 {
            pipe.due = Instant::now();
        }
    }

    fn send_due(&mut self, clusters: &FindCluster, sending: &Sending) {
        let now = Instant::now();
        for (config, pipe) in &mut self.pipes {
            if pipe.is_sending || pipe.waiting.is_empty() || pipe.due > now {
                continue;
            }
            if pipe.waiting.len() < BATCH {
                self.stats.timer_flushed.inc();
            }
            pipe.is_sending = true;
            sending.push(Box::pin(pipe.start(Arc::clone(config), clusters)));
        }
        self.pipes
            .retain(|_, pipe| pipe.is_sending || !pipe.waiting.is_empty() || pipe.due > now);
    }

    fn finish(&mut self, outcome: Outcome) {
        let Outcome {
            config,
            client,
            mut spans,
            result,
        } = outcome;
        let Some(pipe) = self.pipes.get_mut(&config) else {
            return;
        };
        pipe.is_sending = false;
        pipe.client = client.ok();
        let sent = count(spans.len());
        match result {
            Ok(()) => {
                self.stats.spans_sent.add(sent);
                pipe.failures = 0;
            }
            Err(Failure::Permanent(error)) => {
                tracing::warn!(cluster = %config.exporter.cluster(), %error, "spans refused");
                self.stats.spans_dropped.add(sent);
                pipe.failures = 0;
            }
            Err(Failure::Temporary(error)) => {
                if pipe.failures == 0 {
                    tracing::warn!(cluster = %config.exporter.cluster(), %error, "spans not sent");
                }
                pipe.failures += 1;
                pipe.client = None;
                // They go first again; the newest make room.
                spans.append(&mut pipe.waiting);
                self.stats
                    .spans_dropped
                    .add(count(spans.len().saturating_sub(MAX_WAITING)));
                spans.truncate(MAX_WAITING);
                pipe.waiting = spans;
            }
        }
        pipe.due = Instant::now() + pipe.delay();
    }

    /// Tries once to send everything, whatever the back-off.
    async fn drain(
        &mut self,
        clusters: &FindCluster,
        sending: &mut Sending,
        done: oneshot::Sender<()>,
    ) {
        while let Ok(Message::Spans(config, spans)) = self.messages.try_recv() {
            self.take(config, spans);
        }
        let mut given_up = Vec::new();
        loop {
            while let Some(outcome) = sending.next().await {
                if outcome.result.is_err() {
                    given_up.push(Arc::clone(&outcome.config));
                }
                self.finish(outcome);
            }
            for (config, pipe) in &mut self.pipes {
                if !pipe.waiting.is_empty() && !given_up.contains(config) {
                    pipe.is_sending = true;
                    sending.push(Box::pin(pipe.start(Arc::clone(config), clusters)));
                }
            }
            if sending.is_empty() {
                break;
            }
        }
        // Whoever asked may have gone.
        let _gone = done.send(());
    }
}

impl Pipe {
    /// Takes a batch and returns the sending of it.
    fn start(
        &mut self,
        config: Arc<OpenTelemetry>,
        clusters: &FindCluster,
    ) -> impl Future<Output = Outcome> + Send + use<> {
        let spans: Vec<Span> = self
            .waiting
            .drain(..self.waiting.len().min(BATCH))
            .collect();
        let cluster = clusters(config.exporter.cluster());
        let client = Client::find(self.client.take(), &config, cluster.as_ref());
        async move {
            let (client, result) = match client {
                // The copy is for another try.
                Ok(client) => {
                    let result = client.send(&config, spans.clone()).await;
                    (Ok(client), result)
                }
                Err(failure) => {
                    let error = failure.to_string();
                    (Err(failure), Err(Failure::Temporary(error)))
                }
            };
            Outcome {
                config,
                client,
                spans,
                result,
            }
        }
    }

    /// How long to wait after a batch.
    fn delay(&self) -> Duration {
        if self.failures > 0 {
            let backoff = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(6).saturating_sub(1));
            return backoff
                .min(MAX_BACKOFF)
                .mul_f64(rand::random_range(0.5..=1.0));
        }
        match self.waiting.len() {
            0 => FORGET,
            1..BATCH => LINGER,
            _ => Duration::ZERO,
        }
    }
}

fn count(spans: usize) -> u64 {
    u64::try_from(spans).unwrap_or(u64::MAX)
}
