//! The state machine of one ADS stream on the client's side.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::response::Incoming;
use super::subscription::{Next, Subscription, deadline};
use super::{Event, TypeStats, UpdateId, Verdict, delta, sotw};
use crate::{Form, Node, Request, Response, TypeUrl};

/// Responses that may wait for an earlier one's verdict before the stream is no longer read.
const MAX_QUEUED: usize = 16;

/// A client of one management server, across its streams.
#[derive(Debug)]
pub struct Client {
    form: Form,
    node: Node,
    node_sent: bool,
    open: bool,
    types: BTreeMap<TypeUrl, Subscription>,
    events: VecDeque<Event>,
    last_id: u64,
}

impl Client {
    /// A client that wants nothing yet and has no stream.
    #[must_use]
    pub fn new(form: Form, node: Node) -> Self {
        Self {
            form,
            node,
            node_sent: false,
            open: false,
            types: BTreeMap::new(),
            events: VecDeque::new(),
            last_id: 0,
        }
    }

    /// The form of the protocol.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Wants resources by name; [`crate::WILDCARD`] means all. Names already wanted stay as they
    /// are. A name not answered within `initial_fetch_timeout` becomes an event, once.
    pub fn subscribe<N: Into<String>>(
        &mut self,
        type_url: &TypeUrl,
        names: impl IntoIterator<Item = N>,
        initial_fetch_timeout: Option<Duration>,
        now: Instant,
    ) {
        let subscription = self.types.entry(type_url.clone()).or_default();
        let names = names.into_iter().map(Into::into);
        subscription.subscribe(names, deadline(now, initial_fetch_timeout));
    }

    /// Wants these names no longer. The application must drop what it holds under them itself.
    pub fn unsubscribe<N: Into<String>>(
        &mut self,
        type_url: &TypeUrl,
        names: impl IntoIterator<Item = N>,
    ) {
        if let Some(subscription) = self.types.get_mut(type_url) {
            subscription.unsubscribe(names.into_iter().map(Into::into));
        }
    }

    /// Holds all requests of a type, until as many calls of [`Self::resume`].
    pub fn pause(&mut self, type_url: &TypeUrl) {
        self.types.entry(type_url.clone()).or_default().pauses += 1;
    }

    /// Undoes one [`Self::pause`].
    pub fn resume(&mut self, type_url: &TypeUrl) {
        if let Some(subscription) = self.types.get_mut(type_url) {
            subscription.pauses = subscription.pauses.saturating_sub(1);
        }
    }

    /// Answers an update. Returns false if there is none of that id that waits.
    pub fn verdict(&mut self, id: UpdateId, verdict: &Verdict) -> bool {
        let mut types = self.types.iter_mut();
        let found = types.find_map(|(type_url, subscription)| {
            subscription.verdict(id, verdict).then(|| type_url.clone())
        });
        let Some(type_url) = found else {
            return false;
        };
        self.advance(&type_url);
        true
    }

    /// A stream is there: everything is requested anew on it.
    pub fn stream_opened(&mut self) {
        self.open = true;
        self.node_sent = false;
        self.types
            .values_mut()
            .for_each(Subscription::stream_opened);
    }

    /// The stream is gone, or could not be opened. What is held stays in force.
    pub fn stream_closed(&mut self) {
        self.open = false;
        self.types
            .values_mut()
            .for_each(Subscription::stream_closed);
    }

    /// Whether more responses should be read. False is back-pressure: verdicts are missing.
    #[must_use]
    pub fn wants_responses(&self) -> bool {
        self.types.values().map(Subscription::queued).sum::<usize>() < MAX_QUEUED
    }

    /// Takes a response. Whatever is wrong with it becomes a NACK or [`Event::Malformed`].
    pub fn on_response(&mut self, response: Response) {
        let url = match &response {
            Response::Sotw(response) => response.type_url.clone(),
            Response::Delta(response) => response.type_url.clone(),
        };
        let type_url = TypeUrl::from(url.as_str());
        let incoming = match (self.form, response) {
            (Form::Sotw, Response::Sotw(response)) => sotw::read(&type_url, response),
            (Form::Delta, Response::Delta(response)) => delta::read(&type_url, response),
            (form, Response::Sotw(_) | Response::Delta(_)) => {
                let reason = format!("response of the other form on a stream of form {form}");
                self.events.push_back(Event::Malformed {
                    type_url: url,
                    nonce: String::new(),
                    reason,
                });
                return;
            }
        };
        let requested = self
            .types
            .get_mut(&type_url)
            .filter(|one| one.sent.is_some());
        let Some(subscription) = requested else {
            // No NACK: a request of a type that nobody wants would subscribe to it.
            self.events.push_back(Event::Malformed {
                type_url: url,
                nonce: incoming.nonce,
                reason: "response of a type that was not requested on this stream".to_owned(),
            });
            return;
        };
        if incoming.nonce.is_empty() {
            let reason = "nonce: must not be empty".to_owned();
            subscription.enqueue(Incoming {
                content: Err(reason),
                ..incoming
            });
        } else {
            subscription.enqueue(incoming);
        }
        self.advance(&type_url);
    }

    /// Makes timeouts that are due into events.
    pub fn on_tick(&mut self, now: Instant) {
        for (type_url, subscription) in &mut self.types {
            for name in subscription.expire(now) {
                let type_url = type_url.clone();
                self.events
                    .push_back(Event::InitialFetchTimeout { type_url, name });
            }
        }
    }

    /// When [`Self::on_tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.types
            .values()
            .filter_map(Subscription::next_deadline)
            .min()
    }

    /// The next request to send, in make-before-break order of types.
    pub fn poll_request(&mut self) -> Option<Request> {
        if !self.open {
            return None;
        }
        let updating: Vec<TypeUrl> = self
            .types
            .iter()
            .filter(|(_, subscription)| subscription.is_in_update())
            .map(|(type_url, _)| type_url.clone())
            .collect();
        let node = (!self.node_sent).then_some(&self.node);
        for (type_url, subscription) in &mut self.types {
            let depends = type_url
                .parents()
                .iter()
                .any(|parent| updating.contains(parent));
            // A new request beside an update would pass for its answer; an earlier answer may go.
            let is_busy = subscription.is_in_update() && subscription.answers.is_empty();
            if subscription.pauses > 0 || is_busy || depends {
                continue;
            }
            let request = match self.form {
                Form::Sotw => sotw::next_request(type_url, subscription, node).map(Request::Sotw),
                Form::Delta => {
                    delta::next_request(type_url, subscription, node).map(Request::Delta)
                }
            };
            if request.is_some() {
                self.node_sent = true;
                return request;
            }
        }
        None
    }

    /// The next event for the application.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The counts of each type ever subscribed to.
    pub fn stats(&self) -> impl Iterator<Item = (&TypeUrl, &TypeStats)> {
        self.types
            .iter()
            .map(|(type_url, subscription)| (type_url, &subscription.stats))
    }

    fn advance(&mut self, type_url: &TypeUrl) {
        let Some(subscription) = self.types.get_mut(type_url) else {
            return;
        };
        loop {
            self.last_id += 1;
            match subscription.next(self.form, type_url, UpdateId(self.last_id)) {
                Some(Next::Update(update)) => {
                    self.events.push_back(Event::Update(update));
                    return;
                }
                Some(Next::Malformed { nonce, reason }) => {
                    self.events.push_back(Event::Malformed {
                        type_url: type_url.as_str().to_owned(),
                        nonce,
                        reason,
                    });
                }
                None => return,
            }
        }
    }
}
