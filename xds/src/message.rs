//! Messages of a stream, in either form.

use crate::discovery;

/// A request, from client to server.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "short-lived: moved once and taken apart"
)]
pub enum Request {
    /// State of the world.
    Sotw(discovery::DiscoveryRequest),
    /// Incremental.
    Delta(discovery::DeltaDiscoveryRequest),
}

/// A response, from server to client.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "short-lived: moved once and taken apart"
)]
pub enum Response {
    /// State of the world.
    Sotw(discovery::DiscoveryResponse),
    /// Incremental.
    Delta(discovery::DeltaDiscoveryResponse),
}
