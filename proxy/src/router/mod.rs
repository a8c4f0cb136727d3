//! From a request to its upstream: route tables, rewriting, header changes, forwarding.

mod index;
pub mod matcher;
mod table;

pub use table::{Match, Table};
