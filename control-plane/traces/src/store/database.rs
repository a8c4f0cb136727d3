//! The database's files: opening, schema, the lock that keeps a second process out, and moving a
//! damaged file aside.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Error, Limits};

const FILE: &str = "traces.db";
/// Counts up with the schema; a file of another version is moved aside, as traces are short-lived.
const VERSION: i64 = 1;

/// `spans` grows at its end and is evicted from its beginning, so that both touch few pages. `body` is the
/// encoded OTLP span without what the columns say. The search index also holds what most searches
/// compare, so that only matching spans are fetched.
const SCHEMA: &str = "
CREATE TABLE services(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE operations(
  id INTEGER PRIMARY KEY, service INTEGER NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,
  last_seen INTEGER NOT NULL, UNIQUE(service, name, kind));
CREATE TABLE sources(
  id INTEGER PRIMARY KEY, service INTEGER NOT NULL, resource BLOB NOT NULL, scope BLOB NOT NULL,
  last_seen INTEGER NOT NULL);
CREATE TABLE spans(
  id INTEGER PRIMARY KEY, trace_id BLOB NOT NULL, span_id BLOB NOT NULL, parent_id BLOB,
  received INTEGER NOT NULL, service INTEGER NOT NULL, operation INTEGER NOT NULL,
  source INTEGER NOT NULL, start INTEGER NOT NULL, duration INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX spans_by_trace ON spans(trace_id, span_id);
CREATE INDEX spans_by_service ON spans(service, start, operation, duration);
";

/// Makes the directory and takes it for this process, until the file is closed or the process dies.
pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    let io = |path: &Path, source| Error::Io {
        path: path.to_owned(),
        source,
    };
    // Spans may hold what users sent: nobody else on the machine has to read it.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| io(dir, source))?;
    let path = dir.join("traces.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| io(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(&path, source)),
    }
}

/// Opens the writer's connection; says whether a damaged database was moved aside for it.
pub(super) fn open_or_replace(dir: &Path, limits: &Limits) -> Result<(Connection, bool), Error> {
    match open(dir, limits) {
        Ok(connection) => Ok((connection, false)),
        Err(error) if is_damage(&error) => {
            move_aside(dir, &error.to_string())?;
            Ok((open(dir, limits)?, true))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn open_reader(dir: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(dir.join(FILE), flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// The database is not one, or its structure is broken, or it is of another version.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Renames the database's files, keeping only the newest such set, so that a bad disk cannot fill up with them.
pub(super) fn move_aside(dir: &Path, why: &str) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm"] {
        let from = dir.join(format!("{FILE}{suffix}"));
        let to = dir.join(format!("{FILE}.damaged{suffix}"));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // A log of an earlier damaged file does not belong to this one.
                drop(std::fs::remove_file(&to));
            }
            Err(source) => return Err(Error::Io { path: from, source }),
        }
    }
    tracing::error!(
        file = %dir.join(FILE).display(),
        moved_to = %dir.join(format!("{FILE}.damaged")).display(),
        "the trace store cannot be read ({why}): moved it aside and started a new one; its traces are lost, \
         the file may be deleted",
    );
    Ok(())
}

/// Bytes of the database's files.
pub(super) fn size(dir: &Path) -> u64 {
    file_size(&dir.join(FILE)) + wal_size(dir)
}

pub(super) fn wal_size(dir: &Path) -> u64 {
    file_size(&dir.join(format!("{FILE}-wal")))
}

fn file_size(path: &PathBuf) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

fn open(dir: &Path, limits: &Limits) -> Result<Connection, rusqlite::Error> {
    let mut connection = Connection::open(dir.join(FILE))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    // Takes effect only before the first table is made.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A killed process loses nothing; a power cut may lose the last commits, never the file.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -16 * 1024)?;
    let log_limit = i64::try_from(limits.max_bytes / 16).unwrap_or(i64::MAX);
    connection.pragma_update_and_check(None, "journal_size_limit", log_limit, |_| Ok(()))?;
    match connection.pragma_query_value(None, "user_version", |row| row.get(0))? {
        VERSION => check(&connection)?,
        0 => {
            let tx = connection.transaction()?;
            tx.execute_batch(SCHEMA)?;
            tx.pragma_update(None, "user_version", VERSION)?;
            tx.commit()?;
        }
        other => {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB),
                Some(format!(
                    "schema version is {other}, this program writes {VERSION}"
                )),
            ));
        }
    }
    // Nobody else writes. Only a checkpoint waits, for long readers, and may try again later.
    connection.busy_timeout(Duration::from_millis(50))?;
    Ok(connection)
}

/// A quick look at every table and both ends of the large one: a full check of a large file would delay the
/// start by seconds, and damage elsewhere is found, and handled, when it is read.
fn check(connection: &Connection) -> Result<(), rusqlite::Error> {
    for sql in [
        "SELECT count(*) FROM services",
        "SELECT count(*) FROM operations",
        "SELECT count(*) FROM sources",
        "SELECT min(id) + max(id) FROM spans",
        "SELECT min(start) + max(start) FROM spans WHERE service = (SELECT min(id) FROM services)",
    ] {
        connection
            .query_row(sql, [], |row| row.get::<_, Option<i64>>(0))
            .map_err(|error| {
                match error.sqlite_error_code() {
                    // A table is missing although the version says otherwise.
                    Some(ErrorCode::Unknown) => rusqlite::Error::SqliteFailure(
                        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                        Some(error.to_string()),
                    ),
                    _ => error,
                }
            })?;
    }
    Ok(())
}
