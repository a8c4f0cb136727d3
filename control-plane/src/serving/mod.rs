//! Serves the model to proxies: translates it once per version and scope, hands each stream its
//! snapshot, and keeps account of what every proxy was sent, took and refused.

mod cache;
mod history;
mod nodes;
mod view;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Instant, SystemTime},
};

use outrigger_mesh::{Model, ObjectRef, scope::Node};
use outrigger_xds::server::{
    Snapshot, TypeState,
    grpc::{Application, StreamId, StreamInfo},
};
use tokio::sync::watch;

use crate::sources::collect::Update;
use cache::Generation;
use history::Change;
use nodes::{Entry, Turn};
pub use view::{
    ChangeView, NodeConfig, ObjectView, ProxyView, RejectionView, Totals, TypeView, short_type,
};

/// How many changes are remembered.
const HISTORY: usize = 256;

/// Everything between the model and the streams.
#[derive(Debug, Default)]
pub struct Serving {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    generation: Arc<Generation>,
    nodes: BTreeMap<StreamId, Entry>,
    /// The oldest first.
    changes: VecDeque<Change>,
    /// The version in which each object last changed.
    objects: BTreeMap<ObjectRef, u64>,
    totals: Totals,
    stopping: bool,
}

impl Serving {
    /// Nothing to serve yet: streams that connect wait for the first model.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `update` what is served. Called by one writer.
    pub fn publish(&self, update: Update) {
        let Update {
            model,
            objects,
            noticed,
            noticed_at,
        } = update;
        let (previous, connected) = {
            let state = self.lock();
            let connected: Vec<_> = state
                .nodes
                .values()
                .map(|entry| entry.node.clone())
                .collect();
            (Arc::clone(&state.generation), connected)
        };
        let version = model.version;
        // The expensive part, outside of the lock: streams go on meanwhile.
        let generation = Arc::new(Generation::new(model, &previous, &connected));
        let mut state = self.lock();
        let state = &mut *state;
        state.generation = Arc::clone(&generation);
        for object in &objects {
            state.objects.insert(object.clone(), version);
        }
        state
            .objects
            .retain(|object, _| generation.model().objects().contains_key(object));
        let mut change = Change::new(version, objects, noticed, noticed_at);
        for (id, entry) in &mut state.nodes {
            match entry.retarget(&generation) {
                Turn::Nothing => {}
                Turn::Wait => change.expect(*id),
                Turn::Refused(reason) => {
                    change.expect(*id);
                    change.rejected(*id, &entry.node.id, &reason);
                }
            }
        }
        change.close_if_done(Instant::now(), SystemTime::now());
        state.changes.push_back(change);
        if state.changes.len() > HISTORY {
            state.changes.pop_front();
        }
    }

    /// The model that is served; the empty one before the first.
    pub fn model(&self) -> Arc<Model> {
        Arc::clone(self.lock().generation.model())
    }

    /// Ends every stream: proxies keep what they have and look for another control plane.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.nodes.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // State is only ever replaced field by field, so a panic elsewhere leaves it usable.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Application for Serving {
    fn connected(
        &self,
        stream: &StreamInfo,
    ) -> Result<watch::Receiver<Option<Arc<Snapshot>>>, tonic::Status> {
        let node = Node::from_proto(&stream.node).map_err(|error| {
            tracing::warn!(node = stream.node.id, %error, "refused a proxy");
            tonic::Status::invalid_argument(error.to_string())
        })?;
        tracing::info!(node = node.id, form = %stream.form, "proxy connected");
        let mut state = self.lock();
        if state.stopping {
            return Err(tonic::Status::unavailable("the control plane is stopping"));
        }
        let (entry, receiver) = Entry::new(stream.clone(), node, &state.generation);
        state.nodes.insert(stream.id, entry);
        state.totals.connections += 1;
        Ok(receiver)
    }

    fn observed(&self, id: StreamId, snapshot: Option<&Arc<Snapshot>>, types: Vec<TypeState>) {
        let (now, now_at) = (Instant::now(), SystemTime::now());
        let mut state = self.lock();
        let State {
            generation,
            nodes,
            changes,
            totals,
            ..
        } = &mut *state;
        let Some(entry) = nodes.get_mut(&id) else {
            return;
        };
        let news = entry.observe(snapshot, types, generation.model().version, now_at);
        totals.count(&news);
        for rejection in &news.rejected {
            tracing::warn!(node = entry.node.id, "proxy refused an update: {rejection}");
        }
        let rejection = entry.settled_rejection();
        for change in changes.iter_mut() {
            if entry.in_sync {
                change.acked(id, now, now_at);
            } else if let Some(rejection) = &rejection {
                change.rejected(id, &entry.node.id, rejection);
            }
        }
    }

    fn disconnected(&self, id: StreamId, reason: &str) {
        let mut state = self.lock();
        let Some(entry) = state.nodes.remove(&id) else {
            return;
        };
        tracing::info!(node = entry.node.id, reason, "proxy disconnected");
        let (now, now_at) = (Instant::now(), SystemTime::now());
        for change in &mut state.changes {
            change.gone(id, now, now_at);
        }
    }
}

#[cfg(test)]
mod tests;
