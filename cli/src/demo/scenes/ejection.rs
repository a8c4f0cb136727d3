//! A host goes bad, is ejected, and comes back.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{millis_since, until};
use crate::demo::{
    mesh::Mesh,
    stock::{self, Behaviour, GOOD, Stock},
    traffic::{Caller, Traffic},
    view::View,
};

const POLICY: &str = "\
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata:
  name: stock
  namespace: shop
spec:
  targetRefs:
  - group: \"\"
    kind: Service
    name: stock
  loadBalancer:
    type: roundRobin
  retries:
    attempts: 2
    \"on\": [\"503\"]
  outlierDetection:
    consecutive5xx: 3
    interval: 500ms
    baseEjectionTime: 1s
    maxEjectionPercent: 50
";
const CALLER: &str = "shoppers";
const BAD: &str = "b";

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ejection {
    /// Requests sent.
    requests: u64,
    /// Those that failed for the caller, retries notwithstanding.
    failed: u64,
    /// From the host's first bad answer to its ejection.
    ejected_after_ms: f64,
    /// From its recovery to its return.
    returned_after_ms: f64,
    /// What the proxy counted: `outlier_detection.*`.
    counters: std::collections::BTreeMap<String, u64>,
    /// Requests by host before, while it was out, and after.
    hosts: [std::collections::BTreeMap<String, u64>; 3],
}

/// Plays the scene.
pub(super) async fn run(
    time: Duration,
    mesh: &Mesh,
    stock: &Stock,
    view: &mut View,
) -> anyhow::Result<Ejection> {
    view.scene("a host of `stock` answers 503: it is ejected after 3 of them while retries keep callers from seeing any, and returns by one probing request");
    stock.behave(None, GOOD).await?;
    stock.govern(mesh, POLICY).await?;
    let caller = Caller {
        name: CALLER,
        rate: 60,
        users: 0,
    };
    let traffic = Traffic::start(mesh.way_out(stock::NAME)?, stock::NAME, &[caller]);
    tokio::time::sleep(time / 4).await;
    let before = traffic.take(CALLER);
    view.note(&format!("all hosts serve: {:?}", before.versions));

    let went_bad = Instant::now();
    let bad = Behaviour {
        status: 503,
        ..GOOD
    };
    stock.behave(Some(BAD), bad).await?;
    let address = stock.address(BAD)?;
    let is_out = async || -> anyhow::Result<Option<()>> {
        let flags = mesh.health_flags(stock::NAME, address).await?;
        Ok(flags.contains("failed_outlier_check").then_some(()))
    };
    until("the ejection", is_out).await?;
    let ejected_after_ms = millis_since(went_bad);
    let during = traffic.take(CALLER);
    view.note(&format!(
        "stock-{BAD} ejected {ejected_after_ms:.0} ms after it went bad; callers saw {} failures{}",
        during.refused,
        during
            .main_reason()
            .map_or_else(String::new, |reason| format!(": {reason}"))
    ));
    tokio::time::sleep(time / 4).await;
    let out = traffic.take(CALLER);
    view.note(&format!("the others serve: {:?}", out.versions));

    let healed = Instant::now();
    stock.behave(Some(BAD), GOOD).await?;
    until("the return", async || {
        Ok(traffic
            .look(CALLER)
            .versions
            .contains_key(BAD)
            .then_some(()))
    })
    .await?;
    let returned_after_ms = millis_since(healed);
    view.note(&format!(
        "stock-{BAD} serves again {returned_after_ms:.0} ms after it recovered"
    ));
    tokio::time::sleep(time / 4).await;
    let after = traffic.take(CALLER);
    view.note(&format!("all hosts serve: {:?}", after.versions));
    traffic.finish().await;
    let counters = mesh
        .counters(&format!("{}.*outlier_detection", stock::NAME))
        .await?;
    let seen = [&before, &during, &out, &after];
    Ok(Ejection {
        requests: seen.iter().map(|tally| tally.served + tally.refused).sum(),
        failed: seen.iter().map(|tally| tally.refused).sum(),
        ejected_after_ms,
        returned_after_ms,
        counters,
        hosts: [before.versions, out.versions, after.versions],
    })
}
