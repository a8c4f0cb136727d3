//! One connected proxy: what it is to have and what it has.

use std::{sync::Arc, time::SystemTime};

use outrigger_mesh::scope::Node;
use outrigger_xds::{
    TypeUrl,
    server::{Snapshot, TypeState, grpc::StreamInfo},
};
use tokio::sync::watch;

use super::cache::{Generation, Made};

/// A stream and its account.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info: StreamInfo,
    pub(super) node: Node,
    /// What its target was made of.
    made: Option<Made>,
    sender: watch::Sender<Option<Arc<Snapshot>>>,
    /// What it is to have; none before the first model.
    pub(super) target: Option<Arc<Snapshot>>,
    /// Whether its stream is served from `target` already.
    is_current: bool,
    /// Whether it has said that it has all of `target` that it asked for.
    pub(super) in_sync: bool,
    /// The last version of the model that it has completely.
    pub(super) version: u64,
    /// When it said so.
    pub(super) synced_at: Option<SystemTime>,
    /// Per type.
    pub(super) types: Vec<TypeState>,
}

/// What a new version means for a proxy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has everything already.
    Nothing,
    /// It has to take something.
    Wait,
    /// It refused the very same before, for this reason.
    Refused(String),
}

/// What an observation told that was not known before.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Responses taken.
    pub(super) acks: u64,
    /// Responses refused, each with type and reason.
    pub(super) rejected: Vec<String>,
}

impl Entry {
    pub(super) fn new(
        info: StreamInfo,
        node: Node,
        generation: &Generation,
    ) -> (Self, watch::Receiver<Option<Arc<Snapshot>>>) {
        let (sender, receiver) = watch::channel(None);
        let mut entry = Self {
            info,
            node,
            made: None,
            sender,
            target: None,
            is_current: false,
            in_sync: false,
            version: 0,
            synced_at: None,
            types: Vec::new(),
        };
        if generation.model().version > 0 {
            entry.retarget(generation);
        }
        (entry, receiver)
    }

    /// Gives it what `generation` has for it.
    pub(super) fn retarget(&mut self, generation: &Generation) -> Turn {
        let made = generation.snapshot(&self.node, self.made.as_ref());
        let next = Arc::clone(&made.snapshot);
        self.made = Some(made);
        if self
            .target
            .as_deref()
            .is_some_and(|target| is_same(target, &next))
        {
            if self.in_sync {
                self.version = generation.model().version;
                return Turn::Nothing;
            }
            return self.rejection().map_or(Turn::Wait, Turn::Refused);
        }
        self.in_sync = false;
        self.is_current = false;
        self.target = Some(Arc::clone(&next));
        self.sender.send_replace(Some(next));
        Turn::Wait
    }

    /// Whether it has asked for every type that its node has use for. A stream that has just begun has
    /// all that it asked for so far, which is not all.
    fn asks_for_all(&self, types: &[TypeState]) -> bool {
        let asks = |wanted: &TypeUrl| types.iter().any(|state| state.type_url == *wanted);
        let metadata = &self.node.metadata;
        let is_dialled = metadata.outbound.is_some() || !metadata.inbound.is_empty();
        if !is_dialled && metadata.interception.is_none() {
            // Not a sidecar: whatever it asks for.
            return !types.is_empty();
        }
        let Some(target) = &self.target else {
            return false;
        };
        // Where nothing is HTTP, no listener has routes to ask for.
        target
            .types()
            .all(|(type_url, resources)| resources.is_empty() || asks(type_url))
    }

    /// What it refuses at present.
    pub(super) fn rejection(&self) -> Option<String> {
        self.types.iter().find_map(|state| {
            let nack = state.nack.as_ref()?;
            Some(format!(
                "{}: {}",
                super::short_type(&state.type_url),
                nack.message
            ))
        })
    }

    /// What it refuses, if it has taken everything else: there is nothing more to wait for.
    pub(super) fn settled_rejection(&self) -> Option<String> {
        let refused = |state: &TypeState| {
            let nack = state.nack.as_ref();
            nack.is_some_and(|nack| Some(&nack.version) == state.version_sent.as_ref())
        };
        let settled = self.is_current
            && !self.in_sync
            && self
                .types
                .iter()
                .all(|state| state.in_sync || refused(state));
        if settled { self.rejection() } else { None }
    }

    /// Takes in the state of its stream, as of being served from `snapshot`.
    pub(super) fn observe(
        &mut self,
        snapshot: Option<&Arc<Snapshot>>,
        types: Vec<TypeState>,
        version: u64,
        now: SystemTime,
    ) -> News {
        let mut news = News::default();
        for state in &types {
            let before = self
                .types
                .iter()
                .find(|before| before.type_url == state.type_url);
            if state.acked_at != before.and_then(|before| before.acked_at) {
                news.acks += 1;
            }
            let nonce = |state: &TypeState| state.nack.as_ref().map(|nack| nack.nonce.clone());
            if let Some(nack) = &state.nack
                && nonce(state) != before.and_then(nonce)
            {
                let kind = super::short_type(&state.type_url);
                news.rejected.push(format!("{kind}: {}", nack.message));
            }
        }
        // A stream that has not yet seen the latest snapshot speaks of an older one.
        let is_current = match (snapshot, &self.target) {
            (Some(snapshot), Some(target)) => Arc::ptr_eq(snapshot, target),
            _ => false,
        };
        let in_sync =
            is_current && self.asks_for_all(&types) && types.iter().all(|state| state.in_sync);
        if in_sync && (!self.in_sync || self.version != version) {
            self.version = version;
            self.synced_at = Some(now);
        }
        self.is_current = is_current;
        if is_current {
            self.in_sync = in_sync;
        }
        self.types = types;
        news
    }
}

/// Whether both hold the same; by address where they share parts, which is nearly always.
fn is_same(one: &Snapshot, other: &Snapshot) -> bool {
    one.types().count() == other.types().count()
        && one
            .types()
            .zip(other.types())
            .all(|((a, one), (b, other))| a == b && (Arc::ptr_eq(one, other) || one == other))
}
