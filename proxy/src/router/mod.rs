//! From a request to its upstream: route tables, rewriting, header changes, forwarding.

mod index;
mod levels;
pub mod matcher;
mod mutate;
mod rewrite;
mod table;

pub use table::{Match, Table};
