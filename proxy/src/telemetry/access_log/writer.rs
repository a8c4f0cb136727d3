//! The thread that writes to files.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use crate::{
    config::access_log::Sink,
    telemetry::stats::{Counter, Gauge, Registry},
};

/// Chunks that may wait for the writer.
const MAX_CHUNKS: usize = 1024;
/// Bytes that may wait for the writer.
const MAX_BYTES: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    sinks: Mutex<HashMap<Sink, Weak<SinkFile>>>,
}

#[derive(Debug)]
struct Shared {
    stats: Stats,
    queue: OnceLock<SyncSender<Message>>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Stats {
    write_buffered: Counter,
    write_completed: Counter,
    write_failed: Counter,
    reopen_failed: Counter,
    write_total_buffered: Gauge,
}

#[derive(Debug)]
enum Message {
    Chunk {
        sink: Arc<SinkFile>,
        bytes: Vec<u8>,
        lines: u64,
    },
    Reopen(Vec<Arc<SinkFile>>),
    Flush(mpsc::Sender<()>),
}

/// An open sink.
#[derive(Debug)]
pub(super) struct SinkFile {
    sink: Sink,
    /// Only the writer thread touches it once it is open.
    file: Mutex<Option<File>>,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(registry: &Registry) -> Self {
        let scope = registry.scope("filesystem");
        Self {
            shared: Arc::new(Shared {
                stats: Stats {
                    write_buffered: scope.counter("write_buffered"),
                    write_completed: scope.counter("write_completed"),
                    write_failed: scope.counter("write_failed"),
                    reopen_failed: scope.counter("reopen_failed"),
                    write_total_buffered: scope.gauge("write_total_buffered"),
                },
                queue: OnceLock::new(),
                waiting: AtomicUsize::new(0),
            }),
            sinks: Mutex::default(),
        }
    }

    /// Opens a sink, or returns the one that is open.
    pub(super) fn open(&self, sink: &Sink) -> Result<Arc<SinkFile>, String> {
        self.shared.start()?;
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|_, file| file.strong_count() > 0);
        if let Some(file) = sinks.get(sink).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = match sink {
            Sink::File(_) => Some(open(sink).map_err(|error| unable_to_open(sink, &error))?),
            Sink::Stdout | Sink::Stderr => None,
        };
        let file = Arc::new(SinkFile {
            sink: sink.clone(),
            file: Mutex::new(file),
            shared: Arc::clone(&self.shared),
        });
        sinks.insert(sink.clone(), Arc::downgrade(&file));
        Ok(file)
    }

    pub(super) fn reopen(&self) {
        let sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        let files = sinks.values().filter_map(Weak::upgrade).collect();
        drop(sinks);
        if let Some(queue) = self.shared.queue.get()
            && queue.try_send(Message::Reopen(files)).is_err()
        {
            self.shared.stats.reopen_failed.inc();
        }
    }

    pub(super) fn flush(&self, limit: Duration) {
        let Some(queue) = self.shared.queue.get() else {
            return;
        };
        let (done, wait) = mpsc::channel();
        if queue.try_send(Message::Flush(done)).is_ok() {
            // Out of time: the lines are lost with the process.
            let _late = wait.recv_timeout(limit);
        }
    }
}

fn open(sink: &Sink) -> io::Result<File> {
    match sink {
        Sink::File(path) => OpenOptions::new().create(true).append(true).open(path),
        Sink::Stdout | Sink::Stderr => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn unable_to_open(sink: &Sink, error: &io::Error) -> String {
    match sink {
        Sink::File(path) => format!("unable to open file '{}': {error}", path.display()),
        Sink::Stdout => format!("unable to open stdout: {error}"),
        Sink::Stderr => format!("unable to open stderr: {error}"),
    }
}

impl Shared {
    /// Starts the thread, once.
    fn start(self: &Arc<Self>) -> Result<(), String> {
        if self.queue.get().is_some() {
            return Ok(());
        }
        let (queue, messages) = mpsc::sync_channel(MAX_CHUNKS);
        if self.queue.set(queue).is_err() {
            return Ok(());
        }
        // The thread must not keep the queue open that it waits for.
        let shared = Arc::downgrade(self);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || run(&messages, &shared))
            .map(drop)
            .map_err(|error| format!("unable to start the access-log writer: {error}"))
    }
}

impl SinkFile {
    /// Counts a line that went into a buffer.
    pub(super) fn buffered(&self) {
        self.shared.stats.write_buffered.inc();
    }

    /// Hands `bytes` to the writer, or drops them if it is behind.
    pub(super) fn send(self: &Arc<Self>, bytes: Vec<u8>, lines: u64) {
        let shared = &self.shared;
        let size = bytes.len();
        let fits = shared.waiting.fetch_add(size, Relaxed) + size <= MAX_BYTES;
        let chunk = Message::Chunk {
            sink: Arc::clone(self),
            bytes,
            lines,
        };
        let is_sent = fits
            && shared
                .queue
                .get()
                .is_some_and(|queue| queue.try_send(chunk).is_ok());
        if is_sent {
            shared
                .stats
                .write_total_buffered
                .add(i64::try_from(size).unwrap_or(i64::MAX));
        } else {
            shared.waiting.fetch_sub(size, Relaxed);
            shared.stats.write_failed.add(lines);
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.sink {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Sink::Stderr => io::stderr().lock().write_all(bytes),
            Sink::File(_) => {
                let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
                if file.is_none() {
                    *file = Some(open(&self.sink)?);
                }
                file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
            }
        }
    }

    fn reopen(&self) -> io::Result<()> {
        if matches!(self.sink, Sink::File(_)) {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            *file = None;
            *file = Some(open(&self.sink)?);
        }
        Ok(())
    }
}

/// Writes until every sender is gone.
fn run(messages: &Receiver<Message>, shared: &Weak<Shared>) {
    for message in messages {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match message {
            Message::Chunk { sink, bytes, lines } => {
                match sink.write(&bytes) {
                    Ok(()) => shared.stats.write_completed.inc(),
                    Err(error) => {
                        shared.stats.write_failed.add(lines);
                        tracing::debug!(%error, sink = ?sink.sink, "access log not written");
                    }
                }
                let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
                shared.stats.write_total_buffered.add(-size);
                shared.waiting.fetch_sub(bytes.len(), Relaxed);
            }
            Message::Reopen(files) => {
                for file in files {
                    if let Err(error) = file.reopen() {
                        shared.stats.reopen_failed.inc();
                        tracing::warn!(%error, sink = ?file.sink, "access log not reopened");
                    }
                }
            }
            Message::Flush(done) => {
                // Nobody waits any more: fine.
                let _gone = done.send(());
            }
        }
    }
}
