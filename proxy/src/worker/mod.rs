//! Workers: one OS thread each, with its own runtime, sockets, pools and counters.
//!
//! Nothing here is shared with another worker but the configuration snapshot and what hangs on it.

mod accept;
mod choice;
mod connections;
mod date;
mod dispatch;
mod drain;
mod run;
#[cfg(test)]
pub(crate) mod testing;
pub mod timer;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use http::HeaderValue;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

pub use connections::{Bell, Busy, Connection, Connections, Open};
pub use drain::{Drain, Scope};
pub use run::{Phase, Settings, spawn};
pub use timer::{Elapsed, Timer, Timers};

use crate::{
    config::listener::TrafficDirection, listener::protocol_choice::Learned, snapshot::Snapshot,
    upstream::pool::Pools,
};

/// A worker's own count on the shared snapshot: streams take and leave it without touching memory
/// that other workers touch.
pub type SharedSnapshot = Rc<SnapshotRef>;

/// A snapshot.
#[derive(Debug)]
pub struct SnapshotRef(Arc<Snapshot>);

impl std::ops::Deref for SnapshotRef {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// What every stream of a worker can reach.
#[derive(Debug)]
pub struct Worker {
    /// From 1; 0 is the main thread.
    pub index: usize,
    /// Connections to upstream hosts.
    pub pools: Pools,
    /// Connections from clients.
    pub connections: Connections,
    /// Destinations whose hosts speak first.
    pub learned: Learned,
    /// Timers for streams and connections.
    pub timers: Timers,
    /// How long a drained connection may go on.
    pub drain_time: Duration,
    date: date::DateCache,
    is_failing_health_checks: Arc<AtomicBool>,
    snapshot: RefCell<SharedSnapshot>,
    rng: RefCell<SmallRng>,
    next_connection: Cell<u64>,
    drain: Cell<Drain>,
}

impl Worker {
    /// A worker with nothing open.
    #[must_use]
    pub fn new(
        index: usize,
        drain_time: Duration,
        snapshot: Arc<Snapshot>,
        is_failing_health_checks: Arc<AtomicBool>,
        busy: Arc<Busy>,
    ) -> Self {
        Self {
            index,
            pools: Pools::default(),
            connections: Connections::counted(busy),
            learned: Learned::default(),
            timers: Timers::default(),
            drain_time,
            date: date::DateCache::default(),
            is_failing_health_checks,
            snapshot: RefCell::new(Rc::new(SnapshotRef(snapshot))),
            rng: RefCell::new(SmallRng::from_rng(&mut rand::rng())),
            next_connection: Cell::new(0),
            drain: Cell::default(),
        }
    }

    /// The configuration of now; a stream takes it once and uses it to its end.
    #[must_use]
    pub fn snapshot(&self) -> SharedSnapshot {
        Rc::clone(&self.snapshot.borrow())
    }

    /// Takes over a new configuration.
    fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.borrow_mut() = Rc::new(SnapshotRef(snapshot));
    }

    /// Whether clients are to go (`/healthcheck/fail`).
    #[must_use]
    pub fn is_failing_health_checks(&self) -> bool {
        self.is_failing_health_checks.load(Ordering::Relaxed)
    }

    /// Whether a client of a listener of this direction is to go (`/drain_listeners?graceful`, or the end).
    #[must_use]
    pub fn tells_to_go(&self, direction: TrafficDirection) -> bool {
        let drain = self.drain.get();
        (drain.leaving.is_some() || drain.ending.is_some())
            && drain.tells_to_go(direction, Instant::now(), self.drain_time, || self.random())
    }

    /// A number that no other connection of the process has.
    pub fn connection_id(&self) -> u64 {
        let next = self.next_connection.get();
        self.next_connection.set(next + 1);
        (self.index as u64) << 48 | next
    }

    /// The `date` header of a moment.
    #[must_use]
    pub fn date(&self, now: SystemTime) -> HeaderValue {
        self.date.at(now)
    }

    /// A random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().random()
    }
}
