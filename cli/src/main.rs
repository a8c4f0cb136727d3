//! The command line of the Outrigger service mesh.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

// A command line prints.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command line"
)]

mod commands;
mod demo;
mod http_client;
mod sample;
mod waterfall;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A service mesh: canary releases, resilience and traces without touching applications.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a whole mesh with its traces on this machine, changed under load
    Demo(demo::Args),
    /// Run the control plane
    ControlPlane(outrigger_control_plane::Args),
    /// Check a directory of mesh configuration, without a control plane
    Validate(commands::validate::Args),
    /// Show proxies with their versions and rejections, and objects with their conditions
    Status(commands::status::Args),
    /// Add a sidecar to the pods of a manifest, or take it away
    Inject(commands::inject::Args),
    /// Run the admission webhook that adds sidecars to pods, or print its manifests
    Injector(commands::injector::Args),
    /// Explain for each pod of a manifest whether it gets a sidecar
    CheckInject(commands::check_inject::Args),
    /// Set, show, verify or remove the rules that give a pod's connections to its sidecar
    Redirect(commands::redirect::Args),
    /// What the sidecar's container runs before the application starts and before it stops
    #[command(hide = true)]
    Sidecar(commands::sidecar::Args),
    /// List traces, or draw one as a waterfall
    Traces(commands::traces::Args),
    /// A small HTTP service for the demo
    #[command(hide = true)]
    SampleService(sample::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        // It makes a runtime and a log of its own, as its own binary would.
        Command::ControlPlane(args) => outrigger_control_plane::app::main(&args),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Validate(args) => finish(commands::validate::run(&args)),
        Command::Status(args) => block_on(commands::status::run(args)),
        Command::Inject(args) => finish(commands::inject::run(&args)),
        // It makes a runtime and a log of its own.
        Command::Injector(args) => finish(commands::injector::run(args)),
        Command::CheckInject(args) => finish(commands::check_inject::run(&args)),
        Command::Redirect(args) => finish(commands::redirect::run(&args)),
        Command::Sidecar(args) => finish(commands::sidecar::run(&args)),
        Command::Traces(args) => block_on(commands::traces::run(args)),
        Command::SampleService(args) => block_on(sample::run(args)),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(command));
    finish(outcome)
}

fn finish(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
