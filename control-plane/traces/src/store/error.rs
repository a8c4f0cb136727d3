//! Why the store cannot be opened, not answer, or not take spans.

use std::path::PathBuf;
use std::time::Duration;

/// Why a store cannot be opened or a query not be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory problem.
    #[error("trace store {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process holds the directory.
    #[error(
        "trace store {}: in use by another process (another control plane?); give each its own data directory",
        .0.display()
    )]
    InUse(PathBuf),
    /// The limits make no sense.
    #[error("trace store limits: {0}")]
    Limits(String),
    /// SQLite failed.
    #[error("trace store: {0}")]
    Database(#[from] rusqlite::Error),
    /// The file is damaged; it is being moved aside.
    #[error(
        "trace store: the database file is damaged ({0}); it is moved aside and a new one started, ask again"
    )]
    Damaged(rusqlite::Error),
    /// The query had to read too much.
    #[error(
        "the search took longer than {0:?}: narrow the time range, or name a service or operation"
    )]
    TooSlow(Duration),
}

/// Why a request's spans were not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// The queue is full; nothing of the request was taken.
    #[error(
        "the trace store is busy: {spans} spans wait to be written; send again after {retry_after:?}"
    )]
    Busy {
        /// Spans in the queue.
        spans: usize,
        /// When to send again.
        retry_after: Duration,
    },
    /// The batch could not be written.
    #[error("the trace store could not write: {0}")]
    Failed(String),
    /// The store is shut down.
    #[error("the trace store is shut down")]
    Closed,
}
