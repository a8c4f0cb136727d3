//! A thousand edits of weights and policies under load, each live in the proxy before the next: none
//! fails a request.

use anyhow::Context as _;
use outrigger_tests::mesh::Load;

use crate::{Canary, run};

const EDITS: u32 = 1000;

#[test]
fn a_thousand_edits_fail_no_request() {
    run(async {
        let mesh = Canary::start(true, [50, 50]).await?;
        let load = Load::start(mesh.sidecar.outbound_address().await?, "reviews");
        load.answers(50).await?;
        for edit in 1..=EDITS {
            let (file, text) = match edit % 2 {
                0 => ("route.yaml", Canary::route([edit % 100, 100 - edit % 100])),
                _ => ("policy.yaml", policy(edit)),
            };
            mesh.control_plane
                .edit(file, &text)
                .await
                .with_context(|| format!("edit {edit}: {text}"))?;
            load.check()
                .with_context(|| format!("edit {edit}: {text}"))?;
        }
        load.next_phase();
        load.answers(50).await?;
        load.check()
    });
}

/// A policy of each version, and one of the split; no two in a row are alike.
fn policy(edit: u32) -> String {
    let balancers = [
        "{type: peakEwma}",
        "{type: roundRobin}",
        "{type: leastRequest, choices: 3}",
        "{type: random}",
        "{type: maglev, consistentHash: {on: [{sourceIp: true}]}}",
        "{type: ringHash, consistentHash: {on: [{header: x-user}]}}",
    ];
    let balancer = balancers[edit as usize / 2 % balancers.len()];
    let object = |name: &str, target: &str, spec: &str| {
        format!(
            "---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{target}]
{spec}"
        )
    };
    let service = format!(
        "  loadBalancer: {balancer}
  circuitBreaker: {{maxRequests: {0}, maxPendingRequests: {0}}}
  connection: {{maxConnections: {0}}}
  outlierDetection: {{consecutive5xx: {1}, interval: 1s}}
",
        500 + edit,
        3 + edit % 5
    );
    let route = format!(
        "  timeouts: {{request: {}ms}}
  retries: {{attempts: {}, \"on\": [connect-failure, \"503\"]}}
",
        10_000 + edit,
        1 + edit % 3
    );
    [
        object(
            "v1",
            "{group: \"\", kind: Service, name: reviews-v1}",
            &service,
        ),
        object(
            "v2",
            "{group: \"\", kind: Service, name: reviews-v2}",
            &service,
        ),
        object(
            "split",
            "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: reviews}",
            &route,
        ),
    ]
    .concat()
}
