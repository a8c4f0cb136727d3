//! `outrigger demo`: a whole mesh on this machine, with real processes, changed under load.
//!
//! It starts a control plane, sample services with a sidecar each, and load; edits the mesh's files as a
//! user would, kills the control plane, replaces a service, and shows what each of these did to requests.

mod load;
mod mesh;
mod process;
mod report;
mod topology;
mod view;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args as ClapArgs;

use self::{
    load::{Counts, Load},
    mesh::Mesh,
    report::{Event, Latency, Report, millis, percentile},
    view::View,
};

/// How the demo runs.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Args {
    /// How long load runs.
    #[arg(long, default_value = "30s", value_parser = crate::commands::traces::duration)]
    duration: Duration,
    /// Print one JSON object at the end, and nothing else, on stdout.
    #[arg(long)]
    json: bool,
    /// Percent of requests that the new version gets at first.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    canary: u32,
    /// Requests per second.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Port of the control plane's JSON API; 0 lets the system choose.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Keep the mesh's files, logs and traces here instead of a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

/// Runs the demo to its end or until Ctrl-C; everything that it started is stopped then.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut view = View::new(args.json);
    let directory = Directory::new(args.dir.clone())?;
    let mut mesh = Mesh::start(&directory.path, args.canary, args.port, &mut view).await?;
    let outcome = tokio::select! {
        outcome = scenes(&args, &mut mesh, &mut view) => outcome.map(Some),
        _ = tokio::signal::ctrl_c() => Ok(None),
    };
    if outcome.is_err() {
        directory.keep();
    }
    view.note("stopping");
    mesh.stop().await;
    match outcome? {
        Some(report) => {
            view.finish(&report)?;
            let is_fine = report.failed == 0;
            Ok(if is_fine {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        None => {
            view.note("interrupted");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What happens while load runs: a fifth of the time for each scene.
async fn scenes(args: &Args, mesh: &mut Mesh, view: &mut View) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let first = [100 - args.canary, args.canary];
    let start = Instant::now();
    let load = Load::start(mesh.entry()?, topology::ENTRY, args.rate, topology::SPLIT);
    let scene = args.duration / 5;

    load.enter(&label(first));
    view.scene(&format!(
        "{} % of requests for `{}` go to v1, {} % to v2",
        first[0],
        topology::SPLIT,
        first[1]
    ));
    watch(mesh, &load, view, scene).await?;

    edit(mesh, &load, view, [50, 50], &mut report).await?;
    watch(mesh, &load, view, scene).await?;

    view.scene("the control plane is killed (kill -9) and started again: proxies keep their last good configuration");
    let killed = Instant::now();
    mesh.restart_control_plane().await?;
    report.events.push(Event {
        what: "control plane killed and restarted".to_owned(),
        healed_ms: millis_since(killed),
    });
    watch(mesh, &load, view, scene).await?;

    edit(mesh, &load, view, [0, 100], &mut report).await?;
    watch(mesh, &load, view, scene).await?;

    view.scene("`details` is replaced by a new instance while it serves");
    let rolled = Instant::now();
    mesh.roll().await?;
    report.events.push(Event {
        what: "details rolled to a new instance".to_owned(),
        healed_ms: millis_since(rolled),
    });
    let rest = (start + args.duration).saturating_duration_since(Instant::now());
    watch(mesh, &load, view, rest).await?;

    report.duration_s = start.elapsed().as_secs_f64();
    let counts = load.finish().await;
    report.latency_ms = mesh.hop_latencies().await;
    fill(&mut report, counts);
    view.scene("a trace of one request through all hops");
    report.traces = mesh.traces().await.context("reading traces")?;
    if !args.json {
        view.text(&mesh.waterfall(&report.traces.example_id).await?);
    }
    Ok(report)
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

/// The demo's files: kept where the user said, else removed at the end unless something failed.
#[derive(Debug)]
struct Directory {
    path: std::path::PathBuf,
    is_ours: std::cell::Cell<bool>,
}

impl Directory {
    fn new(said: Option<std::path::PathBuf>) -> anyhow::Result<Self> {
        let is_ours = said.is_none();
        let path = said.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("outrigger-demo-{}", std::process::id()))
        });
        std::fs::create_dir_all(&path)
            .with_context(|| format!("can't make the directory {}", path.display()))?;
        Ok(Self {
            path,
            is_ours: std::cell::Cell::new(is_ours),
        })
    }

    fn keep(&self) {
        if self.is_ours.replace(false) {
            eprintln!("logs are kept in {}", self.path.display());
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.is_ours.get() {
            // What can't be removed from the temporary directory is the system's to clean.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}
