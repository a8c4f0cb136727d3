//! The health of hosts: why one does not take requests, and the active checks that find out.

mod flags;

pub use flags::HealthFlags;
