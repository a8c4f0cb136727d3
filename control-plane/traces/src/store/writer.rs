//! The writer thread: commits what is queued in groups, takes a retention step after each, and replaces a
//! database that turns out to be damaged.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::catalog::Catalog;
use super::retention::Retention;
use super::{Command, IngestError, Shared, database, now_ms};
use crate::ingest::Batch;

/// One group of batches takes up to this many spans, and one transaction up to this many bytes: enough to
/// make commits cheap, small enough that nobody waits long.
const GROUP_SPANS: usize = 10_000;
const GROUP_BYTES: usize = 4 << 20;

struct Waiting {
    batch: Batch,
    done: oneshot::Sender<Result<(), IngestError>>,
}

struct Writer {
    db: Connection,
    catalog: Catalog,
    retention: Retention,
    shared: Arc<Shared>,
    queue: Receiver<Command>,
    /// Most bytes of one transaction: a small store takes small ones, to stay inside its limit.
    group_bytes: usize,
    /// A damaged database could not be replaced yet.
    lost: bool,
    /// Held to the end: no second process may open the directory before.
    _lock: File,
}

pub(super) fn spawn(
    db: Connection,
    lock: File,
    shared: Arc<Shared>,
    queue: Receiver<Command>,
) -> std::io::Result<JoinHandle<()>> {
    let lag = (shared.limits.max_age / 4).min(Duration::from_mins(1));
    let sixteenth = usize::try_from(shared.limits.max_bytes / 16).unwrap_or(usize::MAX);
    let mut writer = Writer {
        db,
        catalog: Catalog::new(i64::try_from(lag.as_millis()).unwrap_or(0)),
        retention: Retention::new(&shared),
        shared,
        queue,
        group_bytes: GROUP_BYTES.min(sixteenth),
        lost: false,
        _lock: lock,
    };
    std::thread::Builder::new()
        .name("trace-writer".into())
        .spawn(move || writer.run())
}

impl Writer {
    fn run(&mut self) {
        let mut more = true;
        loop {
            let wait = if more {
                Duration::ZERO
            } else {
                self.retention.idle()
            };
            let mut group = Vec::new();
            let mut open = true;
            match self.queue.recv_timeout(wait) {
                Ok(command) => open = self.take(command, &mut group),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
            let idle = group.is_empty();
            self.write(group);
            if !open {
                break;
            }
            if self.lost {
                more = false;
                continue;
            }
            more = match self
                .retention
                .step(&self.db, &mut self.catalog, &self.shared, idle)
            {
                Ok(more) => more,
                Err(error) => {
                    self.failed(&error, "retention");
                    false
                }
            };
        }
    }

    /// Collects what waits behind the first command; `false` when the store is being closed.
    fn take(&mut self, first: Command, group: &mut Vec<Waiting>) -> bool {
        let (mut spans, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Write(batch, done) => {
                    spans += batch.spans;
                    bytes += batch.bytes;
                    group.push(Waiting { batch, done });
                }
                Command::Damaged(generation, why) => {
                    if generation == self.shared.generation.load(Ordering::Acquire) {
                        self.replace(&why);
                    }
                }
                Command::Close => return false,
            }
            if spans >= GROUP_SPANS || bytes >= self.group_bytes {
                break;
            }
            next = self.queue.try_recv().ok();
        }
        true
    }

    fn write(&mut self, group: Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        if self.lost {
            self.reopen();
        }
        let result = self.insert(&group).or_else(|error| {
            self.failed(&error, "write");
            // A new database takes the spans that the damaged one could not.
            if database::is_damage(&error) {
                self.insert(&group)
            } else {
                Err(error)
            }
        });
        let spans: usize = group.iter().map(|waiting| waiting.batch.spans).sum();
        let bytes: usize = group.iter().map(|waiting| waiting.batch.bytes).sum();
        let counters = &self.shared.counters;
        let answer = match result {
            Ok(inserted) => {
                counters
                    .stored
                    .fetch_add(inserted as u64, Ordering::Relaxed);
                counters
                    .duplicates
                    .fetch_add((spans - inserted) as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                counters.failed.fetch_add(spans as u64, Ordering::Relaxed);
                Err(IngestError::Failed(error.to_string()))
            }
        };
        counters.queued_spans.fetch_sub(spans, Ordering::AcqRel);
        counters.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        for waiting in group {
            // The exporter may have gone away: its spans are written all the same.
            drop(waiting.done.send(answer.clone()));
        }
    }

    /// Inserts the group; spans that are there already are left as they are, so that a group which fails
    /// half-way may be sent again whole.
    fn insert(&mut self, group: &[Waiting]) -> rusqlite::Result<usize> {
        let now = now_ms();
        let db = &self.db;
        // Dropping a transaction on an error rolls it back.
        let mut tx = db.unchecked_transaction()?;
        let mut insert = db.prepare_cached(
            "INSERT OR IGNORE INTO spans(trace_id, span_id, parent_id, received, service, operation,
               source, start, duration, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        let (mut inserted, mut bytes) = (0, 0);
        for rows in group.iter().flat_map(|waiting| &waiting.batch.sources) {
            let service = self.catalog.service(db, &rows.service)?;
            let source = self.catalog.source(db, service, rows, now)?;
            for row in &rows.rows {
                let operation = self
                    .catalog
                    .operation(db, service, &row.name, row.kind, now)?;
                inserted += insert.execute(params![
                    row.trace_id,
                    row.span_id,
                    row.parent_id,
                    now,
                    service,
                    operation,
                    source,
                    row.start,
                    row.duration,
                    row.body,
                ])?;
                bytes += row.body.len();
                if bytes >= self.group_bytes {
                    tx.commit()?;
                    bytes = 0;
                    self.retention
                        .step(db, &mut self.catalog, &self.shared, false)?;
                    tx = db.unchecked_transaction()?;
                }
            }
        }
        tx.commit()?;
        Ok(inserted)
    }

    fn failed(&mut self, error: &rusqlite::Error, what: &str) {
        // Numbers handed out in the failed transaction are not in the database.
        self.catalog.forget();
        if database::is_damage(error) {
            self.replace(&error.to_string());
        } else {
            tracing::error!(%error, "trace store: {what} failed; check the disk's free space and health");
        }
    }

    fn replace(&mut self, why: &str) {
        self.catalog.forget();
        let shared = &self.shared;
        // Closed first, so that closing cannot touch the files of the new database.
        shared.drop_readers();
        if let Ok(none) = Connection::open_in_memory() {
            self.db = none;
        }
        self.lost = true;
        match database::move_aside(&shared.dir, why) {
            Ok(()) => self.reopen(),
            Err(error) => tracing::error!(%error, "trace store: cannot move the damaged database"),
        }
    }

    /// Every write tries again until the files are usable.
    fn reopen(&mut self) {
        let shared = &self.shared;
        match database::open_or_replace(&shared.dir, &shared.limits) {
            Ok((db, _)) => {
                self.db = db;
                self.lost = false;
                shared.counters.recoveries.fetch_add(1, Ordering::Relaxed);
                shared.generation.fetch_add(1, Ordering::AcqRel);
            }
            Err(error) => tracing::error!(%error, "trace store: cannot start a new database"),
        }
    }
}
