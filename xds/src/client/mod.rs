//! The client half: one ADS stream as a state machine, in either form of the protocol.
//!
//! [`Client`] owns what the application wants, what the server was told and what the application
//! holds. It is driven by [`Client::stream_opened`], [`Client::on_response`],
//! [`Client::stream_closed`] and [`Client::on_tick`], and polled with [`Client::poll_request`] and
//! [`Client::poll_event`]. It never decodes a resource and never looks at a clock.
//!
//! For each type at most one [`Update`] waits for its [`Verdict`]; while it does, requests of that
//! type and of the types that depend on it (EDS on CDS, RDS on LDS) are held, so that subscriptions
//! made while the update is applied leave in one request, after the ACK.

pub mod delta;
pub mod grpc;
mod machine;
mod response;
pub mod sotw;
mod subscription;
#[cfg(test)]
mod tests;

pub use machine::Client;

use std::fmt;

use crate::{Any, TypeUrl};

/// A resource as it came: the body is not decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its name, unique in its type.
    pub name: String,
    /// Its own version; in the state-of-the-world form the version of the response.
    pub version: String,
    /// The message. Its type URL is the update's.
    pub body: Any,
}

/// Names one [`Update`], across reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpdateId(u64);

/// What one response changes. The application must answer it with one [`Verdict`].
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// For [`Client::verdict`].
    pub id: UpdateId,
    /// The type of all resources in it.
    pub type_url: TypeUrl,
    /// `version_info`, or `system_version_info` in the incremental form (may be empty).
    pub version: String,
    /// The nonce of the response; for logs.
    pub nonce: String,
    /// New and changed resources, and in the state-of-the-world form possibly unchanged ones.
    pub added: Vec<Resource>,
    /// Resources that exist no more, and subscribed ones that the server says do not exist.
    pub removed: Vec<String>,
    /// Resources for which the server has an error instead of a body (`resource_errors`).
    pub errors: Vec<ResourceError>,
}

/// A resource with what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceError {
    /// The resource's name.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for ResourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// The application's answer to an [`Update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything in it is in force.
    Ack,
    /// Nothing in it is in force.
    Nack(String),
    /// The named resources are refused, each keeps its last good version; everything else in the
    /// update, removals included, is in force. Sent as a NACK that lists them.
    Partial(Vec<ResourceError>),
}

/// What the application must know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Resources changed.
    Update(Update),
    /// A subscribed name (or [`crate::WILDCARD`]) was not answered in the time that its subscriber
    /// gave. An answer may still come.
    InitialFetchTimeout {
        /// The type subscribed to.
        type_url: TypeUrl,
        /// The name without an answer.
        name: String,
    },
    /// The server broke the protocol. The response was refused, with a NACK where one is possible;
    /// what the application holds stays in force.
    Malformed {
        /// The response's type URL, as sent.
        type_url: String,
        /// The response's nonce.
        nonce: String,
        /// What is wrong, and where.
        reason: String,
    },
}

/// Counts of one type, with Envoy's meaning of each name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeStats {
    /// Fetches begun: the first, and one after each outcome.
    pub update_attempt: u64,
    /// Updates that were ACKed.
    pub update_success: u64,
    /// Updates that were NACKed, by the application or as malformed.
    pub update_rejected: u64,
    /// Streams lost while subscribed.
    pub update_failure: u64,
    /// Initial fetch timeouts.
    pub init_fetch_timeout: u64,
    /// The last version that was ACKed.
    pub version: String,
    /// The text of the last NACK, until the next ACK.
    pub last_nack: Option<String>,
}
