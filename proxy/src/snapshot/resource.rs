//! A resource as it came: its wire form with version and time, for `/config_dump`.

use std::{sync::Arc, time::SystemTime};

use outrigger_proto::google::protobuf::Any;

/// One resource as received.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its name.
    pub name: Arc<str>,
    /// The version that the management server gave it.
    pub version: Arc<str>,
    /// The message.
    pub body: Any,
    /// Where it is from.
    pub origin: Origin,
    /// When it was received.
    pub updated: SystemTime,
}

/// Where a resource is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap.
    Static,
    /// xDS, by stream or file.
    Dynamic,
}

/// The last version of a resource that was refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) resource: Resource,
    pub(super) reason: String,
}
