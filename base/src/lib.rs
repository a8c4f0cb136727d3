//! Process plumbing that two binaries use.

pub mod file;
pub mod log;
pub mod net;
pub mod signal;
