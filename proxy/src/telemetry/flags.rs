//! Envoy's response flags: why a request went wrong, in two letters.

use std::{fmt, ops};

/// A set of response flags. It remembers the order in which the first few were set: Envoy prints them
/// in that order.
#[derive(Clone, Copy, Default)]
pub struct ResponseFlags {
    set: u32,
    /// Places of flags in [`Self::NAMES`], from one, six bits each; the first is lowest.
    order: u32,
}

/// How many flags have their place in the order.
const ORDERED: u32 = 5;
const PLACE_BITS: u32 = 6;

macro_rules! flags {
    ($($name:ident = $bit:literal, $short:literal, $long:literal, $doc:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = concat!("`", $short, "`: ", $doc)] pub const $name: Self = Self { set: 1 << $bit, order: $bit + 1 };)*

            /// Every flag with its short and long name, in the order in which Envoy prints them.
            const NAMES: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$name, $short, $long),)*];
        }
    };
}

flags! {
    FAILED_LOCAL_HEALTH_CHECK = 0, "LH", "FailedLocalHealthCheck", "the local service failed its health check.";
    NO_HEALTHY_UPSTREAM = 1, "UH", "NoHealthyUpstream", "no healthy host in the cluster.";
    UPSTREAM_REQUEST_TIMEOUT = 2, "UT", "UpstreamRequestTimeout", "the upstream took too long.";
    LOCAL_RESET = 3, "LR", "LocalReset", "the connection was reset by us.";
    UPSTREAM_REMOTE_RESET = 4, "UR", "UpstreamRemoteReset", "the upstream reset the stream.";
    UPSTREAM_CONNECTION_FAILURE = 5, "UF", "UpstreamConnectionFailure", "no connection to the upstream.";
    UPSTREAM_CONNECTION_TERMINATION = 6, "UC", "UpstreamConnectionTermination", "the upstream closed the connection.";
    UPSTREAM_OVERFLOW = 7, "UO", "UpstreamOverflow", "a circuit breaker is open.";
    NO_ROUTE_FOUND = 8, "NR", "NoRouteFound", "no route matches.";
    DELAY_INJECTED = 9, "DI", "DelayInjected", "delayed by fault injection.";
    FAULT_INJECTED = 10, "FI", "FaultInjected", "aborted by fault injection.";
    RATE_LIMITED = 11, "RL", "RateLimited", "rate limited.";
    UNAUTHORIZED_EXTERNAL_SERVICE = 12, "UAEX", "UnauthorizedExternalService", "denied by external authorization.";
    RATE_LIMIT_SERVICE_ERROR = 13, "RLSE", "RateLimitServiceError", "the rate-limit service failed.";
    DOWNSTREAM_CONNECTION_TERMINATION = 14, "DC", "DownstreamConnectionTermination", "the client went away.";
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15, "URX", "UpstreamRetryLimitExceeded", "no retry is left.";
    STREAM_IDLE_TIMEOUT = 16, "SI", "StreamIdleTimeout", "nothing moved for too long.";
    INVALID_ENVOY_REQUEST_HEADERS = 17, "IH", "InvalidEnvoyRequestHeaders", "a strictly checked header has a bad value.";
    DOWNSTREAM_PROTOCOL_ERROR = 18, "DPE", "DownstreamProtocolError", "the client broke the protocol.";
    UPSTREAM_MAX_STREAM_DURATION_REACHED = 19, "UMSDR", "UpstreamMaxStreamDurationReached", "the upstream stream lasted too long.";
    RESPONSE_FROM_CACHE_FILTER = 20, "RFCF", "ResponseFromCacheFilter", "served from a cache.";
    NO_FILTER_CONFIG_FOUND = 21, "NFCF", "NoFilterConfigFound", "a filter's configuration was late.";
    DURATION_TIMEOUT = 22, "DT", "DurationTimeout", "the stream or connection lasted too long.";
    UPSTREAM_PROTOCOL_ERROR = 23, "UPE", "UpstreamProtocolError", "the upstream broke the protocol.";
    NO_CLUSTER_FOUND = 24, "NC", "NoClusterFound", "the route's cluster does not exist.";
    OVERLOAD_MANAGER = 25, "OM", "OverloadManagerTerminated", "ended by the overload manager.";
    DNS_RESOLUTION_FAILED = 26, "DF", "DnsResolutionFailed", "the host's name did not resolve.";
    DROP_OVERLOAD = 27, "DO", "DropOverLoad", "dropped by an overload policy.";
    DOWNSTREAM_REMOTE_RESET = 28, "DR", "DownstreamRemoteReset", "the client reset the stream.";
    UNCONDITIONAL_DROP_OVERLOAD = 29, "UDO", "UnconditionalDropOverload", "all requests are dropped.";
}

impl ResponseFlags {
    /// Whether none is set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.set == 0
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.set & other.set == other.set
    }

    /// Sets `other` too.
    pub fn insert(&mut self, other: Self) {
        for index in other.indices() {
            if let Some((flag, ..)) = Self::NAMES.get(index)
                && !self.contains(*flag)
            {
                self.append(index);
            }
        }
        self.set |= other.set;
    }

    /// The short names of the flags that are set.
    pub fn short_names(self) -> impl Iterator<Item = &'static str> {
        self.names().map(|(short, _)| short)
    }

    /// The long names of the flags that are set.
    pub fn long_names(self) -> impl Iterator<Item = &'static str> {
        self.names().map(|(_, long)| long)
    }

    /// Notes that the flag at this place is set next.
    fn append(&mut self, index: usize) {
        let next = (0..ORDERED).find(|nth| self.nth(*nth).is_none());
        if let (Some(nth), Ok(place)) = (next, u32::try_from(index + 1)) {
            self.order |= place << (nth * PLACE_BITS);
        }
    }

    fn nth(self, nth: u32) -> Option<usize> {
        let place = self.order >> (nth * PLACE_BITS) & ((1 << PLACE_BITS) - 1);
        usize::try_from(place).ok()?.checked_sub(1)
    }

    /// Places of the flags that are set, in the order in which they were.
    fn indices(self) -> impl Iterator<Item = usize> {
        let is_ordered = move |index| (0..ORDERED).any(|nth| self.nth(nth) == Some(index));
        let rest = (0..Self::NAMES.len()).filter(move |index| !is_ordered(*index));
        let ordered = (0..ORDERED).filter_map(move |nth| self.nth(nth));
        ordered.chain(rest).filter(move |index| {
            let flag = Self::NAMES.get(*index);
            flag.is_some_and(|(flag, ..)| self.contains(*flag))
        })
    }

    fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.indices()
            .filter_map(|index| Self::NAMES.get(index))
            .map(|(_, short, long)| (*short, *long))
    }
}

impl ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(mut self, other: Self) -> Self {
        self.insert(other);
        self
    }
}

/// The order does not matter.
impl PartialEq for ResponseFlags {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
    }
}

impl Eq for ResponseFlags {}

impl ops::BitOrAssign for ResponseFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.insert(other);
    }
}

/// Short names with commas, as in `%RESPONSE_FLAGS%`; `-` if there is none.
impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (index, name) in self.short_names().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseFlags({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_by_name() {
        assert_eq!(ResponseFlags::default().to_string(), "-");
        let mut flags = ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
        assert_eq!(flags.to_string(), "UF,URX");
        assert_eq!(
            flags.long_names().collect::<Vec<_>>(),
            ["UpstreamConnectionFailure", "UpstreamRetryLimitExceeded"]
        );
        assert!(!flags.contains(ResponseFlags::NO_ROUTE_FOUND));
        let mut flags = ResponseFlags::default();
        flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
        flags |= ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        assert_eq!(flags.to_string(), "URX,UF");
    }
}
