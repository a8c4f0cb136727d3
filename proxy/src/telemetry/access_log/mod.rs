//! Access logs: compiled loggers, and the way of their lines to files.
//!
//! A line goes into a buffer of the thread that wrote it. Buffers travel to one writer thread when
//! they are large or a moment old, so that no request ever waits for a disk. What the writer cannot
//! take is dropped and counted (`filesystem.write_failed`).

mod buffer;
mod event_log;
mod json;
mod writer;

use std::{sync::Arc, time::Duration};

use self::writer::{SinkFile, Writer};
use super::{
    format::{self, Context, Missing, NeededHeaders},
    stats::Registry,
    stream_info::StreamInfo,
};
use crate::config::{
    access_log::{AccessLog, JsonFormat, LogFormat},
    format::Format,
};

pub use buffer::flush_thread;
pub use event_log::EventLog;

/// All sinks of a process. Clones share them.
#[derive(Clone, Debug)]
pub struct AccessLogs {
    writer: Arc<Writer>,
}

impl AccessLogs {
    /// No sink yet; the writer thread starts with the first.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            writer: Arc::new(Writer::new(registry)),
        }
    }

    /// Compiles the loggers of a connection manager or listener, and opens their files. Loggers of the
    /// same file share it.
    ///
    /// # Errors
    /// A file cannot be opened; the text says which and why.
    pub fn compile(&self, logs: &[AccessLog]) -> Result<Loggers, String> {
        let mut needed = NeededHeaders::default();
        let mut loggers = Vec::with_capacity(logs.len());
        for log in logs {
            let line = match &log.format {
                LogFormat::Text(format) => Line::Text(format.clone()),
                LogFormat::Json { format, omit_empty } => Line::Json {
                    format: format.clone(),
                    omit_empty: *omit_empty,
                },
            };
            line.add_needed(&mut needed);
            loggers.push(Logger {
                sink: self.writer.open(&log.sink)?,
                line,
            });
        }
        Ok(Loggers { loggers, needed })
    }

    /// Closes and opens all files again (SIGUSR1, `/reopen_logs`), after what was written so far.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Waits until everything that threads handed over is written, but not longer than `limit`. Threads
    /// hand over when they end, and by [`flush_thread`].
    pub fn flush(&self, limit: Duration) {
        flush_thread();
        self.writer.flush(limit);
    }
}

/// The loggers of one connection manager or listener.
#[derive(Debug, Default)]
pub struct Loggers {
    loggers: Vec<Logger>,
    needed: NeededHeaders,
}

#[derive(Debug)]
struct Logger {
    sink: Arc<SinkFile>,
    line: Line,
}

#[derive(Debug)]
enum Line {
    Text(Format),
    Json {
        format: JsonFormat,
        omit_empty: bool,
    },
}

impl Loggers {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.loggers.is_empty()
    }

    /// The headers that must still be there when [`Self::log`] is called.
    #[must_use]
    pub fn needed(&self) -> &NeededHeaders {
        &self.needed
    }

    /// Writes the lines of a connection, of which no request is known.
    pub fn log_connection(&self, info: &StreamInfo) {
        self.log(&Context {
            info,
            request: None,
            response: None,
            trailers: None,
        });
    }

    /// Writes the lines of a finished stream.
    pub fn log(&self, cx: &Context<'_>) {
        for logger in &self.loggers {
            buffer::append(&logger.sink, |out, scratch| match &logger.line {
                Line::Text(format) => {
                    let missing = match format.omits_empty() {
                        true => Missing::Empty,
                        false => Missing::Dash,
                    };
                    format::write(format, cx, missing, out);
                }
                Line::Json { format, omit_empty } => {
                    json::write(format, *omit_empty, cx, scratch, out);
                    out.push(b'\n');
                }
            });
        }
    }
}

impl Line {
    fn add_needed(&self, needed: &mut NeededHeaders) {
        match self {
            Self::Text(format) => needed.add(format),
            Self::Json { format, .. } => json::add_needed(format, needed),
        }
    }
}

#[cfg(test)]
mod tests;
