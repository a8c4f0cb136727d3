//! What the proxy tells about itself: statistics, the record of each stream, access logs and spans.

pub mod access_log;
pub mod flags;
pub mod format;
mod later;
pub mod otlp;
pub mod span;
pub mod stats;
pub mod stream_info;
#[cfg(test)]
pub(crate) mod testing;
