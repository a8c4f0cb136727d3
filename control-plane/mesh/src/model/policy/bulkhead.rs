//! `Bulkhead`: how much of a service one caller, or all of them, may occupy.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{PolicySpec, Side, Span, TargetRef};
use crate::model::Kind;

/// `spec` of a `Bulkhead`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkheadSpec {
    /// What it is attached to.
    pub target_refs: Vec<TargetRef>,
    /// Requests in progress at once, of each sidecar.
    pub max_concurrent: u32,
    /// Requests that wait for a place; 0 is none.
    #[serde(default)]
    pub max_queued: u32,
    /// How long they wait.
    #[serde(default)]
    pub queue_timeout: Option<Span>,
    /// Who is a caller, so that one cannot starve the others.
    #[serde(default)]
    pub per_caller: Option<PerCaller>,
    /// Who is served first.
    #[serde(default)]
    pub priority: Option<PriorityLanes>,
    /// Whose sidecars enforce it.
    #[serde(default)]
    pub side: Side,
}

impl PolicySpec for BulkheadSpec {
    const KIND: Kind = Kind::Bulkhead;

    fn targets(&self) -> &[TargetRef] {
        &self.target_refs
    }
}

/// `spec.perCaller`: one of the first three is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PerCaller {
    /// By the value of this header.
    pub header: Option<String>,
    /// By address.
    pub source_address: Option<bool>,
    /// By SPIFFE identity.
    pub identity: Option<bool>,
    /// Requests of one caller in progress at once, even when other places are free.
    pub max_concurrent: Option<u32>,
    /// Callers that are told apart; the rest are one.
    pub max_tracked: Option<u32>,
}

/// `spec.priority`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PriorityLanes {
    /// The header that tells.
    pub header: String,
    /// Its values and their lanes, 0 (first) to 7.
    pub lanes: BTreeMap<String, u32>,
    /// The lane of all other requests.
    pub default_lane: u32,
}
