//! `outrigger validate`: checks mesh configuration offline, as the control plane would read it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use outrigger_control_plane::check::{self, Report};
use serde_json::json;

/// Check a directory of mesh configuration, without a control plane
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Directory of YAML files, or one file
    path: PathBuf,
    /// Output format
    #[arg(short, long, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

/// Runs the command: success means that everything would be in force.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report = check::check(&args.path).with_context(|| args.path.display().to_string())?;
    let all = json!({
        "valid": report.is_valid(),
        "files": report.files,
        "objects": report.objects,
        "findings": report.findings,
    });
    match args.output {
        Output::Table => print!("{}", as_text(&report)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&all)?),
        Output::Yaml => print!("{}", serde_norway::to_string(&all)?),
    }
    Ok(if report.is_valid() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("{finding}\n"));
    }
    let verdict = if report.is_valid() { "OK" } else { "not valid" };
    let Report {
        files,
        objects,
        findings,
    } = report;
    let count = findings.len();
    text.push_str(&format!(
        "{files} files, {objects} objects, {count} findings: {verdict}\n"
    ));
    text
}
