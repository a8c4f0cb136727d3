//! The embedded span store: takes OTLP spans in, bounded by age and size, and answers trace queries.
//!
//! One writer thread owns the SQLite database; requests hand it checked batches over a bounded
//! queue and wait for the commit, readers use their own connections. The store knows nothing of
//! meshes, HTTP or Jaeger: its words are OpenTelemetry's.
//!
//! A span is kept from its arrival for [`Limits::max_age`], whatever its own time says, so that late spans
//! and replays are kept like all others; the oldest arrivals go first when [`Limits::max_bytes`] is reached.

mod ingest;
mod model;
mod store;
mod tags;

pub use model::{
    Dependency, Found, InvalidTraceId, Operation, Query, Source, StoredSpan, Trace, TraceId,
};
pub use store::{Error, IngestError, Limits, Outcome, Stats, Store};
pub use tags::{kind_name, value_json, value_text};
