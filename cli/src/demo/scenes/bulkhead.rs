//! A noisy caller fills its bulkhead while others are served.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::demo::{
    mesh::Mesh,
    report::{millis, percentile},
    stock::{self, Behaviour, GOOD, Stock},
    traffic::{Caller, Tally, Traffic},
    view::View,
};

const POLICY: &str = "\
apiVersion: outrigger.dev/v1alpha1
kind: Bulkhead
metadata:
  name: stock
  namespace: shop
spec:
  targetRefs:
  - group: \"\"
    kind: Service
    name: stock
  maxConcurrent: 8
  maxQueued: 16
  queueTimeout: 500ms
  perCaller:
    header: x-caller
";
const NOISY: &str = "noisy";
const QUIET: [&str; 2] = ["alice", "bob"];

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bulkhead {
    /// Each caller's requests.
    callers: BTreeMap<String, Share>,
    /// Why requests were refused, as the proxy said.
    reason: String,
}

/// One caller's requests.
#[derive(Clone, Debug, Serialize)]
struct Share {
    served: u64,
    refused: u64,
    p99_ms: f64,
}

/// Plays the scene.
pub(super) async fn run(
    time: Duration,
    mesh: &Mesh,
    stock: &Stock,
    view: &mut View,
) -> anyhow::Result<Bulkhead> {
    view.scene(
        "a caller sends twice what `stock` can serve: the bulkhead gives the others their turn",
    );
    stock.govern(mesh, POLICY).await?;
    let steady = Behaviour {
        delay_ms: 50,
        ..GOOD
    };
    stock.behave(None, steady).await?;
    let mut callers = vec![Caller {
        name: NOISY,
        rate: 300,
        users: 0,
    }];
    callers.extend(QUIET.map(|name| Caller {
        name,
        rate: 10,
        users: 0,
    }));
    let traffic = Traffic::start(mesh.way_out(stock::NAME)?, stock::NAME, &callers);
    // The queue fills.
    tokio::time::sleep(time / 4).await;
    for caller in &callers {
        traffic.take(caller.name);
    }
    tokio::time::sleep(time / 2).await;
    let tallies: Vec<(&str, Tally)> = callers
        .iter()
        .map(|caller| (caller.name, traffic.take(caller.name)))
        .collect();
    traffic.finish().await;
    stock.behave(None, GOOD).await?;
    let mut shares = BTreeMap::new();
    let mut reason = String::new();
    for (name, mut tally) in tallies {
        tally.latencies_us.sort_unstable();
        let p99_ms = percentile(&tally.latencies_us, 99).map_or(0.0, millis);
        view.note(&format!(
            "{name}: {} served (p99 {p99_ms:.0} ms), {} refused",
            tally.served, tally.refused
        ));
        if name == NOISY {
            reason = tally.main_reason().unwrap_or_default();
        }
        let share = Share {
            served: tally.served,
            refused: tally.refused,
            p99_ms,
        };
        shares.insert(name.to_owned(), share);
    }
    view.note(&format!("why: {reason}"));
    Ok(Bulkhead {
        callers: shares,
        reason,
    })
}
