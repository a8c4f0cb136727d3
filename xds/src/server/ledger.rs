//! What one client wants, holds and refused of one type, and the difference to what it should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Nack, Resource, Resources, TypeState};
use crate::TypeUrl;

/// A client that takes longer to answer no longer holds up the types after this one.
const STALL: Duration = Duration::from_secs(5);

/// What the client is known to have under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// A resource. The body is known where this stream sent it.
    Present {
        version: Arc<str>,
        body: Option<Arc<[u8]>>,
    },
    /// The knowledge that there is no such resource.
    Absent,
    /// Its removal was in a refused response, of which the client may have taken a part.
    Doubtful,
}

impl Held {
    pub(super) fn of(resource: &Resource) -> Self {
        Self::Present {
            version: Arc::clone(&resource.version),
            body: Some(Arc::clone(&resource.body)),
        }
    }

    fn version(&self) -> Option<&Arc<str>> {
        match self {
            Self::Present { version, .. } => Some(version),
            Self::Absent | Self::Doubtful => None,
        }
    }
}

/// A response that was not answered yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: String,
    pub(super) version: String,
    pub(super) changed: Vec<(Arc<str>, Resource)>,
    pub(super) removed: Vec<Arc<str>>,
    /// How many resources it carried, whatever was unsubscribed from since.
    pub(super) size: usize,
    pub(super) sent_at: SystemTime,
}

/// What the client lacks.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) changed: Vec<(Arc<str>, Resource)>,
    pub(super) removed: Vec<Arc<str>>,
    /// Removals that wait until nothing names these resources any more.
    pub(super) postponed: Vec<Arc<str>>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<Arc<str>>,
    pub(super) held: BTreeMap<Arc<str>, Held>,
    /// What a NACKed response carried: the version, or none for a removal. Not sent again as such.
    refused: BTreeMap<Arc<str>, Option<Arc<str>>>,
    /// Resources of a refused response that held several: one of them is at fault, so they are sent
    /// again in smaller groups until it stands alone. Their neighbours must not suffer for it.
    suspects: BTreeSet<Arc<str>>,
    /// How many suspects go into one response.
    group: usize,
    pub(super) in_flight: Option<InFlight>,
    pub(super) last_nonce: Option<String>,
    /// Whether a request was seen on this stream.
    pub(super) requested: bool,
    /// Whether names were ever listed: only before that an empty list means everything.
    pub(super) named: bool,
    /// Whether even an empty state must be sent, so that the client stops waiting.
    pub(super) must_answer: bool,
    /// State of the world: the version that the client says it holds, until it was compared.
    pub(super) resume: Option<String>,
    /// Whether the difference must be looked at.
    pub(super) dirty: bool,
    /// Whether removals were postponed.
    pub(super) postponed: bool,
    version_sent: Option<String>,
    sent_at: Option<SystemTime>,
    version_acked: Option<String>,
    acked_at: Option<SystemTime>,
    nack: Option<Nack>,
}

impl Ledger {
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Forgets what is no longer subscribed to: the client dropped it.
    pub(super) fn trim(&mut self) {
        if self.wildcard {
            return;
        }
        let names = &self.names;
        self.held.retain(|name, _| names.contains(name));
        self.refused.retain(|name, _| names.contains(name));
        self.suspects.retain(|name| names.contains(name));
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.changed.retain(|(name, _)| names.contains(name));
            in_flight.removed.retain(|name| names.contains(name));
        }
    }

    /// The client may have dropped a resource: whatever it had does not count.
    pub(super) fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.refused.remove(name);
        self.suspects.remove(name);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.changed.retain(|(other, _)| &**other != name);
            in_flight.removed.retain(|other| &**other != name);
        }
    }

    /// The resources of `target` that the client subscribed to.
    pub(super) fn wanted<'a>(
        &'a self,
        target: &'a Resources,
    ) -> Box<dyn Iterator<Item = (&'a Arc<str>, &'a Resource)> + 'a> {
        if self.wildcard {
            Box::new(target.iter())
        } else {
            Box::new(
                self.names
                    .iter()
                    .filter_map(|name| target.get_key_value(name)),
            )
        }
    }

    pub(super) fn difference(&self, target: &Resources, may_remove: bool) -> Difference {
        let mut difference = Difference::default();
        for (name, resource) in self.wanted(target) {
            let is_lacking = match self.refused.get(name) {
                Some(Some(version)) if *version == resource.version => false,
                // After a NACK nothing is sure: the client may have taken a part of the response.
                Some(_) => true,
                None if self.suspects.contains(name) => true,
                None => self.held.get(name).and_then(Held::version) != Some(&resource.version),
            };
            if is_lacking {
                difference
                    .changed
                    .push((Arc::clone(name), resource.clone()));
            }
        }
        for (name, held) in &self.held {
            if *held != Held::Absent && !self.is_doubtful(name) {
                self.remove(name, target, may_remove, &mut difference);
            }
        }
        let refused = self.refused.iter().filter(|(_, version)| version.is_some());
        for name in refused.map(|(name, _)| name).chain(&self.suspects) {
            self.remove(name, target, may_remove, &mut difference);
        }
        // A name that does not exist is answered too, so that the client stops waiting for it.
        for name in &self.names {
            let is_new = !self.held.contains_key(name) && !self.is_doubtful(name);
            if is_new && target.get(name).is_none() {
                difference.removed.push(Arc::clone(name));
            }
        }
        difference
    }

    /// The same, but only as much as one response may carry while suspects are tried.
    pub(super) fn partial_difference(&self, target: &Resources, may_remove: bool) -> Difference {
        let mut difference = self.difference(target, may_remove);
        if self.suspects.is_empty() {
            return difference;
        }
        let is_suspect = |(name, _): &(Arc<str>, Resource)| self.suspects.contains(name);
        if difference.changed.iter().all(is_suspect) {
            difference.changed.truncate(self.group.max(1));
        } else {
            difference.changed.retain(|one| !is_suspect(one));
        }
        difference
    }

    /// Whether it is unknown what the client has under a name.
    fn is_doubtful(&self, name: &str) -> bool {
        self.refused.contains_key(name) || self.suspects.contains(name)
    }

    fn remove(
        &self,
        name: &Arc<str>,
        target: &Resources,
        may_remove: bool,
        difference: &mut Difference,
    ) {
        if target.get(name).is_some() {
            return;
        }
        let list = if may_remove {
            &mut difference.removed
        } else {
            &mut difference.postponed
        };
        list.push(Arc::clone(name));
    }

    /// Whether nothing is on its way, to be sent or refused: what the client holds is what it
    /// should hold, apart from removals.
    pub(super) fn is_settled(&self) -> bool {
        !self.dirty && self.in_flight.is_none() && self.is_accepted()
    }

    fn is_accepted(&self) -> bool {
        self.refused.is_empty() && self.suspects.is_empty()
    }

    /// Whether later types should wait for an answer.
    pub(super) fn holds_up(&self, now: SystemTime) -> bool {
        self.in_flight.as_ref().is_some_and(|in_flight| {
            now.duration_since(in_flight.sent_at)
                .is_ok_and(|waited| waited < STALL)
        })
    }

    pub(super) fn send(&mut self, in_flight: InFlight) {
        self.last_nonce = Some(in_flight.nonce.clone());
        self.version_sent = Some(in_flight.version.clone());
        self.sent_at = Some(in_flight.sent_at);
        self.must_answer = false;
        self.in_flight = Some(in_flight);
    }

    /// Takes an ACK or, with a text, a NACK of the response in flight.
    /// `is_whole` says that the response listed the whole state, not only what changed.
    pub(super) fn answer(&mut self, error: Option<String>, is_whole: bool, now: SystemTime) {
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        self.dirty = true;
        if let Some(message) = error {
            self.nack(in_flight, message, is_whole, now);
            return;
        }
        if is_whole {
            self.refused.clear();
        }
        for (name, resource) in in_flight.changed {
            self.settle(&name);
            if self.wants(&name) {
                self.held.insert(name, Held::of(&resource));
            }
        }
        for name in in_flight.removed {
            self.settle(&name);
            self.held.remove(&name);
            if self.names.contains(&name) {
                self.held.insert(name, Held::Absent);
            }
        }
        self.version_acked = Some(in_flight.version);
        self.acked_at = Some(now);
        if self.is_accepted() {
            self.nack = None;
        }
    }

    /// Gives up on what was refused and is no longer there, where removals cannot be sent.
    pub(super) fn prune(&mut self, target: &Resources) {
        let doubtful = self.refused.keys().chain(&self.suspects);
        let gone: Vec<_> = doubtful
            .filter(|name| target.get(name).is_none())
            .cloned()
            .collect();
        for name in gone {
            self.settle(&name);
            self.held.remove(&name);
        }
        if self.is_accepted() {
            self.nack = None;
        }
    }

    fn settle(&mut self, name: &str) {
        self.refused.remove(name);
        self.suspects.remove(name);
    }

    fn nack(&mut self, refused: InFlight, message: String, is_whole: bool, now: SystemTime) {
        let InFlight {
            nonce,
            version,
            changed,
            removed,
            size,
            sent_at: _,
        } = refused;
        self.nack = Some(Nack {
            nonce,
            version,
            message,
            at: now,
        });
        // Removals cannot be at fault beside resources: they are sent again alone, or the resource
        // is, should it be back by then. Where they cannot be, sending the whole again would only
        // be refused again.
        if is_whole || size == 0 {
            self.refused
                .extend(removed.into_iter().map(|name| (name, None)));
        } else {
            for name in removed {
                if let Some(held @ Held::Present { .. }) = self.held.get_mut(&name) {
                    *held = Held::Doubtful;
                }
            }
        }
        if is_whole || size == 1 {
            for (name, resource) in changed {
                self.suspects.remove(&name);
                if self.held.get(&name) != Some(&Held::of(&resource)) {
                    self.refused.insert(name, Some(resource.version));
                }
            }
        } else {
            self.group = size / 2;
            for (name, _) in changed {
                self.refused.remove(&name);
                self.suspects.insert(name);
            }
        }
        if self.is_accepted() {
            // The client unsubscribed from all of it before it could refuse.
            self.nack = None;
        }
    }

    /// The client holds this version already, from an earlier stream.
    pub(super) fn resumed(&mut self, version: String, now: SystemTime) {
        self.version_sent = Some(version.clone());
        self.version_acked = Some(version);
        self.acked_at = Some(now);
        self.must_answer = false;
    }

    pub(super) fn state(&self, type_url: &TypeUrl, is_served: bool) -> TypeState {
        TypeState {
            type_url: type_url.clone(),
            wildcard: self.wildcard,
            names: self.names.iter().cloned().collect(),
            version_sent: self.version_sent.clone(),
            sent_at: self.sent_at,
            version_acked: self.version_acked.clone(),
            acked_at: self.acked_at,
            nack: self.nack.clone(),
            resources: self
                .held
                .values()
                .filter(|held| **held != Held::Absent)
                .count(),
            in_sync: is_served && self.is_settled() && !self.postponed,
        }
    }
}

/// A version for a set of resources: equal sets have equal versions, whoever computes them, so a
/// client can reconnect to any replica and be sent nothing.
pub(super) fn version_of<'a>(
    resources: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>,
) -> String {
    let sum = resources.fold(0_u64, |sum, (name, version)| {
        let mut hasher = DefaultHasher::new();
        (name, version).hash(&mut hasher);
        sum.wrapping_add(hasher.finish())
    });
    format!("{sum:016x}")
}
