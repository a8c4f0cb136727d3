//! Numbers for what many spans share: services, operations, and sources (resource with scope).
//!
//! The writer alone hands out numbers, so it may remember them; the memory is dropped whenever rows may have
//! gone (a rolled back transaction, pruning) and when it grows too large.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::ingest::SourceRows;

/// Names remembered at most; a flood of names costs look-ups then, not memory.
const MOST: usize = 50_000;

#[derive(Debug)]
pub(super) struct Catalog {
    services: HashMap<String, i64>,
    operations: HashMap<(i64, i32, String), Entry>,
    sources: HashMap<(i64, Vec<u8>, Vec<u8>), Entry>,
    /// `last_seen` in the database may lag by this much, so that it is not written with every span.
    lag: i64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: i64,
    last_seen: i64,
}

impl Catalog {
    pub(super) fn new(lag: i64) -> Self {
        Self {
            services: HashMap::new(),
            operations: HashMap::new(),
            sources: HashMap::new(),
            lag,
        }
    }

    pub(super) fn forget(&mut self) {
        self.services.clear();
        self.operations.clear();
        self.sources.clear();
    }

    pub(super) fn service(&mut self, db: &Connection, name: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.services.get(name) {
            return Ok(*id);
        }
        let known = db
            .prepare_cached("SELECT id FROM services WHERE name = ?")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let id = match known {
            Some(id) => id,
            None => db
                .prepare_cached("INSERT INTO services(name) VALUES (?)")?
                .insert([name])?,
        };
        if self.services.len() >= MOST {
            self.services.clear();
        }
        self.services.insert(name.to_owned(), id);
        Ok(id)
    }

    pub(super) fn operation(
        &mut self,
        db: &Connection,
        service: i64,
        name: &str,
        kind: i32,
        now: i64,
    ) -> rusqlite::Result<i64> {
        // The key is built before the look-up; a borrowed form would need a second hash by hand.
        let key = (service, kind, name.to_owned());
        if let Some(entry) = self.operations.get_mut(&key) {
            if now - entry.last_seen > self.lag {
                db.prepare_cached("UPDATE operations SET last_seen = ? WHERE id = ?")?
                    .execute([now, entry.id])?;
                entry.last_seen = now;
            }
            return Ok(entry.id);
        }
        let id = db
            .prepare_cached(
                "INSERT INTO operations(service, name, kind, last_seen) VALUES (?, ?, ?, ?)
                 ON CONFLICT(service, name, kind) DO UPDATE SET last_seen = excluded.last_seen
                 RETURNING id",
            )?
            .query_row(params![service, name, kind, now], |row| row.get(0))?;
        if self.operations.len() >= MOST {
            self.operations.clear();
        }
        self.operations.insert(key, Entry { id, last_seen: now });
        Ok(id)
    }

    /// A source that was forgotten gets a second row: rare, and cheaper than an index over blobs.
    pub(super) fn source(
        &mut self,
        db: &Connection,
        service: i64,
        rows: &SourceRows,
        now: i64,
    ) -> rusqlite::Result<i64> {
        let key = (service, rows.resource.clone(), rows.scope.clone());
        if let Some(entry) = self.sources.get_mut(&key) {
            if now - entry.last_seen > self.lag {
                db.prepare_cached("UPDATE sources SET last_seen = ? WHERE id = ?")?
                    .execute([now, entry.id])?;
                entry.last_seen = now;
            }
            return Ok(entry.id);
        }
        let id = db
            .prepare_cached(
                "INSERT INTO sources(service, resource, scope, last_seen) VALUES (?, ?, ?, ?)",
            )?
            .insert(params![service, rows.resource, rows.scope, now])?;
        // Resources are up to 64 KiB each.
        if self.sources.len() >= MOST / 50 {
            self.sources.clear();
        }
        self.sources.insert(key, Entry { id, last_seen: now });
        Ok(id)
    }

    /// Removes what no span can refer to any more: last seen before the oldest span arrived.
    pub(super) fn prune(&mut self, db: &Connection, oldest: i64) -> rusqlite::Result<()> {
        let before = oldest - self.lag - 1;
        let mut gone = db
            .prepare_cached("DELETE FROM operations WHERE last_seen < ?")?
            .execute([before])?;
        gone += db
            .prepare_cached("DELETE FROM sources WHERE last_seen < ?")?
            .execute([before])?;
        gone += db
            .prepare_cached(
                "DELETE FROM services WHERE NOT EXISTS
                   (SELECT 1 FROM operations WHERE operations.service = services.id)
                 AND NOT EXISTS (SELECT 1 FROM sources WHERE sources.service = services.id)",
            )?
            .execute([])?;
        if gone > 0 {
            self.forget();
        }
        Ok(())
    }
}
