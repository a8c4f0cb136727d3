//! What can be asked of the demo's mesh: statistics and health from sidecars, traces from the store.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use anyhow::Context as _;

use super::{
    mesh::{Mesh, PATIENCE, pause},
    report::{Latency, Traces},
    topology,
};
use crate::http_client::{get_json, get_text};

/// Traces read to count them and to find an example.
const TRACE_LIMIT: usize = 1500;

impl Mesh {
    /// The `health_flags` of a service's host, as the entry's sidecar sees it.
    pub(crate) async fn health_flags(
        &self,
        service: &str,
        host: SocketAddr,
    ) -> anyhow::Result<String> {
        let admin = self.entry_workload()?.home.admin;
        let text = get_text(&format!("http://{admin}/clusters")).await?;
        let mark = format!("::{host}::health_flags::");
        let flags = text
            .lines()
            .filter(|line| callee(line).as_deref() == Some(service) || line.contains(service))
            .find_map(|line| line.split_once(&mark).map(|(_, flags)| flags.to_owned()));
        flags.with_context(|| format!("the sidecar does not know {host} of {service}"))
    }

    /// Counters and gauges of the entry's sidecar whose names match a regex; zero ones are left out.
    pub(crate) async fn counters(&self, filter: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let admin = self.entry_workload()?.home.admin;
        let text = get_text(&format!("http://{admin}/stats?usedonly&filter={filter}")).await?;
        let values = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(values.filter(|(_, value)| *value > 0).collect())
    }

    /// Medians and 99th percentiles of what each sidecar measured towards each cluster.
    pub(crate) async fn hop_latencies(&self) -> BTreeMap<String, Latency> {
        let mut hops = BTreeMap::new();
        for member in &self.members {
            let url = format!(
                "http://{}/stats?filter=upstream_rq_time&usedonly",
                member.workload.home.admin
            );
            let Ok(text) = get_text(&url).await else {
                continue;
            };
            for (cluster, latency) in histograms(&text) {
                let Some(callee) = callee(&cluster) else {
                    continue;
                };
                hops.insert(format!("{} → {callee}", member.workload.name), latency);
            }
        }
        hops
    }

    /// What the trace store has, and one trace through all hops. Spans of the last requests may still
    /// be on their way.
    pub(crate) async fn traces(&self) -> anyhow::Result<Traces> {
        let url = format!(
            "http://{}/api/traces?service={}.{}&limit={TRACE_LIMIT}",
            self.ports.jaeger,
            topology::ENTRY,
            topology::NAMESPACE
        );
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = get_json(&url).await?;
            let traces = answer
                .get("data")
                .and_then(serde_json::Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let fullest = traces.iter().max_by_key(|trace| spans(trace));
            if let Some(trace) = fullest
                && services(trace).len() >= 4
            {
                return Ok(Traces {
                    stored: u64::try_from(traces.len()).unwrap_or(u64::MAX),
                    example_id: trace
                        .get("traceID")
                        .and_then(serde_json::Value::as_str)
                        .unwrap_or_default()
                        .to_owned(),
                    example_spans: spans(trace),
                    services: services(trace),
                });
            }
            pause(deadline, "no trace with all services was stored").await?;
        }
    }

    /// One trace as a picture.
    pub(crate) async fn waterfall(&self, id: &str) -> anyhow::Result<String> {
        let url = format!("http://{}", self.ports.jaeger);
        crate::commands::traces::draw(&url, id).await
    }
}

fn spans(trace: &serde_json::Value) -> usize {
    trace
        .get("spans")
        .and_then(serde_json::Value::as_array)
        .map_or(0, Vec::len)
}

fn services(trace: &serde_json::Value) -> Vec<String> {
    let mut names = trace
        .get("processes")
        .and_then(serde_json::Value::as_object)
        .into_iter()
        .flat_map(|processes| processes.values())
        .filter_map(|process| process.get("serviceName")?.as_str())
        .map(str::to_owned)
        .collect::<Vec<_>>();
    names.sort();
    names.dedup();
    names
}

/// `cluster.NAME.upstream_rq_time: P0(nan,1) … P50(nan,2.05) …`: the second value is since the start.
fn histograms(text: &str) -> Vec<(String, Latency)> {
    text.lines()
        .filter_map(|line| {
            let (name, values) = line.split_once(": ")?;
            let cluster = name
                .strip_prefix("cluster.")?
                .strip_suffix(".upstream_rq_time")?;
            let quantile = |mark: &str| {
                let word = values
                    .split_whitespace()
                    .find(|word| word.starts_with(mark))?;
                word.trim_end_matches(')')
                    .rsplit_once(',')?
                    .1
                    .parse::<f64>()
                    .ok()
            };
            let latency = Latency {
                p50: quantile("P50(")?,
                p99: quantile("P99(")?,
            };
            Some((cluster.to_owned(), latency))
        })
        .collect()
}

/// `outbound|80||reviews-v1.shop.svc.cluster.local` is a hop to `reviews-v1`; `inbound|…` to the
/// application; others are not hops of requests.
fn callee(cluster: &str) -> Option<String> {
    if cluster.starts_with("inbound|") {
        return Some("application".to_owned());
    }
    let host = cluster.strip_prefix("outbound|")?.rsplit('|').next()?;
    host.split('.').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_lines_are_read() {
        let text = "cluster.outbound|80||reviews-v1.shop.svc.cluster.local.upstream_rq_time: P0(nan,1) P25(nan,1.02) P50(nan,2.05) P75(nan,3) P90(nan,4) P95(nan,5) P99(nan,9.5) P99.5(nan,9.7) P99.9(nan,9.9) P100(nan,10)\ncluster.x.upstream_rq_time: No recorded values\n";
        let found = histograms(text);
        assert_eq!(found.len(), 1);
        assert_eq!(callee(&found[0].0).as_deref(), Some("reviews-v1"));
        assert_eq!((found[0].1.p50, found[0].1.p99), (2.05, 9.5));
    }

    #[test]
    fn inbound_clusters_are_hops_to_the_application() {
        assert_eq!(callee("inbound|8080||").as_deref(), Some("application"));
        assert_eq!(callee("outrigger-xds"), None);
    }
}
