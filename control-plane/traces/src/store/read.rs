//! The queries, each in one read snapshot of the database.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use super::Error;
use crate::model::{Dependency, Found, Operation, Query, Source, StoredSpan, Trace, TraceId};
use crate::tags;

/// Spans of one trace in an answer, and of all traces of one search.
const TRACE_SPANS: usize = 20_000;
const ANSWER_SPANS: usize = 100_000;
/// A read snapshot holds back the log's clean-up, so it must end.
const TIME: Duration = Duration::from_secs(10);

/// One query's snapshot, with what it has looked up so far.
pub(super) struct Reading<'c> {
    db: &'c Connection,
    sources: HashMap<i64, Arc<Source>>,
    operations: HashMap<i64, (String, i32)>,
    until: Instant,
}

pub(super) fn in_snapshot<T>(
    db: &Connection,
    query: impl FnOnce(&mut Reading<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let tx = db.unchecked_transaction()?;
    query(&mut Reading {
        db: &tx,
        sources: HashMap::new(),
        operations: HashMap::new(),
        until: Instant::now() + TIME,
    })
}

pub(super) fn services(reading: &mut Reading<'_>) -> Result<Vec<String>, Error> {
    let mut statement = reading.db.prepare_cached(
        "SELECT name FROM services WHERE EXISTS
           (SELECT 1 FROM spans WHERE spans.service = services.id) ORDER BY name",
    )?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

pub(super) fn operations(
    reading: &Reading<'_>,
    service: &str,
    kind: Option<SpanKind>,
) -> Result<Vec<Operation>, Error> {
    let mut statement = reading.db.prepare_cached(
        "SELECT operations.name, kind FROM operations JOIN services ON services.id = service
         WHERE services.name = ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY operations.name, kind",
    )?;
    let kind = kind.map(|kind| kind as i32);
    let rows = statement.query_map(params![service, kind], |row| {
        let kind = SpanKind::try_from(row.get::<_, i32>(1)?).unwrap_or(SpanKind::Unspecified);
        Ok(Operation {
            name: row.get(0)?,
            kind,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn trace(reading: &mut Reading<'_>, id: TraceId) -> Result<Option<Trace>, Error> {
    let db = reading.db;
    let mut statement = db.prepare_cached(
        "SELECT span_id, parent_id, operation, source, start, duration, body FROM spans
         WHERE trace_id = ? LIMIT ?",
    )?;
    let most = i64::try_from(TRACE_SPANS + 1).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![id.0, most])?;
    let mut spans = Vec::new();
    let mut truncated = false;
    while let Some(row) = rows.next()? {
        if spans.len() == TRACE_SPANS {
            truncated = true;
            break;
        }
        spans.push(reading.span(id, row)?);
    }
    spans.sort_by_key(|stored| stored.span.start_time_unix_nano);
    Ok((!spans.is_empty()).then_some(Trace {
        id,
        spans,
        truncated,
    }))
}

pub(super) fn search(reading: &mut Reading<'_>, query: &Query) -> Result<Found, Error> {
    let db = reading.db;
    let mut statement =
        db.prepare_cached("SELECT id FROM services WHERE ?1 IS NULL OR name = ?1")?;
    let services: Vec<i64> = statement
        .query_map([&query.service], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut newest: HashMap<TraceId, i64> = HashMap::new();
    for service in services {
        for (id, start) in matching(reading, service, query)? {
            let known = newest.entry(id).or_insert(start);
            *known = start.max(*known);
        }
    }
    let mut ids: Vec<_> = newest.into_iter().collect();
    // By id where starts are equal, so that the same question has the same answer.
    ids.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ids.truncate(query.limit);
    let mut found = Found::default();
    let mut spans = 0;
    for (done, (id, _)) in ids.iter().enumerate() {
        reading.in_time()?;
        if spans > ANSWER_SPANS {
            found.left_out = ids.len() - done;
            break;
        }
        if let Some(trace) = trace(reading, *id)? {
            spans += trace.spans.len();
            found.traces.push(trace);
        }
    }
    Ok(found)
}

/// The newest distinct traces, at most the query's limit, in which a span of this service matches.
fn matching(
    reading: &mut Reading<'_>,
    service: i64,
    query: &Query,
) -> Result<Vec<(TraceId, i64)>, Error> {
    let db = reading.db;
    let mut sql = String::from(
        "SELECT trace_id, start, span_id, parent_id, operation, source, duration, body FROM spans
           INDEXED BY spans_by_service
         WHERE service = ? AND start BETWEEN ? AND ? AND duration BETWEEN ? AND ?",
    );
    let mut values: Vec<Value> = vec![
        service.into(),
        query.start.map_or(0, clamp).into(),
        query.end.map_or(i64::MAX, clamp).into(),
        query.min_duration.map_or(0, nanos).into(),
        query.max_duration.map_or(i64::MAX, nanos).into(),
    ];
    if let Some(name) = &query.operation {
        let mut statement =
            db.prepare_cached("SELECT id FROM operations WHERE service = ? AND name = ?")?;
        let ids: Vec<i64> = statement
            .query_map(params![service, name], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        // One name has at most six kinds.
        sql.push_str(" AND operation IN (");
        sql.push_str(&vec!["?"; ids.len()].join(","));
        sql.push(')');
        values.extend(ids.into_iter().map(Value::from));
    }
    sql.push_str(" ORDER BY start DESC");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut read = 0_u32;
    while found.len() < query.limit
        && let Some(row) = rows.next()?
    {
        read = read.wrapping_add(1);
        if read.is_multiple_of(256) {
            reading.in_time()?;
        }
        let id = TraceId(row.get(0)?);
        if !seen.contains(&id) && reading.has_tags(row, &query.tags)? {
            seen.insert(id);
            found.push((id, row.get(1)?));
        }
    }
    Ok(found)
}

pub(super) fn dependencies(
    reading: &Reading<'_>,
    start: u64,
    end: u64,
) -> Result<Vec<Dependency>, Error> {
    let names: HashMap<i64, String> = reading
        .db
        .prepare_cached("SELECT id, name FROM services")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut calls: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut statement = reading.db.prepare_cached(
        "SELECT parent.service FROM spans AS child INDEXED BY spans_by_service
           JOIN spans AS parent
             ON parent.trace_id = child.trace_id AND parent.span_id = child.parent_id
         WHERE child.service = ? AND child.start BETWEEN ? AND ? AND parent.service <> child.service",
    )?;
    for (child, child_name) in &names {
        let mut rows = statement.query(params![child, clamp(start), clamp(end)])?;
        let mut read = 0_u32;
        while let Some(row) = rows.next()? {
            read = read.wrapping_add(1);
            if read.is_multiple_of(256) {
                reading.in_time()?;
            }
            if let Some(parent) = names.get(&row.get(0)?) {
                *calls.entry((parent, child_name)).or_default() += 1;
            }
        }
    }
    let link = |((parent, child), calls): ((&str, &str), u64)| Dependency {
        parent: parent.to_owned(),
        child: child.to_owned(),
        calls,
    };
    Ok(calls.into_iter().map(link).collect())
}

impl Reading<'_> {
    fn in_time(&self) -> Result<(), Error> {
        if Instant::now() < self.until {
            Ok(())
        } else {
            Err(Error::TooSlow(TIME))
        }
    }

    /// Builds the span from its columns, found by name.
    fn span(&mut self, id: TraceId, row: &Row<'_>) -> Result<StoredSpan, Error> {
        let mut span = decode::<Span>(row, "body")?;
        let (name, kind) = self.operation(row.get("operation")?)?;
        span.trace_id = id.0.to_vec();
        span.span_id = row.get("span_id")?;
        span.parent_span_id = row
            .get::<_, Option<Vec<u8>>>("parent_id")?
            .unwrap_or_default();
        span.name = name;
        span.kind = kind;
        let start: i64 = row.get("start")?;
        let duration: i64 = row.get("duration")?;
        span.start_time_unix_nano = u64::try_from(start).unwrap_or(0);
        span.end_time_unix_nano = u64::try_from(start.saturating_add(duration)).unwrap_or(0);
        let source = self.source(row.get("source")?)?;
        Ok(StoredSpan { source, span })
    }

    fn has_tags(&mut self, row: &Row<'_>, wanted: &[(String, String)]) -> Result<bool, Error> {
        if wanted.is_empty() {
            return Ok(true);
        }
        let stored = self.span(TraceId(row.get("trace_id")?), row)?;
        Ok(wanted
            .iter()
            .all(|(key, value)| tags::has_tag(&stored.source, &stored.span, key, value)))
    }

    fn operation(&mut self, id: i64) -> Result<(String, i32), Error> {
        if let Some(known) = self.operations.get(&id) {
            return Ok(known.clone());
        }
        let found = self
            .db
            .prepare_cached("SELECT name, kind FROM operations WHERE id = ?")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
            .unwrap_or_default();
        self.operations.insert(id, found.clone());
        Ok(found)
    }

    fn source(&mut self, id: i64) -> Result<Arc<Source>, Error> {
        if let Some(known) = self.sources.get(&id) {
            return Ok(Arc::clone(known));
        }
        let mut statement = self.db.prepare_cached(
            "SELECT services.name, resource, scope FROM sources
               JOIN services ON services.id = sources.service WHERE sources.id = ?",
        )?;
        let mut rows = statement.query([id])?;
        let source = match rows.next()? {
            Some(row) => Source {
                service: row.get(0)?,
                resource: decode::<Resource>(row, "resource")?,
                scope: decode::<InstrumentationScope>(row, "scope")?,
            },
            None => Source {
                service: String::new(),
                resource: Resource::default(),
                scope: InstrumentationScope::default(),
            },
        };
        let source = Arc::new(source);
        self.sources.insert(id, Arc::clone(&source));
        Ok(source)
    }
}

/// Bytes that we wrote and cannot read mean damage that SQLite did not see.
fn decode<M: prost::Message + Default>(row: &Row<'_>, column: &str) -> Result<M, Error> {
    let bytes = row.get_ref(column)?.as_blob().map_err(|_| broken(column))?;
    M::decode(bytes).map_err(|_| broken(column))
}

fn broken(column: &str) -> Error {
    Error::Database(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(format!("column {column} does not hold what was written")),
    ))
}

fn clamp(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
