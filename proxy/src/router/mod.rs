//! From a request to its upstream: route tables, rewriting, header changes, forwarding.

mod answer;
mod attempt;
mod choice;
mod destination;
mod failure;
mod filters;
mod forward;
mod hash;
mod index;
mod levels;
pub mod matcher;
mod mirror;
mod mutate;
mod outcome;
mod proper;
mod reason;
mod replay;
mod response_body;
mod retry;
mod rewrite;
mod run;
mod table;
mod timeout;
mod upgraded;

pub use choice::choose_cluster;
pub use forward::{forward, mutate_local_reply};
pub use mutate::{Addition, Level, Mutations};
pub use table::{Match, Table};
pub use timeout::max_stream_duration;
pub use upgraded::Upgraded;

#[cfg(test)]
mod mutate_tests;
#[cfg(test)]
mod table_tests;
