//! `outrigger demo`: a whole mesh on this machine, with real processes, changed under load.
//!
//! It starts a control plane, sample services with a sidecar each, and load; edits the mesh's files as a
//! user would, kills the control plane, replaces a service, and shows what each of these did to requests.

mod load;
mod mesh;
mod observe;
mod process;
mod report;
mod scenes;
mod stock;
mod topology;
mod traffic;
mod view;

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args as ClapArgs;

use self::{mesh::Mesh, scenes::Scene, view::View};

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
        outcome = scenes::run(&args, &mut mesh, &mut view) => outcome.map(Some),
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
