//! A circuit breaker opens over a slow service, and closes again.

use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use super::until;
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
  circuitBreaker:
    maxRequests: 5
  retries:
    attempts: 0
";
const CALLER: &str = "shoppers";

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Breaker {
    /// Requests served and refused while the service was slow.
    slow: [u64; 2],
    /// Why requests were refused, as the proxy said.
    reason: String,
    /// Requests served and refused after it had recovered.
    recovered: [u64; 2],
}

/// Plays the scene.
pub(super) async fn run(
    time: Duration,
    mesh: &Mesh,
    stock: &Stock,
    view: &mut View,
) -> anyhow::Result<Breaker> {
    view.scene(
        "`stock` becomes slow: its circuit breaker lets 5 requests in and refuses the rest at once",
    );
    stock.behave(None, GOOD).await?;
    stock.govern(mesh, POLICY).await?;
    let caller = Caller {
        name: CALLER,
        rate: 60,
        users: 0,
    };
    let traffic = Traffic::start(mesh.way_out(stock::NAME)?, stock::NAME, &[caller]);
    let slow = Behaviour {
        delay_ms: 400,
        ..GOOD
    };
    stock.behave(None, slow).await?;
    until("the opening of the breaker", async || {
        Ok((traffic.look(CALLER).refused > 0).then_some(()))
    })
    .await?;
    tokio::time::sleep(time / 2).await;
    let during = traffic.take(CALLER);
    let reason = during.main_reason().unwrap_or_default();
    view.note(&format!(
        "{} served, {} refused: {reason}",
        during.served, during.refused
    ));
    ensure!(
        reason.contains("max_requests"),
        "the reason does not name the breaker: {reason}"
    );

    stock.behave(None, GOOD).await?;
    // What was slow is still under way.
    tokio::time::sleep(Duration::from_millis(slow.delay_ms * 2)).await;
    traffic.take(CALLER);
    tokio::time::sleep(time / 4).await;
    let after = traffic.take(CALLER);
    traffic.finish().await;
    view.note(&format!(
        "the service is fast again: {} served, {} refused",
        after.served, after.refused
    ));
    Ok(Breaker {
        slow: [during.served, during.refused],
        reason,
        recovered: [after.served, after.refused],
    })
}
