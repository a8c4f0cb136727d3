//! One stream of either form: which type is served next, and when removals may go out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::ledger::Ledger;
use super::{Resources, Snapshot, TypeState, delta, sotw};
use crate::{Form, Node, Request, Response, TypeUrl};

/// How long removals wait for the types that could name the removed to be requested at all: a client
/// that reconnects asks for its types one after the other.
const SETTLING: Duration = Duration::from_secs(2);

/// A request that breaks the protocol; the stream must be closed with `INVALID_ARGUMENT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProtocolError(pub(super) String);

/// The server's end of one ADS stream.
#[derive(Debug)]
pub struct Stream {
    form: Form,
    node: Option<Node>,
    opened_at: SystemTime,
    snapshot: Option<Arc<Snapshot>>,
    types: BTreeMap<TypeUrl, Ledger>,
    nonces: u64,
    nothing: Arc<Resources>,
}

impl Stream {
    /// A stream without any request yet.
    #[must_use]
    pub fn new(form: Form) -> Self {
        Self {
            form,
            node: None,
            opened_at: SystemTime::UNIX_EPOCH,
            snapshot: None,
            types: BTreeMap::new(),
            nonces: 0,
            nothing: Arc::default(),
        }
    }

    /// Who is at the other end, once the first request is there.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// What is served, once something is.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// Gives the configuration to serve from now on. Before the first one nothing is sent.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        for (type_url, ledger) in &mut self.types {
            let before = self
                .snapshot
                .as_ref()
                .and_then(|old| old.resources(type_url));
            let is_same = match (before, snapshot.resources(type_url)) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => self.snapshot.is_some(),
                (Some(_), None) | (None, Some(_)) => false,
            };
            ledger.dirty |= !is_same;
        }
        self.snapshot = Some(snapshot);
    }

    /// Takes a request.
    ///
    /// # Errors
    /// The client broke the protocol.
    pub fn on_request(&mut self, request: Request, now: SystemTime) -> Result<(), ProtocolError> {
        let (node, url) = match &request {
            Request::Sotw(request) => (&request.node, &request.type_url),
            Request::Delta(request) => (&request.node, &request.type_url),
        };
        if self.node.is_none() {
            let Some(node) = node else {
                return Err(ProtocolError(
                    "node: missing in the first request".to_owned(),
                ));
            };
            self.node = Some(node.clone());
            self.opened_at = now;
        }
        if url.is_empty() {
            return Err(ProtocolError("type_url: must not be empty".to_owned()));
        }
        let type_url = TypeUrl::from(url.as_str());
        let ledger = self.types.entry(type_url.clone()).or_default();
        match (self.form, request) {
            (Form::Sotw, Request::Sotw(request)) => sotw::take(&type_url, ledger, request, now),
            (Form::Delta, Request::Delta(request)) => delta::take(&type_url, ledger, request, now),
            (form, Request::Sotw(_) | Request::Delta(_)) => Err(ProtocolError(format!(
                "request of the other form on a stream of form {form}"
            ))),
        }
    }

    /// The next response to send.
    pub fn poll_response(&mut self, now: SystemTime) -> Option<Response> {
        let snapshot = self.snapshot.clone()?;
        // First what is new or changed, in order of types; each waits for the ones before it.
        let types: Vec<TypeUrl> = self.types.keys().cloned().collect();
        for type_url in &types {
            let waits = type_url
                .predecessors()
                .iter()
                .filter_map(|type_url| self.types.get(type_url))
                .any(|ledger| ledger.holds_up(now));
            let is_due = |ledger: &Ledger| ledger.dirty && ledger.in_flight.is_none();
            if !waits && self.types.get(type_url).is_some_and(is_due) {
                let response = self.serve(type_url, &snapshot, now);
                if response.is_some() {
                    return response;
                }
            }
        }
        // Then removals that were postponed, once whatever could name them is settled.
        for type_url in &types {
            let is_due = |ledger: &Ledger| ledger.postponed && ledger.in_flight.is_none();
            if self.types.get(type_url).is_some_and(is_due) && self.may_remove(type_url, now) {
                let response = self.serve(type_url, &snapshot, now);
                if response.is_some() {
                    return response;
                }
            }
        }
        None
    }

    /// Whether [`Self::poll_response`] is worth a call every second: responses are unanswered, and
    /// a client that never answers does not hold up other types for ever, or removals wait.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.types
            .values()
            .any(|ledger| ledger.in_flight.is_some() || ledger.postponed)
    }

    /// Where the client stands, per type in order.
    #[must_use]
    pub fn state(&self) -> Vec<TypeState> {
        let is_served = self.snapshot.is_some();
        self.types
            .iter()
            .map(|(type_url, ledger)| ledger.state(type_url, is_served))
            .collect()
    }

    fn may_remove(&self, type_url: &TypeUrl, now: SystemTime) -> bool {
        let is_new = now
            .duration_since(self.opened_at)
            .is_ok_and(|age| age < SETTLING);
        type_url
            .referrers()
            .iter()
            .all(|referrer| self.types.get(referrer).map_or(!is_new, Ledger::is_settled))
    }

    fn serve(
        &mut self,
        type_url: &TypeUrl,
        snapshot: &Snapshot,
        now: SystemTime,
    ) -> Option<Response> {
        let may_remove = self.may_remove(type_url, now);
        let target = snapshot.resources(type_url).unwrap_or(&self.nothing);
        let ledger = self.types.get_mut(type_url)?;
        let nonce = (self.nonces + 1).to_string();
        let response = match self.form {
            Form::Sotw => {
                sotw::give(type_url, ledger, target, may_remove, nonce, now).map(Response::Sotw)
            }
            Form::Delta => {
                delta::give(type_url, ledger, target, may_remove, nonce, now).map(Response::Delta)
            }
        };
        ledger.dirty = response.is_some();
        self.nonces += u64::from(response.is_some());
        response
    }
}
