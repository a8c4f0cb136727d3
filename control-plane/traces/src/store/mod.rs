//! The handle to the store: takes batches in by a bounded queue, answers queries from reader
//! connections, and owns the writer thread.

mod catalog;
mod database;
mod error;
mod read;
mod retention;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rusqlite::Connection;
use tokio::sync::oneshot;

pub use error::{Error, IngestError};

use crate::ingest::{self, Batch};
use crate::model::{Dependency, Found, Operation, Query, Trace, TraceId};

/// What to tell an exporter to wait when the queue is full: a few commits' time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bounds of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a span is kept after its arrival.
    pub max_age: Duration,
    /// Most bytes of all database files together.
    pub max_bytes: u64,
    /// Most spans waiting to be written.
    pub queue_spans: usize,
    /// Most bytes of spans waiting to be written.
    pub queue_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_age: Duration::from_hours(24),
            max_bytes: 512 << 20,
            queue_spans: 100_000,
            queue_bytes: 64 << 20,
        }
    }
}

/// In smaller stores the log and one transaction would not fit beside the spans.
const MIN_BYTES: u64 = 4 << 20;

/// What became of one request; accepted spans are on disk and survive the process's death.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Spans stored, spans that were there already included.
    pub accepted: usize,
    /// Spans refused as invalid.
    pub rejected: usize,
    /// Why spans were refused; empty when none was.
    pub message: String,
}

/// Counters since the store was opened, and its present size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Spans written.
    pub stored: u64,
    /// Spans that were sent again.
    pub duplicates: u64,
    /// Invalid spans refused.
    pub rejected: u64,
    /// Spans turned away because the queue was full.
    pub refused: u64,
    /// Spans lost because a write failed.
    pub failed: u64,
    /// Spans removed for age or size.
    pub evicted: u64,
    /// Damaged databases moved aside.
    pub recoveries: u64,
    /// Spans waiting to be written.
    pub queued: u64,
    /// Bytes of all database files.
    pub bytes: u64,
}

/// The span store. Clones share one store; when the last is dropped, what is queued is written and the
/// directory is released.
#[derive(Clone, Debug)]
pub struct Store {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What handle, readers and writer have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) counters: Counters,
    /// Which database file is current: counts up when a damaged one is replaced.
    pub(crate) generation: AtomicU64,
    readers: Mutex<Vec<(u64, Connection)>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) stored: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    rejected: AtomicU64,
    refused: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) recoveries: AtomicU64,
    pub(crate) queued_spans: AtomicUsize,
    pub(crate) queued_bytes: AtomicUsize,
}

#[derive(Debug)]
pub(crate) enum Command {
    Write(Batch, oneshot::Sender<Result<(), IngestError>>),
    /// A reader found the database of this generation damaged.
    Damaged(u64, String),
    Close,
}

impl Store {
    /// Opens the store in `dir`, which is made if it is missing. A damaged database is moved aside with a
    /// warning in the log.
    ///
    /// # Errors
    /// When the directory cannot be used, is used by another process, or the limits are too small.
    pub fn open(dir: impl AsRef<Path>, limits: Limits) -> Result<Self, Error> {
        if limits.max_bytes < MIN_BYTES {
            return Err(Error::Limits(format!(
                "max_bytes is {} but must be at least {MIN_BYTES}",
                limits.max_bytes
            )));
        }
        if limits.max_age.is_zero() || limits.queue_spans == 0 || limits.queue_bytes == 0 {
            return Err(Error::Limits(
                "max_age and the queue's limits must not be zero".into(),
            ));
        }
        let dir = dir.as_ref().to_owned();
        let lock = database::lock(&dir)?;
        let (connection, moved) = database::open_or_replace(&dir, &limits)?;
        let counters = Counters::default();
        if moved {
            counters.recoveries.store(1, Ordering::Relaxed);
        }
        let shared = Arc::new(Shared {
            dir,
            limits,
            counters,
            generation: AtomicU64::new(0),
            readers: Mutex::new(Vec::new()),
        });
        let (commands, queue) = mpsc::channel();
        let writer =
            writer::spawn(connection, lock, Arc::clone(&shared), queue).map_err(|source| {
                Error::Io {
                    path: shared.dir.clone(),
                    source,
                }
            })?;
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                commands,
                writer: Mutex::new(Some(writer)),
            }),
        })
    }

    /// Checks the request's spans, queues the valid ones and waits until they are committed.
    ///
    /// Once this was polled the spans are written even if the future is dropped.
    ///
    /// # Errors
    /// When the queue is full (send again), the write failed, or the store is closed.
    pub async fn ingest(&self, request: ExportTraceServiceRequest) -> Result<Outcome, IngestError> {
        let batch = ingest::prepare(request, now_ns());
        let outcome = Outcome {
            accepted: batch.spans,
            rejected: batch.rejected.count(),
            message: batch.rejected.message(),
        };
        let counters = &self.handle.shared.counters;
        counters
            .rejected
            .fetch_add(outcome.rejected as u64, Ordering::Relaxed);
        if batch.spans == 0 {
            return Ok(outcome);
        }
        self.reserve(&batch)?;
        let (done, committed) = oneshot::channel();
        self.handle
            .commands
            .send(Command::Write(batch, done))
            .map_err(|_| IngestError::Closed)?;
        committed.await.map_err(|_| IngestError::Closed)??;
        Ok(outcome)
    }

    /// Every service that has spans, sorted.
    ///
    /// # Errors
    /// When the database cannot be read; so with every query.
    pub fn services(&self) -> Result<Vec<String>, Error> {
        self.read(read::services)
    }

    /// The operations of a service, of one kind or all, sorted.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn operations(
        &self,
        service: &str,
        kind: Option<SpanKind>,
    ) -> Result<Vec<Operation>, Error> {
        self.read(|tx| read::operations(tx, service, kind))
    }

    /// All spans of a trace; `None` when there are none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn trace(&self, id: TraceId) -> Result<Option<Trace>, Error> {
        self.read(|tx| read::trace(tx, id))
    }

    /// The newest traces with a span that meets the query.
    ///
    /// # Errors
    /// When the database cannot be read or the search takes too long.
    pub fn search(&self, query: &Query) -> Result<Found, Error> {
        self.read(|tx| read::search(tx, query))
    }

    /// Which services called which, by spans that started from `start` to `end` (Unix nanoseconds).
    ///
    /// # Errors
    /// When the database cannot be read or the search takes too long.
    pub fn dependencies(&self, start: u64, end: u64) -> Result<Vec<Dependency>, Error> {
        self.read(|tx| read::dependencies(tx, start, end))
    }

    /// Counters and size.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.handle.shared;
        let counters = &shared.counters;
        Stats {
            stored: counters.stored.load(Ordering::Relaxed),
            duplicates: counters.duplicates.load(Ordering::Relaxed),
            rejected: counters.rejected.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            evicted: counters.evicted.load(Ordering::Relaxed),
            recoveries: counters.recoveries.load(Ordering::Relaxed),
            queued: counters.queued_spans.load(Ordering::Relaxed) as u64,
            bytes: database::size(&shared.dir),
        }
    }

    /// Writes what is queued and ends the writer; later ingests fail, queries still work.
    pub fn close(&self) {
        self.handle.close();
    }

    /// Takes room in the queue, or refuses. A batch larger than the whole queue may pass an empty one.
    fn reserve(&self, batch: &Batch) -> Result<(), IngestError> {
        let Shared {
            limits, counters, ..
        } = &*self.handle.shared;
        let spans = counters
            .queued_spans
            .fetch_add(batch.spans, Ordering::AcqRel);
        let bytes = counters
            .queued_bytes
            .fetch_add(batch.bytes, Ordering::AcqRel);
        let full = spans + batch.spans > limits.queue_spans
            || bytes.saturating_add(batch.bytes) > limits.queue_bytes;
        if full && spans > 0 {
            counters
                .queued_spans
                .fetch_sub(batch.spans, Ordering::AcqRel);
            counters
                .queued_bytes
                .fetch_sub(batch.bytes, Ordering::AcqRel);
            counters
                .refused
                .fetch_add(batch.spans as u64, Ordering::Relaxed);
            return Err(IngestError::Busy {
                spans,
                retry_after: RETRY_AFTER,
            });
        }
        Ok(())
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&mut read::Reading<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let shared = &self.handle.shared;
        let (generation, connection) = shared.reader()?;
        let answer = read::in_snapshot(&connection, query);
        match answer {
            Err(Error::Database(error)) if database::is_damage(&error) => {
                // The writer may be gone already when the store is closed: nothing to repair then.
                drop(
                    self.handle
                        .commands
                        .send(Command::Damaged(generation, error.to_string())),
                );
                Err(Error::Damaged(error))
            }
            answer => {
                shared.give_back(generation, connection);
                answer
            }
        }
    }
}

impl Handle {
    fn close(&self) {
        // An error means that the writer has ended already.
        drop(self.commands.send(Command::Close));
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the trace store's writer panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Idle reader connections kept: more queries than cores gain nothing.
    const IDLE_READERS: usize = 4;

    fn reader(&self) -> Result<(u64, Connection), Error> {
        let generation = self.generation.load(Ordering::Acquire);
        let mut idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(made_for, _)| *made_for == generation);
        match idle.pop() {
            Some(reader) => Ok(reader),
            None => Ok((generation, database::open_reader(&self.dir)?)),
        }
    }

    /// Lets go of a database that is about to be replaced.
    pub(crate) fn drop_readers(&self) {
        self.readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn give_back(&self, generation: u64, connection: Connection) {
        let mut idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < Self::IDLE_READERS {
            idle.push((generation, connection));
        }
    }
}

pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Arrival times and ages are kept in milliseconds.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(now_ns() / 1_000_000).unwrap_or(i64::MAX)
}
