//! What the connections of one load share.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Sample;

/// How long what is on its way may take at the end.
const SETTLE: Duration = Duration::from_secs(5);

/// How far a load is.
#[derive(Default)]
pub(crate) struct Progress {
    /// Free connections, or connections with a free stream, one entry for each.
    pub(crate) idle: RefCell<Vec<usize>>,
    /// What is due and has no connection yet.
    pub(crate) backlog: RefCell<VecDeque<Instant>>,
    pub(crate) sample: RefCell<Sample>,
    pub(crate) in_flight: Cell<usize>,
    pub(crate) ended: Cell<bool>,
}

impl Progress {
    /// Asks for no more, and waits for what is on its way.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.ended.set(true);
        let settle = tokio::time::timeout(SETTLE, async {
            while self.in_flight.get() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        settle.await.context("replies are missing")
    }
}
