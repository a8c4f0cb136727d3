//! String, header and query-parameter matchers (`envoy.type.matcher.v3`, `envoy.config.route.v3`).

use std::sync::Arc;

/// `envoy.type.matcher.v3.StringMatcher`; `ignore_case` never applies to a regex.
#[derive(Clone, Debug)]
pub enum StringMatcher {
    /// Equal.
    Exact {
        /// What to look for.
        value: Arc<str>,
        /// ASCII case does not matter.
        ignore_case: bool,
    },
    /// Begins with.
    Prefix {
        /// What to look for.
        value: Arc<str>,
        /// ASCII case does not matter.
        ignore_case: bool,
    },
    /// Ends with.
    Suffix {
        /// What to look for.
        value: Arc<str>,
        /// ASCII case does not matter.
        ignore_case: bool,
    },
    /// Contains.
    Contains {
        /// What to look for.
        value: Arc<str>,
        /// ASCII case does not matter.
        ignore_case: bool,
    },
    /// The whole value matches (RE2 semantics: anchored at both ends).
    Regex(regex::bytes::Regex),
}

impl StringMatcher {
    /// Whether a string condition holds.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact {
                value: wanted,
                ignore_case,
            } => equal(value, wanted.as_bytes(), *ignore_case),
            Self::Prefix {
                value: wanted,
                ignore_case,
            } => starts_with(value, wanted.as_bytes(), *ignore_case),
            Self::Suffix {
                value: wanted,
                ignore_case,
            } => value
                .len()
                .checked_sub(wanted.len())
                .is_some_and(|start| equal(&value[start..], wanted.as_bytes(), *ignore_case)),
            Self::Contains {
                value: wanted,
                ignore_case,
            } => {
                wanted.is_empty()
                    || value
                        .windows(wanted.len())
                        .any(|window| equal(window, wanted.as_bytes(), *ignore_case))
            }
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// `envoy.config.route.v3.HeaderMatcher`.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    /// The header's name; `:method`, `:path`, `:authority` and `:scheme` name pseudo-headers.
    pub name: HeaderKey,
    /// What must hold.
    pub kind: HeaderMatchKind,
    /// The result is inverted.
    pub invert: bool,
    /// A missing header counts as an empty one.
    pub treat_missing_as_empty: bool,
}

/// A header or pseudo-header by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderKey {
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:authority`, also `host`
    Authority,
    /// `:scheme`
    Scheme,
    /// Any other.
    Name(http::HeaderName),
}

/// The condition of a [`HeaderMatcher`].
#[derive(Clone, Debug)]
pub enum HeaderMatchKind {
    /// On the value; several values of one name are joined with `,` first.
    String(StringMatcher),
    /// The value is a base-10 integer in `[start, end)`.
    Range {
        /// First in it.
        start: i64,
        /// First above it.
        end: i64,
    },
    /// The header is there (`true`) or not (`false`).
    Present(bool),
}

/// `envoy.config.route.v3.QueryParameterMatcher`; the first value of the name counts.
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    /// Parameter name, compared as sent (not decoded).
    pub name: Arc<str>,
    /// What must hold.
    pub kind: QueryMatchKind,
}

/// The condition of a [`QueryMatcher`].
#[derive(Clone, Debug)]
pub enum QueryMatchKind {
    /// On the value.
    String(StringMatcher),
    /// The parameter is there (`true`) or not (`false`).
    Present(bool),
}

/// Whether two texts are equal.
pub(crate) fn equal(value: &[u8], wanted: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        value.eq_ignore_ascii_case(wanted)
    } else {
        value == wanted
    }
}

/// Whether a text begins with another.
pub(crate) fn starts_with(value: &[u8], wanted: &[u8], ignore_case: bool) -> bool {
    value
        .get(..wanted.len())
        .is_some_and(|start| equal(start, wanted, ignore_case))
}
