//! `RateLimitPolicy`: how many requests in a time.

use serde::Deserialize;

use super::{HeaderValue, PolicySpec, Side, Span, TargetRef};
use crate::model::Kind;

/// `spec` of a `RateLimitPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// What it is attached to.
    pub target_refs: Vec<TargetRef>,
    /// So many requests, of each sidecar,
    pub requests: u32,
    /// in this time.
    pub per: Span,
    /// As many at once; as `requests` unless said.
    #[serde(default)]
    pub burst: Option<u32>,
    /// What is answered to the rest.
    #[serde(default)]
    pub response: RefusalSpec,
    /// Whose sidecars enforce it.
    #[serde(default)]
    pub side: Side,
}

impl PolicySpec for RateLimitSpec {
    const KIND: Kind = Kind::RateLimitPolicy;

    fn targets(&self) -> &[TargetRef] {
        &self.target_refs
    }
}

/// `spec.response`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusalSpec {
    /// 429 unless said.
    pub status: Option<u16>,
    /// Headers of the answer.
    pub headers: Vec<HeaderValue>,
    /// Whether `x-ratelimit-*` headers tell what is left.
    pub rate_limit_headers: bool,
}
