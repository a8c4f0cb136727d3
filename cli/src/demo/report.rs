//! What the demo found, as one JSON object (`--json`) and as text.

use std::collections::BTreeMap;

use serde::Serialize;

use super::scenes::{Breaker, Bulkhead, Canary, Ejection};

/// The demo's result.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// How long load ran, seconds.
    pub(crate) duration_s: f64,
    /// Requests sent.
    pub(crate) requests: u64,
    /// Requests without a 2xx answer.
    pub(crate) failed: u64,
    /// The first errors, word for word.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<String>,
    /// Requests per version of the split service, in each phase (`90/10`, …).
    pub(crate) versions: BTreeMap<String, BTreeMap<String, u64>>,
    /// Edits of the mesh's files.
    pub(crate) edits: Vec<Edit>,
    /// What was done to the mesh under load, and how long until it was whole again.
    pub(crate) events: Vec<Event>,
    /// Latencies per hop.
    pub(crate) latency_ms: BTreeMap<String, Latency>,
    /// Traces.
    pub(crate) traces: Traces,
    /// What the other scenes showed.
    pub(crate) scenes: Scenes,
}

/// The scenes beside the tour; those that were played.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Scenes {
    /// A bad host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ejection: Option<Ejection>,
    /// A slow service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) breaker: Option<Breaker>,
    /// A noisy caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bulkhead: Option<Bulkhead>,
    /// A canary with sticky users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) canary: Option<Canary>,
}

/// One edit and how long it took to be live everywhere.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Edit {
    /// The weights written, such as `50/50`.
    pub(crate) weights: String,
    /// Proxies that acknowledged it.
    pub(crate) acked_by: usize,
    /// Proxies that it concerned.
    pub(crate) proxies: usize,
    /// From the edit to the last acknowledgement.
    pub(crate) ack_ms: f64,
}

/// Something done to the mesh under load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    /// What.
    pub(crate) what: String,
    /// Until all proxies were in sync again.
    pub(crate) healed_ms: f64,
}

/// Latency of one hop.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    /// Median.
    pub(crate) p50: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
}

/// What the trace store holds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Traces {
    /// Traces stored (those that the query API returned, at most its limit).
    pub(crate) stored: u64,
    /// One with all hops.
    pub(crate) example_id: String,
    /// Its spans.
    pub(crate) example_spans: usize,
    /// Its services.
    pub(crate) services: Vec<String>,
}

/// The value below which `percent` of the sorted values lie.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Microseconds as milliseconds with three digits.
pub(crate) fn millis(us: u64) -> f64 {
    // A latency of more than 2^53 µs is 285 years.
    #[expect(
        clippy::cast_precision_loss,
        reason = "latencies are far below 2^53 µs"
    )]
    let us = us as f64;
    us / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_list() {
        let values = (1..=200).collect::<Vec<_>>();
        assert_eq!(percentile(&values, 50), Some(100));
        assert_eq!(percentile(&values, 99), Some(198));
        assert_eq!(percentile(&[7], 99), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }
}
