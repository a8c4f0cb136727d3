//! Retry policies (`envoy.config.route.v3.RetryPolicy`), and the names of what is tried again.

use std::{ops, time::Duration};

use http::HeaderName;

use super::matcher::HeaderMatcher;

/// `envoy.config.route.v3.RetryPolicy`, of a route or of its virtual host.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// `retry_on`: when a request is tried again.
    pub on: RetryOn,
    /// Tries after the first. Default 1.
    pub num_retries: u32,
    /// Limit of each try, from the end of the request on.
    pub per_try_timeout: Option<Duration>,
    /// Longest time without progress of each try.
    pub per_try_idle_timeout: Option<Duration>,
    /// For `retriable-status-codes`.
    pub retriable_status_codes: Box<[u16]>,
    /// For `retriable-headers`: any of them in a response.
    pub retriable_headers: Box<[HeaderMatcher]>,
    /// Only requests with any of them are tried again; empty: all.
    pub retriable_request_headers: Box<[HeaderMatcher]>,
    /// The first back-off's upper bound. Default 25 ms.
    pub base_interval: Duration,
    /// The upper bound of all. Default ten times the first.
    pub max_interval: Duration,
    /// Back-offs that the response asks for.
    pub rate_limited: Option<RateLimitedBackOff>,
    /// `retry_host_predicate` with `previous_hosts`.
    pub avoids_previous_hosts: bool,
    /// How often another host is chosen when the predicate rejects one.
    pub host_selection_attempts: u32,
}

/// `RetryPolicy.RateLimitedRetryBackOff`.
#[derive(Clone, Debug)]
pub struct RateLimitedBackOff {
    /// The first that says how long counts.
    pub headers: Box<[ResetHeader]>,
    /// Longer ones are passed over. Default 300 s.
    pub max_interval: Duration,
}

/// `RetryPolicy.ResetHeader`.
#[derive(Clone, Debug)]
pub struct ResetHeader {
    /// Of the response.
    pub name: HeaderName,
    /// The value is a time of day, in seconds since 1970; else a number of seconds.
    pub is_timestamp: bool,
}

/// A set of conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

macro_rules! conditions {
    ($($name:ident = $bit:literal, $text:literal;)*) => {
        impl RetryOn {
            $(#[doc = concat!("`", $text, "`")] pub const $name: Self = Self(1 << $bit);)*

            const HTTP: &[(&str, Self)] = &[$(($text, Self::$name),)*];
        }
    };
}

conditions! {
    SERVER_ERROR = 0, "5xx";
    GATEWAY_ERROR = 1, "gateway-error";
    RESET = 2, "reset";
    RESET_BEFORE_REQUEST = 3, "reset-before-request";
    CONNECT_FAILURE = 4, "connect-failure";
    ENVOY_RATE_LIMITED = 5, "envoy-ratelimited";
    RETRIABLE_4XX = 6, "retriable-4xx";
    REFUSED_STREAM = 7, "refused-stream";
    RETRIABLE_STATUS_CODES = 8, "retriable-status-codes";
    RETRIABLE_HEADERS = 9, "retriable-headers";
    HTTP3_POST_CONNECT_FAILURE = 10, "http3-post-connect-failure";
}

/// gRPC conditions with the status that each stands for.
const GRPC: &[(&str, u32)] = &[
    ("cancelled", 1),
    ("deadline-exceeded", 4),
    ("resource-exhausted", 8),
    ("internal", 13),
    ("unavailable", 14),
];

/// Where the conditions of gRPC begin: status `n` has bit `GRPC_BITS + n`.
const GRPC_BITS: u32 = 12;

impl RetryOn {
    /// The condition of this name, as `retry_on` and `x-envoy-retry-on` have it.
    #[must_use]
    pub fn http(name: &str) -> Option<Self> {
        let known = Self::HTTP.iter().find(|(known, _)| *known == name);
        known.map(|(_, condition)| *condition)
    }

    /// The condition of this name, as `retry_on` and `x-envoy-retry-grpc-on` have it.
    #[must_use]
    pub fn grpc(name: &str) -> Option<Self> {
        let known = GRPC.iter().find(|(known, _)| *known == name);
        known.map(|(_, status)| Self(1 << (GRPC_BITS + status)))
    }

    /// Whether there is no condition.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of `other` is in the set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether this gRPC status is in the set.
    #[must_use]
    pub fn has_grpc(self, status: u32) -> bool {
        let bit = GRPC_BITS
            .checked_add(status)
            .and_then(|bit| 1_u32.checked_shl(bit));
        bit.is_some_and(|bit| self.0 & bit != 0)
    }

    /// Whether any gRPC status is in the set.
    #[must_use]
    pub fn has_any_grpc(self) -> bool {
        self.0 >> GRPC_BITS != 0
    }
}

impl ops::BitOrAssign for RetryOn {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How much of a request's body is kept for another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferLimit {
    /// The listener's `per_connection_buffer_limit_bytes`.
    Connection,
    /// `per_request_buffer_limit_bytes`: not more than the listener's.
    AtMost(u32),
    /// `request_body_buffer_limit`.
    Bytes(u64),
}

impl BufferLimit {
    /// The limit on a listener's connections.
    #[must_use]
    pub fn bytes(self, per_connection: u32) -> u64 {
        match self {
            Self::Connection => u64::from(per_connection),
            Self::AtMost(bytes) => u64::from(bytes.min(per_connection)),
            Self::Bytes(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_go_by_name() {
        let mut on = RetryOn::http("5xx").unwrap();
        assert!(on.has(RetryOn::SERVER_ERROR));
        assert!(!on.has_any_grpc());
        on |= RetryOn::grpc("unavailable").unwrap();
        assert!(on.has_grpc(14) && on.has_any_grpc());
        assert!(!on.has_grpc(13) && !on.has_grpc(u32::MAX) && !on.has_grpc(40));
        assert_eq!(RetryOn::http("unavailable"), None);
        assert_eq!(RetryOn::grpc("5xx"), None);
        assert!(RetryOn::default().is_empty());
    }

    #[test]
    fn buffer_limits_as_in_envoy() {
        assert_eq!(BufferLimit::Connection.bytes(10), 10);
        assert_eq!(BufferLimit::AtMost(20).bytes(10), 10);
        assert_eq!(BufferLimit::AtMost(5).bytes(10), 5);
        assert_eq!(BufferLimit::Bytes(20).bytes(10), 20);
    }
}
