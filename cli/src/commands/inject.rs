//! `outrigger inject`: adds a sidecar to the pods of a manifest, or takes it away.

use std::{fs, io::Read as _, path::Path, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use outrigger_injector::{
    manifest::{Action, Format, rewrite},
    spec::{Settings, supports_native_sidecars},
};

/// Add a sidecar to the pods of a manifest, or take it away
///
/// The manifest goes to standard output, what was done to standard error. Pods that say no by
/// `outrigger.dev/inject: disabled` stay as they are. Where anything is refused, nothing is printed.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// File of any number of YAML or JSON documents; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// Take away what an earlier run has added
    #[arg(long)]
    uninject: bool,

    /// Output format [default: as the input]
    #[arg(short, long)]
    output: Option<Output>,

    #[command(flatten)]
    mesh: MeshArgs,
}

/// What the mesh is, for commands that inject.
#[derive(Debug, clap::Args)]
pub(crate) struct MeshArgs {
    /// Namespace of the control plane
    #[arg(long, value_name = "NAMESPACE", default_value = "outrigger-system")]
    mesh_namespace: String,

    /// Image with `outrigger` and `outrigger-proxy`
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Version of the cluster: before 1.29 the sidecar is an ordinary container
    #[arg(long, value_name = "VERSION", default_value = "1.29", value_parser = version)]
    kubernetes_version: String,
}

impl MeshArgs {
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::of_mesh(&self.mesh_namespace);
        if let Some(image) = &self.image {
            settings.options.image.clone_from(image);
        }
        settings.options.native_sidecar =
            supports_native_sidecars(&self.kubernetes_version).unwrap_or(true);
        settings
    }
}

fn version(text: &str) -> Result<String, String> {
    match supports_native_sidecars(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("no version, such as 1.29".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Yaml,
    Json,
}

/// Runs the command: success means that nothing was refused.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = read(&args.file)?;
    let format = match args.output {
        Some(Output::Json) => Format::Json,
        Some(Output::Yaml) => Format::Yaml,
        None if text.trim_start().starts_with('{') => Format::Json,
        None => Format::Yaml,
    };
    let settings = args.mesh.settings();
    let action = if args.uninject {
        Action::Uninject
    } else {
        Action::Inject(&settings)
    };
    let rewritten = rewrite(&text, action, format);
    for item in &rewritten.items {
        eprintln!("{item}");
    }
    if rewritten.is_fine() {
        print!("{}", rewritten.text);
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}

/// A file's text, or standard input's.
pub(crate) fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| file.display().to_string())
}
