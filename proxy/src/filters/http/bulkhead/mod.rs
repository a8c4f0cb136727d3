//! `outrigger.filters.http.bulkhead`: how many requests are in progress at once, for all callers and for
//! each, with a bounded queue that is fair between callers.
//!
//! `proto/proto/outrigger/extensions/filters/http/bulkhead` says what it means. `shared` is the
//! bulkhead itself, `queue` decides who is next, `callers` counts what is in progress, and
//! `registry` keeps bulkheads over changes of the configuration.

mod callers;
mod config;
mod filter;
mod queue;
mod registry;
mod shared;
#[cfg(test)]
mod tests;

pub use config::{Config, Key, Lanes, Limits, RouteConfig};
pub use filter::{Filter, Route};
pub use registry::Bulkheads;
pub use shared::{Bulkhead, LastRejection, Permit, Report};
