//! Mirroring: requests that other clusters get too (`RouteAction.request_mirror_policies`).

use super::{header::HeaderMutations, matcher::StringMatcher, route::ClusterName};

/// `RouteAction.RequestMirrorPolicy`.
#[derive(Clone, Debug)]
pub struct MirrorPolicy {
    /// Who gets the copy.
    pub cluster: ClusterName,
    /// The share of requests.
    pub share: Share,
    /// Whether the copy's span is sampled, if not as the request's own.
    pub trace_sampled: Option<bool>,
    /// The copy's host.
    pub host: MirrorHost,
    /// Changes of the copy's headers, one after the other.
    pub request_headers: Vec<HeaderChange>,
}

/// `numerator` of `denominator` requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub numerator: u32,
    /// Of how many; not zero.
    pub denominator: u32,
}

/// The host of a mirrored request.
#[derive(Clone, Debug)]
pub enum MirrorHost {
    /// The request's own with `-shadow` behind its name.
    Suffixed,
    /// The request's own (`disable_shadow_host_suffix_append`).
    Same,
    /// This one (`host_rewrite_literal`).
    Literal(http::HeaderValue),
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutation`.
#[derive(Clone, Debug)]
pub enum HeaderChange {
    /// Adds or removes one header.
    Header(HeaderMutations),
    /// Removes every header whose name matches.
    RemoveOnMatch(StringMatcher),
}

impl Share {
    /// All requests.
    pub const ALL: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// Whether the request with this random number is among them.
    #[must_use]
    pub fn includes(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_of_their_denominator() {
        let count = |numerator, denominator| {
            let share = Share {
                numerator,
                denominator,
            };
            (0..10_000).filter(|n| share.includes(*n)).count()
        };
        assert_eq!(count(0, 100), 0);
        assert_eq!(count(1, 100), 100);
        assert_eq!(count(1, 10_000), 1);
        assert_eq!(count(100, 100), 10_000);
        assert_eq!(count(101, 100), 10_000);
        assert!(Share::ALL.includes(u64::MAX));
    }
}
