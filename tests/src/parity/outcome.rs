//! What one proxy did in one case, in the form that is compared.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Header or trailer values by name.
pub(super) type Headers = BTreeMap<String, Vec<String>>;

/// Everything observed in one run of a case.
#[derive(Debug, Default, Serialize)]
pub(super) struct Observed {
    pub(super) requests: Vec<Outcome>,
    pub(super) log: Vec<Value>,
    pub(super) stats: BTreeMap<String, Option<u64>>,
    pub(super) admin: BTreeMap<String, Value>,
}

/// The end of one request.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    pub(super) status: u16,
    pub(super) version: String,
    pub(super) interim: Vec<u16>,
    pub(super) headers: Headers,
    pub(super) body: String,
    pub(super) trailers: Headers,
    pub(super) following: Vec<Self>,
    pub(super) error: Option<String>,
    pub(super) upstream: Vec<Reached>,
    /// Only with `tcp`: what came back.
    pub(super) received: Option<String>,
    /// Only with `closed_after`.
    pub(super) closed: Option<bool>,
    /// Only with `repeat`; compared as a distribution.
    #[serde(skip)]
    pub(super) chosen: Option<Chosen>,
}

/// What an upstream received.
#[derive(Debug, Serialize)]
pub(super) struct Reached {
    pub(super) upstream: String,
    pub(super) protocol: String,
    pub(super) method: String,
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) headers: Headers,
    pub(super) body: String,
    pub(super) trailers: Headers,
    /// Only with `upstream_connection`.
    pub(super) connection: Option<usize>,
}

/// How often each upstream was chosen (`none` when the proxy answered itself).
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) counts: BTreeMap<String, usize>,
    pub(super) exact: bool,
}
