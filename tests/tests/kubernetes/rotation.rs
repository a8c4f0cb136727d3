//! Creations go on while replicas stop and start and certificates change.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::kubernetes::DEADLINE;
use outrigger_tests::wait;
use serde_json::Value;

use super::place::{Place, has_sidecar, pod};

pub(crate) async fn run(place: &mut Place) -> Result<()> {
    let first = place.trusted().await?;
    let mut stream = Stream::default();
    // One after the other, as a Deployment is rolled out.
    for name in ["injector c", "injector d"] {
        let fresh = place.replica(name).await?;
        let mut old = place.replicas.remove(0);
        old.terminate()?;
        while !old.has_ended()? {
            stream.one(place).await?;
        }
        old.ended().await?;
        stream.one(place).await?;
        place.replicas.push(fresh);
        place.ready(2).await?;
    }
    let start = Instant::now();
    let mut changes = vec![0.0; place.replicas.len()];
    // Both use a certificate of an authority that was not trusted in the beginning.
    while changes.iter().any(|count| *count < 2.0) {
        ensure!(
            start.elapsed() < DEADLINE,
            "no other certificates: {changes:?}"
        );
        stream.one(place).await?;
        for (replica, count) in place.replicas.iter().zip(&mut changes) {
            *count = replica
                .metric("outrigger_injector_certificate_changes_total")
                .await?;
        }
    }
    for _ in 0..10 {
        stream.one(place).await?;
    }
    wait::until("another caBundle", DEADLINE, async || {
        ensure!(place.trusted().await? != first, "the same");
        Ok(())
    })
    .await?;
    let secret = place.secret().await?;
    ensure!(
        secret["data"]["ca.crt"] == place.trusted().await?,
        "{secret}"
    );

    let stored = place.server.get("/api/v1/namespaces/on/pods").await?;
    let pods = stored["items"].as_array().context("no items")?;
    let of_stream = |pod: &&Value| {
        let name = pod["metadata"]["name"].as_str();
        name.is_some_and(|name| name.starts_with("stream-"))
    };
    let pods: Vec<_> = pods.iter().filter(of_stream).collect();
    ensure!(
        pods.len() == stream.count,
        "{} of {}",
        pods.len(),
        stream.count
    );
    let without = pods.iter().filter(|pod| !has_sidecar(pod)).count();
    ensure!(without == 0, "{without} pods have no sidecar");
    eprintln!("{} pods created meanwhile", stream.count);
    Ok(())
}

#[derive(Default)]
struct Stream {
    count: usize,
}

impl Stream {
    /// One more pod, which must get its sidecar.
    async fn one(&mut self, place: &Place) -> Result<()> {
        let name = format!("stream-{}", self.count);
        self.count += 1;
        let stored = place.server.create(&pod("on", &name)).await;
        let stored = stored.with_context(|| format!("creation of {name}"))?;
        ensure!(has_sidecar(&stored), "{stored:#}");
        Ok(())
    }
}
