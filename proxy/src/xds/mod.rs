//! Which resources to want, where from, and what becomes of them.
//!
//! [`Control`] runs on the main thread. It subscribes along the cascade (CDS, then LDS; EDS and RDS for
//! what those name), gives each answer to [`State`](crate::snapshot::State), answers with an ACK or a NACK that names every
//! refused resource with its paths, and publishes a snapshot whenever something became warm. While
//! the management server is away, everything stays as it is.

mod ads;
mod control;
mod file_sources;
mod files;

pub use control::{Command, Control, Handle, Progress};
pub use files::check_files;
