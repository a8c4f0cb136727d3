//! `envoy.filters.http.header_mutation`
//! (`envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`, per route
//! `HeaderMutationPerRoute`): changes headers of requests and responses, one after the other.
//!
//! Refused: changes of query parameters and of trailers.

mod config;
mod filter;
#[cfg(test)]
mod tests;

pub use config::{Config, Mutation, Mutations, RouteConfig};
pub use filter::{Filter, Route};
