//! What is known of one type: wanted and told names, held resources, answers not sent yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::response::Incoming;
use super::{ResourceError, TypeStats, Update, UpdateId, Verdict};
use crate::{Form, TypeUrl, WILDCARD};

/// An ACK or a NACK that waits to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) nonce: String,
    pub(super) error: Option<String>,
}

/// An update that waits for its verdict.
#[derive(Debug)]
struct Current {
    id: UpdateId,
    nonce: String,
    version: String,
    added: Vec<(String, String)>,
    removed: Vec<String>,
    /// Names in it that nobody wanted when it was handed out.
    dropped: Vec<String>,
    /// Whether it lists all there is.
    is_whole: bool,
    /// Whether the stream it came on is still open: only then is there someone to answer.
    answerable: bool,
}

#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// Names the application wants, [`WILDCARD`] among them.
    pub(super) wanted: BTreeSet<String>,
    /// Names the server was told on this stream; `None` before the first request.
    pub(super) sent: Option<BTreeSet<String>>,
    /// Names dropped and wanted again since the last request.
    pub(super) again: BTreeSet<String>,
    /// Whether a request with names was sent on this stream (it ends the legacy wildcard).
    pub(super) named_on_stream: bool,
    pub(super) last_nonce: String,
    pub(super) answers: VecDeque<Answer>,
    pub(super) stats: TypeStats,
    pub(super) pauses: usize,
    /// Accepted resources, name to version.
    held: BTreeMap<String, String>,
    /// Resources of which the last one that came was refused.
    refused: BTreeSet<String>,
    current: Option<Current>,
    queue: VecDeque<Incoming>,
    /// Names without any answer yet, with the time at which that becomes an event.
    waiting: BTreeMap<String, Option<Instant>>,
}

/// What taking the next response from the queue brought.
pub(super) enum Next {
    Update(Update),
    Malformed { nonce: String, reason: String },
}

impl Subscription {
    pub(super) fn subscribe(
        &mut self,
        names: impl IntoIterator<Item = String>,
        deadline: Option<Instant>,
    ) {
        if self.stats.update_attempt == 0 {
            self.stats.update_attempt = 1;
        }
        for name in names {
            if self.wanted.contains(&name) {
                continue;
            }
            if self.sent.as_ref().is_some_and(|sent| sent.contains(&name)) {
                self.again.insert(name.clone());
            }
            if !self.held.contains_key(&name) {
                self.waiting.insert(name.clone(), deadline);
            }
            self.wanted.insert(name);
        }
    }

    pub(super) fn unsubscribe(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            self.wanted.remove(&name);
            self.waiting.remove(&name);
            self.again.remove(&name);
        }
        let wanted = &self.wanted;
        if !wanted.contains(WILDCARD) {
            self.held.retain(|name, _| wanted.contains(name));
            self.refused.retain(|name| wanted.contains(name));
        }
    }

    /// The version that a request carries. A new stream gets none where it would claim too much:
    /// the server would believe that the client holds everything of that version.
    pub(super) fn version_to_send(&self) -> String {
        let is_exact = self.refused.is_empty() && self.waiting.is_empty();
        if self.sent.is_some() || is_exact {
            self.stats.version.clone()
        } else {
            String::new()
        }
    }

    /// Whether the server must be told of names.
    /// Whether a request is to be sent, and what it answers: the first one needs names, others an answer or
    /// other names.
    pub(super) fn due(&mut self) -> Option<Option<Answer>> {
        let answer = self.answers.pop_front();
        let is_due = match self.sent {
            None => !self.wanted.is_empty(),
            Some(_) => answer.is_some() || self.is_changed(),
        };
        is_due.then_some(answer)
    }

    pub(super) fn is_changed(&self) -> bool {
        !self.again.is_empty() || self.sent.as_ref() != Some(&self.wanted)
    }

    pub(super) fn is_in_update(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn initial_versions(&self) -> HashMap<String, String> {
        self.held
            .iter()
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect()
    }

    pub(super) fn stream_opened(&mut self) {
        self.sent = None;
        self.again.clear();
        self.named_on_stream = false;
        self.last_nonce.clear();
        self.answers.clear();
    }

    pub(super) fn stream_closed(&mut self) {
        self.stream_opened();
        self.queue.clear();
        if let Some(current) = &mut self.current {
            current.answerable = false;
        }
        if !self.wanted.is_empty() {
            self.stats.update_failure += 1;
            self.stats.update_attempt += 1;
        }
    }

    pub(super) fn enqueue(&mut self, incoming: Incoming) {
        self.queue.push_back(incoming);
    }

    /// Hands out the next response, unless one is still with the application.
    pub(super) fn next(&mut self, form: Form, type_url: &TypeUrl, id: UpdateId) -> Option<Next> {
        if self.current.is_some() {
            return None;
        }
        let Incoming {
            version,
            nonce,
            content,
        } = self.queue.pop_front()?;
        let mut content = match content {
            Ok(content) => content,
            Err(reason) => {
                self.reject(nonce.clone(), reason.clone(), true);
                return Some(Next::Malformed { nonce, reason });
            }
        };
        let everything = self.wanted.contains(WILDCARD);
        let mut dropped = Vec::new();
        content.resources.retain(|resource| {
            let is_wanted = everything || self.wanted.contains(&resource.name);
            if !is_wanted {
                dropped.push(resource.name.clone());
            }
            is_wanted
        });
        content
            .errors
            .retain(|error| everything || self.wanted.contains(&error.name));
        let is_whole = form == Form::Sotw && type_url.is_sent_whole();
        if is_whole {
            let present: BTreeSet<&str> = content
                .resources
                .iter()
                .map(|resource| resource.name.as_str())
                .chain(content.errors.iter().map(|error| error.name.as_str()))
                .collect();
            content.removed = self
                .held
                .keys()
                .chain(
                    self.waiting
                        .keys()
                        .filter(|name| !self.held.contains_key(*name)),
                )
                .filter(|name| *name != WILDCARD && !present.contains(name.as_str()))
                .cloned()
                .collect();
        } else {
            content
                .removed
                .retain(|name| self.held.contains_key(name) || self.waiting.contains_key(name));
        }
        self.waiting.remove(WILDCARD);
        let added = content.resources.iter();
        let added: Vec<_> = added
            .map(|one| (one.name.clone(), one.version.clone()))
            .collect();
        let failed = content.errors.iter().map(|error| &error.name);
        for name in added
            .iter()
            .map(|(name, _)| name)
            .chain(&content.removed)
            .chain(failed)
        {
            self.waiting.remove(name);
        }
        self.current = Some(Current {
            id,
            nonce: nonce.clone(),
            version: version.clone(),
            added,
            removed: content.removed.clone(),
            dropped,
            is_whole,
            answerable: true,
        });
        Some(Next::Update(Update {
            id,
            type_url: type_url.clone(),
            version,
            nonce,
            added: content.resources,
            removed: content.removed,
            errors: content.errors,
        }))
    }

    /// Records the verdict; false if it is for no update of this type.
    pub(super) fn verdict(&mut self, id: UpdateId, verdict: &Verdict) -> bool {
        let Some(current) = self.current.take_if(|current| current.id == id) else {
            return false;
        };
        // Wanted by now, but gone: the server must not take the answer as proof that it is held.
        let dropped = current
            .dropped
            .iter()
            .filter(|name| self.wanted.contains(*name));
        self.again.extend(dropped.cloned());
        match verdict {
            Verdict::Ack => {
                self.hold(&current, &[]);
                self.stats.version = current.version;
                self.stats.update_success += 1;
                self.stats.update_attempt += 1;
                self.stats.last_nack = None;
                if current.answerable {
                    self.answers.push_back(Answer {
                        nonce: current.nonce,
                        error: None,
                    });
                }
            }
            Verdict::Nack(reason) => {
                self.reject(current.nonce, reason.clone(), current.answerable);
            }
            Verdict::Partial(refused) => {
                self.hold(&current, refused);
                let text: Vec<String> = refused.iter().map(ToString::to_string).collect();
                self.reject(current.nonce, text.join("\n"), current.answerable);
            }
        }
        true
    }

    /// Names whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<String> {
        let mut expired = Vec::new();
        for (name, deadline) in &mut self.waiting {
            if deadline.is_some_and(|deadline| deadline <= now) {
                *deadline = None;
                expired.push(name.clone());
            }
        }
        self.stats.init_fetch_timeout += expired.len() as u64;
        expired
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().flatten().min().copied()
    }

    fn hold(&mut self, update: &Current, refused: &[ResourceError]) {
        let everything = self.wanted.contains(WILDCARD);
        if update.is_whole {
            self.refused.clear();
        }
        for (name, version) in &update.added {
            if !everything && !self.wanted.contains(name) {
                continue;
            }
            if refused.iter().any(|error| error.name == *name) {
                self.refused.insert(name.clone());
            } else {
                self.refused.remove(name);
                self.held.insert(name.clone(), version.clone());
            }
        }
        for name in &update.removed {
            self.held.remove(name);
            self.refused.remove(name);
        }
    }

    fn reject(&mut self, nonce: String, reason: String, answerable: bool) {
        self.stats.update_rejected += 1;
        self.stats.update_attempt += 1;
        self.stats.last_nack = Some(reason.clone());
        if answerable {
            self.answers.push_back(Answer {
                nonce,
                error: Some(reason),
            });
        }
    }
}

/// When a subscription made now times out; zero and none mean never, as in Envoy.
pub(super) fn deadline(now: Instant, timeout: Option<Duration>) -> Option<Instant> {
    timeout
        .filter(|timeout| !timeout.is_zero())
        .and_then(|timeout| now.checked_add(timeout))
}
