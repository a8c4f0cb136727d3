//! Which match wins when several do: the order of routes in a table.
//!
//! The Gateway API asks for the most specific match, over all rules of all routes of a service; a
//! proxy takes the first. So the table is sorted: exact paths; then regular expressions, whose
//! place the API leaves open, the longer pattern first; then prefixes, the longer first; among
//! equal paths those with a method, then with more headers, then with more query parameters. What
//! is still equal keeps the order it came in: of routes by age and name, of rules and matches by
//! their place.

use std::cmp::Reverse;

use crate::model::{Match, PathMatch};

/// Smaller is earlier.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    path: (u8, Reverse<usize>),
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
}

impl Precedence {
    pub(super) fn of(one: &Match) -> Self {
        let Match {
            path,
            method,
            headers,
            query,
        } = one;
        let path = match path {
            // Two exact paths never match the same request.
            PathMatch::Exact(_) => (0, Reverse(0)),
            PathMatch::Regex(pattern) => (1, Reverse(pattern.len())),
            PathMatch::Prefix(prefix) => (2, Reverse(prefix.len())),
        };
        Self {
            path,
            method: Reverse(method.is_some()),
            headers: Reverse(headers.len()),
            query: Reverse(query.len()),
        }
    }
}
