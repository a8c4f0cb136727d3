//! No replica is up: pods that are to have a sidecar are not created, and nobody else notices.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::kubernetes::DEADLINE;
use outrigger_tests::wait;

use super::place::{MESH, Place, has_sidecar, pod, refused};

pub(crate) async fn run(place: &mut Place) -> Result<()> {
    for replica in place.replicas.drain(..) {
        replica.stop().await?;
    }
    place.ready(0).await?;
    let why = refused(&place.server, &pod("on", "down")).await?;
    ensure!(why.contains("failed calling webhook"), "{why}");
    let mut asks = pod("silent", "down-asks");
    asks["metadata"]["labels"]["outrigger.dev/inject"] = "enabled".into();
    let why = refused(&place.server, &asks).await?;
    ensure!(why.contains("default.namespace.outrigger.dev"), "{why}");

    for namespace in ["silent", "off", "kube-system"] {
        let stored = place.server.create(&pod(namespace, "down")).await;
        let stored = stored.context(namespace)?;
        ensure!(!has_sidecar(&stored), "{stored:#}");
    }
    // Our own pods come back: what they need is not ourselves.
    let path = format!("/apis/apps/v1/namespaces/{MESH}/deployments/outrigger-injector");
    let deployment = place.server.get(&path).await?;
    let mut own = deployment["spec"]["template"].clone();
    own["apiVersion"] = "v1".into();
    own["kind"] = "Pod".into();
    own["metadata"]["name"] = "injector-0".into();
    own["metadata"]["namespace"] = MESH.into();
    if let Some(metadata) = own["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    let stored = place.server.create(&own).await.context("our own pod")?;
    ensure!(!has_sidecar(&stored), "{stored:#}");

    let replica = place.replica("injector e").await?;
    place.replicas.push(replica);
    place.ready(1).await?;
    let stored = wait::until("creations to work again", DEADLINE, async || {
        place.server.create(&pod("on", "up-again")).await
    })
    .await?;
    ensure!(has_sidecar(&stored), "{stored:#}");
    Ok(())
}
