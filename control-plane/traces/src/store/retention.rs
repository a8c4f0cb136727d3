//! Keeps the database inside its age and size, in short steps between writes, so that no write waits long.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::catalog::Catalog;
use super::{Shared, database, now_ms};

/// Spans removed by one statement.
const CHUNK: i64 = 500;
/// How long one step may hold up writes.
const STEP: Duration = Duration::from_millis(20);
/// Pages given back to the file system by one statement.
const VACUUM_PAGES: u32 = 128;

#[derive(Debug)]
pub(super) struct Retention {
    max_age: i64,
    /// Above this eviction begins; it goes on down to `low`.
    high: u64,
    low: u64,
    /// Above this, writes wait for eviction: what remains of the limit is for the log.
    hard: u64,
    log_limit: u64,
    evicting: bool,
    /// Pages were given back, but the file only shrinks when the log is written into it.
    shrunk: bool,
    last_prune: Instant,
    prune_every: Duration,
}

struct Pages {
    bytes_each: u64,
    all: u64,
    free: u64,
}

impl Retention {
    pub(super) fn new(shared: &Shared) -> Self {
        let limit = shared.limits.max_bytes;
        Self {
            max_age: i64::try_from(shared.limits.max_age.as_millis()).unwrap_or(i64::MAX),
            high: limit / 8 * 6,
            low: limit / 32 * 23,
            hard: limit / 16 * 13,
            log_limit: limit / 8,
            evicting: false,
            shrunk: false,
            last_prune: Instant::now(),
            prune_every: (shared.limits.max_age / 4).min(Duration::from_mins(1)),
        }
    }

    /// How long the writer may sleep when nothing comes in and no step is left.
    pub(super) fn idle(&self) -> Duration {
        (Duration::from_millis(u64::try_from(self.max_age).unwrap_or(u64::MAX)) / 8)
            .clamp(Duration::from_millis(10), Duration::from_secs(10))
    }

    /// One bounded step; `true` when there is more to do at once.
    pub(super) fn step(
        &mut self,
        db: &Connection,
        catalog: &mut Catalog,
        shared: &Shared,
        idle: bool,
    ) -> rusqlite::Result<bool> {
        let began = Instant::now();
        let cutoff = now_ms().saturating_sub(self.max_age);
        let mut evicted = 0;
        let mut more = false;
        while self.must_evict(db, cutoff)? {
            let gone = evict(db, if self.evicting { i64::MAX } else { cutoff })?;
            evicted += gone as u64;
            if gone == 0 {
                // Only the catalog is left, or the clock went back: nothing that eviction can help.
                self.evicting = false;
                break;
            }
            if began.elapsed() > STEP && self.used(db)? < self.hard {
                more = true;
                break;
            }
        }
        shared
            .counters
            .evicted
            .fetch_add(evicted, Ordering::Relaxed);
        if !more && self.last_prune.elapsed() >= self.prune_every {
            self.last_prune = Instant::now();
            let oldest = oldest(db)?.unwrap_or_else(now_ms);
            catalog.prune(db, oldest)?;
        }
        if idle && !more {
            more = give_back(db)?;
            self.shrunk |= more;
            if self.shrunk && !more {
                self.shrunk = false;
                db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            }
        }
        self.keep_log_small(db, shared)?;
        Ok(more)
    }

    fn must_evict(&mut self, db: &Connection, cutoff: i64) -> rusqlite::Result<bool> {
        let used = self.used(db)?;
        self.evicting = if self.evicting {
            used > self.low
        } else {
            used > self.high
        };
        Ok(self.evicting || oldest(db)?.is_some_and(|received| received < cutoff))
    }

    fn used(&self, db: &Connection) -> rusqlite::Result<u64> {
        let pages = pages(db)?;
        Ok((pages.all - pages.free) * pages.bytes_each)
    }

    /// The log shrinks by itself unless readers always hold it.
    fn keep_log_small(&self, db: &Connection, shared: &Shared) -> rusqlite::Result<()> {
        if database::wal_size(&shared.dir) > self.log_limit {
            db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        }
        Ok(())
    }
}

fn oldest(db: &Connection) -> rusqlite::Result<Option<i64>> {
    let mut statement = db.prepare_cached("SELECT received FROM spans ORDER BY id LIMIT 1")?;
    let mut rows = statement.query([])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

/// Removes the oldest spans, at most a chunk, of those that arrived before `cutoff`.
fn evict(db: &Connection, cutoff: i64) -> rusqlite::Result<usize> {
    db.prepare_cached(
        "DELETE FROM spans WHERE id < (SELECT min(id) FROM spans) + ?1 AND received < ?2",
    )?
    .execute([CHUNK, cutoff])
}

/// Shrinks the file while much of it is free; small gaps are left for the next spans.
fn give_back(db: &Connection) -> rusqlite::Result<bool> {
    let pages = pages(db)?;
    if pages.free <= 64 || pages.free < pages.all / 8 {
        return Ok(false);
    }
    // Each row of the answer is a page given back.
    let mut statement = db.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(true)
}

fn pages(db: &Connection) -> rusqlite::Result<Pages> {
    let value = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Pages {
        bytes_each: unsigned(value("page_size")?),
        all: unsigned(value("page_count")?),
        free: unsigned(value("freelist_count")?),
    })
}
