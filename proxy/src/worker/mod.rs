//! Workers: one OS thread each, with its own runtime, sockets, pools and counters.
//!
//! Nothing here is shared with another worker but the configuration snapshot and what hangs on it.

pub mod timer;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use rand::{RngExt as _, rngs::SmallRng};

pub use timer::{Elapsed, Timer, Timers};

use crate::{snapshot::Snapshot, upstream::pool::Pools};

/// What every stream of a worker can reach.
#[derive(Debug)]
pub struct Worker {
    /// From 1; 0 is the main thread.
    pub index: usize,
    /// Connections to upstream hosts.
    pub pools: Pools,
    /// Timers for streams and connections.
    pub timers: Timers,
    snapshot: RefCell<Rc<Arc<Snapshot>>>,
    rng: RefCell<SmallRng>,
    next_connection: Cell<u64>,
}

impl Worker {
    /// The configuration of now; a stream takes it once and uses it to its end.
    #[must_use]
    pub fn snapshot(&self) -> Rc<Arc<Snapshot>> {
        Rc::clone(&self.snapshot.borrow())
    }

    /// A random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().random()
    }
}
