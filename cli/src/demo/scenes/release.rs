//! A release under load: the tour that the demo takes by itself.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::demo::{
    load::{Counts, Load},
    mesh::Mesh,
    report::{Event, Latency, Report, millis, percentile},
    topology,
    view::View,
};

/// How the tour is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tour {
    /// How long load runs.
    pub(super) time: Duration,
    /// Percent of requests that the new version gets at first.
    pub(super) canary: u32,
    /// Requests per second.
    pub(super) rate: u32,
    /// Whether a trace is drawn at the end.
    pub(super) draws_trace: bool,
}

/// A fifth of the time for each step.
pub(super) async fn run(
    plan: &Tour,
    mesh: &mut Mesh,
    view: &mut View,
    report: &mut Report,
) -> anyhow::Result<()> {
    let first = [100 - plan.canary, plan.canary];
    let start = Instant::now();
    let load = Load::start(mesh.entry(), topology::ENTRY, plan.rate, topology::SPLIT);
    let scene = plan.time / 5;

    load.enter(&label(first));
    view.scene(&format!(
        "{} % of requests for `{}` go to v1, {} % to v2",
        first[0],
        topology::SPLIT,
        first[1]
    ));
    watch(mesh, &load, view, scene).await?;

    edit(mesh, &load, view, [50, 50], report).await?;
    watch(mesh, &load, view, scene).await?;

    view.scene("the control plane is killed (kill -9) and started again: proxies keep their last good configuration");
    let killed = Instant::now();
    mesh.restart_control_plane().await?;
    report.events.push(Event {
        what: "control plane killed and restarted".to_owned(),
        healed_ms: millis_since(killed),
    });
    watch(mesh, &load, view, scene).await?;

    edit(mesh, &load, view, [0, 100], report).await?;
    watch(mesh, &load, view, scene).await?;

    view.scene("`details` is replaced by a new instance while it serves");
    let rolled = Instant::now();
    mesh.roll().await?;
    report.events.push(Event {
        what: "details rolled to a new instance".to_owned(),
        healed_ms: millis_since(rolled),
    });
    let rest = (start + plan.time).saturating_duration_since(Instant::now());
    watch(mesh, &load, view, rest).await?;

    report.duration_s = start.elapsed().as_secs_f64();
    let counts = load.finish().await;
    report.latency_ms = mesh.hop_latencies().await;
    fill(report, counts);
    view.scene("a trace of one request through all hops");
    report.traces = mesh.traces().await.context("reading traces")?;
    if plan.draws_trace {
        view.text(&mesh.waterfall(&report.traces.example_id).await?);
    }
    Ok(())
}

async fn edit(
    mesh: &Mesh,
    load: &Load,
    view: &mut View,
    weights: [u32; 2],
    report: &mut Report,
) -> anyhow::Result<()> {
    view.scene(&format!("the route file is edited to {}", label(weights)));
    let edit = mesh.edit_route(weights).await?;
    view.note(&format!(
        "live in all {} proxies {:.0} ms after the edit",
        edit.proxies, edit.ack_ms
    ));
    report.edits.push(edit);
    load.enter(&label(weights));
    Ok(())
}

/// Shows the counts until the time is over, and fails when a process has ended.
async fn watch(
    mesh: &mut Mesh,
    load: &Load,
    view: &mut View,
    time: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let pause = Duration::from_millis(500).min(end.saturating_duration_since(Instant::now()));
        tokio::time::sleep(pause).await;
        mesh.check()?;
        let counts = load.counts();
        view.live(&counts, mesh.sync().await.ok());
    }
    view.end_live();
    Ok(())
}

fn fill(report: &mut Report, mut counts: Counts) {
    counts.latencies_us.sort_unstable();
    report.requests = counts.requests;
    report.failed = counts.failed;
    report.errors = counts.errors;
    report.versions = counts.versions;
    let of = |percent| percentile(&counts.latencies_us, percent).map_or(0.0, millis);
    report.latency_ms.insert(
        format!("load → {}", topology::ENTRY),
        Latency {
            p50: of(50),
            p99: of(99),
        },
    );
}

fn label([v1, v2]: [u32; 2]) -> String {
    format!("{v1}/{v2}")
}

fn millis_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
