//! The server half: one ADS stream as a state machine, in either form of the protocol.
//!
//! A stream is served from a [`Snapshot`], the whole configuration of one node. [`Stream`] compares
//! it with what the client holds and says what to send: only what changed, one response per type at
//! a time, new things before the ones that name them, removals last.

mod ledger;
mod snapshot;
mod stream;
#[cfg(test)]
mod tests;

pub mod delta;
pub mod grpc;
pub mod sotw;

pub use snapshot::{Resource, Resources, Snapshot, SnapshotBuilder};
pub use stream::{ProtocolError, Stream};

use std::sync::Arc;
use std::time::SystemTime;

use crate::TypeUrl;

/// A response that the client refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The nonce of the response.
    pub nonce: String,
    /// Its version (`version_info`, `system_version_info`).
    pub version: String,
    /// Why, in the client's words.
    pub message: String,
    /// When that came.
    pub at: SystemTime,
}

/// Where a client stands with one type; for `outrigger status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeState {
    /// The type.
    pub type_url: TypeUrl,
    /// Whether the client subscribed to all resources.
    pub wildcard: bool,
    /// The names it subscribed to, sorted.
    pub names: Vec<Arc<str>>,
    /// The version of the last response.
    pub version_sent: Option<String>,
    /// When that was sent.
    pub sent_at: Option<SystemTime>,
    /// The last version that the client took.
    pub version_acked: Option<String>,
    /// When it said so.
    pub acked_at: Option<SystemTime>,
    /// The last refusal, until a later response is ACKed and nothing refused is left.
    pub nack: Option<Nack>,
    /// How many resources the client holds, as far as is known.
    pub resources: usize,
    /// Whether the client holds exactly what the snapshot has for it.
    pub in_sync: bool,
}
