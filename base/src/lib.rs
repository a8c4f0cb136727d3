//! Process plumbing that two binaries use.

pub mod log;
pub mod signal;
