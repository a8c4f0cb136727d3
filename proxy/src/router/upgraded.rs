//! A request that a host answered with 101: its connection speaks another protocol from now on.

use std::fmt;

use super::{
    response_body::{Exchange, Held, note_expired},
    timeout::Expired,
};
use crate::upstream::pool::Switched;

/// The upstream side of a connection that was switched to another protocol. What the request holds (its
/// connection, its place in the circuit breakers) is given back when this is dropped.
pub struct Upgraded {
    exchange: Exchange,
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded").finish_non_exhaustive()
    }
}

impl Upgraded {
    pub(super) fn new(exchange: Exchange) -> Self {
        Self { exchange }
    }

    /// The host's socket; none if it is gone.
    pub(crate) async fn socket(&mut self) -> Option<Switched> {
        match &mut self.exchange.held {
            Some(Held::Http1(lease)) => lease.switched().await,
            _ => None,
        }
    }

    /// It ends, and not because the host wants it.
    pub(crate) fn close(self) {
        if let Some(Held::Http1(lease)) = &self.exchange.held {
            lease.note_our_end();
        }
    }

    /// The cluster's `max_stream_duration` is over.
    pub(crate) fn expire(self) {
        note_expired(Expired::Life, &self.exchange.cluster, &self.exchange.host);
        self.close();
    }
}
