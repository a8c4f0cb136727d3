//! Injected pods in network namespaces: unmodified programs that know no proxy, through the sidecars of both ends.

mod exclusions;
mod kit;
mod kubelet;
mod life;
mod limits;
mod pairs;
mod restarts;
mod routes;
mod sniffing;
mod sources;
mod streams;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::netns::{Injection, Place, Pod};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Starts the control plane with these objects and injects all pods; ends when all are in sync.
async fn start(place: &mut Place, objects: &[String], pods: &mut [&mut Pod]) -> Result<()> {
    start_as(place, objects, pods, &Injection::default()).await
}

/// The same, with all pods injected like this.
async fn start_as(
    place: &mut Place,
    objects: &[String],
    pods: &mut [&mut Pod],
    injection: &Injection,
) -> Result<()> {
    place
        .control_plane(&[("mesh.yaml", objects.concat())])
        .await?;
    let count = pods.len();
    for pod in pods {
        pod.inject(injection).await?;
    }
    place.mesh()?.in_sync(count).await
}

/// Connections and requests that a sidecar has sent to a cluster.
fn sent(pod: &Pod, cluster: &str) -> Result<u64> {
    let stats = pod.stats()?;
    let count = |what: &str| {
        let name = format!("cluster.{cluster}.{what}");
        stats.get(&name).copied().unwrap_or_default()
    };
    Ok(count("upstream_cx_total") + count("upstream_rq_total"))
}

fn outbound(service: &str, port: u16) -> String {
    format!("outbound|{port}||{service}.shop.svc.cluster.local")
}

fn inbound(port: u16) -> String {
    format!("inbound|{port}||")
}

/// Does something that must pass the sidecars of both ends: from `client` to a port of `server`, which is the one
/// of the service, too.
async fn passes_both<T>(
    client: &Pod,
    server: &Pod,
    service: &str,
    port: u16,
    what: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let count = || {
        anyhow::Ok([
            sent(client, &outbound(service, port))?,
            sent(server, &inbound(port))?,
        ])
    };
    let before = count()?;
    let done = what()
        .await
        .with_context(|| format!("{} to {service}:{port}", client.name()))?;
    let after = count()?;
    ensure!(
        before[0] < after[0] && before[1] < after[1],
        "{} to {service}:{port} did not pass both sidecars: {before:?} to {after:?}",
        client.name()
    );
    Ok(done)
}

/// Everything until the other side has closed its half.
async fn to_end(stream: &mut (impl AsyncRead + Unpin)) -> Result<String> {
    let mut said = String::new();
    let read = stream.read_to_string(&mut said);
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), read).await;
    read.context("no end")??;
    Ok(said)
}

/// What nginx's `/who` says of itself and of the host that it was asked as, if its client was a sidecar: of either
/// family, since a service's endpoints have both.
fn by_sidecar(said: &str) -> Result<(&str, &str)> {
    let mut words = said.split(' ');
    let (Some(name), Some(client), Some(host)) = (words.next(), words.next(), words.next()) else {
        anyhow::bail!("{said}");
    };
    ensure!(["127.0.0.6", "::6"].contains(&client), "{said}");
    Ok((name, host))
}
