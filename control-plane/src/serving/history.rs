//! What became of each change of the model: who had to take it, who has, and how long that took.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use outrigger_mesh::ObjectRef;
use outrigger_xds::server::grpc::StreamId;

/// One version of the model on its way to the proxies.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) objects: Vec<ObjectRef>,
    noticed: Instant,
    pub(super) noticed_at: SystemTime,
    pub(super) published_at: SystemTime,
    pending: BTreeSet<StreamId>,
    /// Node and reason.
    pub(super) rejections: BTreeMap<StreamId, (String, String)>,
    /// How many proxies had to take something.
    pub(super) proxies: usize,
    /// How many of them have.
    pub(super) acked: usize,
    /// How many went away before.
    pub(super) gone: usize,
    /// From the first sign of the change to the last proxy's ACK, and when that was.
    pub(super) done: Option<(Duration, SystemTime)>,
}

impl Change {
    pub(super) fn new(
        version: u64,
        objects: Vec<ObjectRef>,
        noticed: Instant,
        noticed_at: SystemTime,
    ) -> Self {
        Self {
            version,
            objects,
            noticed,
            noticed_at,
            published_at: SystemTime::now(),
            pending: BTreeSet::new(),
            rejections: BTreeMap::new(),
            proxies: 0,
            acked: 0,
            gone: 0,
            done: None,
        }
    }

    /// This proxy has to take something.
    pub(super) fn expect(&mut self, id: StreamId) {
        if self.pending.insert(id) {
            self.proxies += 1;
        }
    }

    /// This proxy has everything of the present version, so of this one too.
    pub(super) fn acked(&mut self, id: StreamId, now: Instant, now_at: SystemTime) {
        if self.pending.remove(&id) || self.rejections.remove(&id).is_some() {
            self.acked += 1;
            self.close_if_done(now, now_at);
        }
    }

    /// This proxy refused.
    pub(super) fn rejected(&mut self, id: StreamId, node: &str, reason: &str) {
        if self.pending.remove(&id) {
            self.rejections
                .insert(id, (node.to_owned(), reason.to_owned()));
        }
    }

    /// This proxy is no longer there.
    pub(super) fn gone(&mut self, id: StreamId, now: Instant, now_at: SystemTime) {
        if self.pending.remove(&id) || self.rejections.remove(&id).is_some() {
            self.gone += 1;
            self.close_if_done(now, now_at);
        }
    }

    /// How many proxies have not answered.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn close_if_done(&mut self, now: Instant, now_at: SystemTime) {
        if self.done.is_none() && self.pending.is_empty() && self.rejections.is_empty() {
            self.done = Some((now.duration_since(self.noticed), now_at));
        }
    }
}
