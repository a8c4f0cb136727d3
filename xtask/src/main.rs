//! Builds, tests, benchmarks and shows Outrigger; installs what that needs.

mod install;
mod release;
mod steps;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use steps::Steps;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build Outrigger and run its demo.
    Demo {
        /// Arguments of `outrigger demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Install what the tests need, build everything, run every test.
    Test {
        /// Arguments of `cargo test`, such as `-p outrigger-tests --test parity`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build what users run, guided by a profile, into `target/guided/bin`.
    Release,
    /// Build what users run and measure it beside Envoy.
    Bench {
        /// Measure the plain release build, without a profile.
        #[arg(long)]
        unguided: bool,
        /// Arguments of the harness, such as `--quick` or `--json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check the format, lint, build the documentation, test.
    Ci,
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let mut steps = Steps::new()?;
    match command {
        Command::Demo { args } => {
            install::compilers(&steps)?;
            build(&steps, &[])?;
            let demo = steps.target().join("debug/outrigger");
            steps.run(
                "demo",
                &demo,
                &[&["demo".to_owned()], args.as_slice()].concat(),
            )
        }
        Command::Test { args } => test(&steps, &args),
        Command::Release => {
            install::compilers(&steps)?;
            release::build(&steps, &harness(&steps)?).map(drop)
        }
        Command::Bench { unguided, args } => {
            install::compilers(&steps)?;
            install::python(&steps)?;
            let harness = harness(&steps)?;
            let bin = if unguided {
                build(&steps, &["--release"])?;
                steps.target().join("release")
            } else {
                release::build(&steps, &harness)?
            };
            let mut measure = std::process::Command::new(harness);
            measure.args(args).env("OUTRIGGER_BIN_DIR", bin);
            steps.shown("measure", &mut measure)
        }
        Command::Ci => {
            install::compilers(&steps)?;
            steps.cargo("check the format", &["fmt", "--all", "--check"])?;
            let clippy = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ];
            steps.cargo("lint", &clippy)?;
            steps.deny_doc_warnings();
            steps.cargo(
                "build the documentation",
                &["doc", "--workspace", "--no-deps"],
            )?;
            test(&steps, &[])
        }
    }
}

/// Builds the load harness.
fn harness(steps: &Steps) -> Result<std::path::PathBuf> {
    let args = ["build", "--release", "--package", "outrigger-benches"];
    steps.cargo("build the load harness", &args)?;
    Ok(steps.target().join("release/outrigger-bench"))
}

fn test(steps: &Steps, args: &[String]) -> Result<()> {
    install::compilers(steps)?;
    install::python(steps)?;
    install::network(steps)?;
    install::kubernetes(steps)?;
    // Suites run the binaries that users run; `cargo test` alone would not build them.
    build(steps, &[])?;
    let whole = ["--workspace".to_owned()];
    let args = if args.is_empty() {
        whole.as_slice()
    } else {
        args
    };
    // All failures of one run, not only the first target's.
    let mut command = vec!["test", "--no-fail-fast"];
    command.extend(args.iter().map(String::as_str));
    steps.cargo("test", &command)
}

fn build(steps: &Steps, flags: &[&str]) -> Result<()> {
    let bins = [
        "build",
        "--package",
        "outrigger-proxy",
        "--package",
        "outrigger",
        "--bins",
    ];
    steps.cargo("build Outrigger", &[&bins, flags].concat())
}
