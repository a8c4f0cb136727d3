//! `outrigger demo`: a whole mesh on this machine, with real processes, changed under load.
//!
//! It starts a control plane, sample services with a sidecar each, and load; edits the mesh's files as a
//! user would, kills the control plane, replaces a service, and shows what each of these did to requests.
//! With `--netns` each service is in a network namespace of its own whose connections go to its sidecar by
//! rules, and nobody is told of a proxy.

mod door;
mod load;
mod mesh;
mod node;
mod observe;
mod process;
mod report;
mod scenes;
mod site;
mod stock;
mod topology;
mod traffic;
mod view;

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args as ClapArgs;

use self::{mesh::Mesh, scenes::Scene, site::Site, view::View};

/// How the demo runs.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Args {
    /// What to show; several share the time.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "release")]
    scene: Vec<Scene>,
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
    /// Run every service in a network namespace of its own, where rules give its connections to its sidecar: no
    /// application knows of a proxy. Needs root
    #[arg(long)]
    netns: bool,
    /// Keep the mesh's files, logs and traces here instead of a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

/// Runs the demo to its end or until Ctrl-C; everything that it started is stopped then.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut view = View::new(args.json);
    let directory = Directory::new(args.dir.clone())?;
    // From here on, so that nothing is left behind by an early end either.
    let interrupted = interrupted()?;
    tokio::pin!(interrupted);
    let site = Site::new(args.netns)?;
    let start = Mesh::start(site, &directory.path, args.canary, args.port, &mut view);
    let started = tokio::select! {
        mesh = start => Some(mesh),
        () = &mut interrupted => None,
    };
    let Some(mesh) = started else {
        view.note("interrupted");
        return Ok(ExitCode::SUCCESS);
    };
    if mesh.is_err() {
        directory.keep();
    }
    let mut mesh = mesh?;
    let outcome = tokio::select! {
        outcome = scenes::run(&args, &mut mesh, &mut view) => outcome.map(Some),
        () = &mut interrupted => Ok(None),
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

/// Ends with the first SIGINT or SIGTERM; they do not end the process from now on.
fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
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
