//! `outrigger injector`: the admission webhook, and the manifests that register and run it.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use outrigger_injector::{
    spec::{Settings, supports_native_sidecars},
    webhook::{self, manifests::Values},
};

/// Run the admission webhook that adds sidecars to pods
///
/// On Kubernetes it keeps its certificate in a Secret and has the API server trust it, by itself. With --cert-dir it
/// needs no cluster.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    mesh: Mesh,

    /// Address that both ports listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    bind: IpAddr,

    /// Directory for the certificate and `ca.crt`, which callers trust; no cluster is looked for then
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,

    /// Another name or address that the certificate is for
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,

    /// How long a certificate is good; the next is made when two thirds have passed
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    certificate_lifetime: Duration,

    /// Version of the cluster: before 1.29 the sidecar is an ordinary container [default: ask the cluster]
    #[arg(long, value_name = "VERSION", value_parser = version)]
    kubernetes_version: Option<String>,

    /// How long requests are still taken after SIGTERM, while /readyz says that it stops
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    stop_delay: Duration,

    /// Write the addresses of both ports to this file, as JSON, once it is ready
    #[arg(long, value_name = "FILE")]
    addresses_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what Kubernetes needs to run the webhook and to call it
    Manifests(Manifests),
}

#[derive(Debug, Parser)]
struct Manifests {
    #[command(flatten)]
    mesh: Mesh,

    /// How many pods answer
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    replicas: u16,
}

/// What both the webhook and its manifests are made of.
#[derive(Debug, clap::Args)]
struct Mesh {
    /// Namespace of the control plane
    #[arg(long, value_name = "NAMESPACE", default_value = "outrigger-system")]
    mesh_namespace: String,

    /// Name of the Service, of the MutatingWebhookConfiguration and of what else belongs to them
    #[arg(long, value_name = "NAME", default_value = "outrigger-injector")]
    name: String,

    /// Image with `outrigger` and `outrigger-proxy`
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// What is done where neither the pod nor its namespace says anything
    #[arg(long, value_name = "WORD", default_value = "disabled")]
    default: Word,

    /// HTTPS
    #[arg(long, value_name = "PORT", default_value_t = 15017)]
    port: u16,

    /// Metrics and readiness
    #[arg(long, value_name = "PORT", default_value_t = 15014)]
    metrics_port: u16,

    /// Log level or filter
    #[arg(
        long,
        value_name = "FILTER",
        env = "OUTRIGGER_LOG",
        default_value = "info"
    )]
    log_level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    Enabled,
    Disabled,
}

impl Mesh {
    fn settings(&self) -> Settings {
        let mut settings = Settings::of_mesh(&self.mesh_namespace);
        if let Some(image) = &self.image {
            settings.options.image.clone_from(image);
        }
        settings
    }
}

/// Go's notation: `90s`, `10m`, `24h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration such as 90s, 10m or 24h");
    let digits = text.trim_end_matches(|one: char| !one.is_ascii_digit());
    let count = digits.parse::<u64>().map_err(|_| wrong())?;
    let factor = match text.strip_prefix(digits) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        _ => return Err(wrong()),
    };
    let seconds = count.checked_mul(factor).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    let (shortest, longest) = (Duration::from_secs(3), Duration::from_hours(24 * 3650));
    if (shortest..=longest).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err("a certificate is good for 3s to ten years".to_owned())
    }
}

fn version(text: &str) -> Result<String, String> {
    match supports_native_sidecars(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("no version, such as 1.29".to_owned()),
    }
}

/// Runs the webhook until it is asked to stop, or prints the manifests.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args {
        command,
        mesh,
        bind,
        cert_dir,
        hosts,
        certificate_lifetime,
        kubernetes_version,
        stop_delay,
        addresses_file,
    } = args;
    if let Some(Command::Manifests(args)) = command {
        print!("{}", values(args).yaml());
        return Ok(ExitCode::SUCCESS);
    }
    outrigger_base::log::init(&mesh.log_level)
        .with_context(|| format!("--log-level {}", mesh.log_level))?;
    let options = webhook::Options {
        bind,
        port: mesh.port,
        metrics_port: mesh.metrics_port,
        cert_dir,
        hosts,
        lifetime: certificate_lifetime
            .try_into()
            .context("--certificate-lifetime")?,
        settings: mesh.settings(),
        name: mesh.name,
        default: mesh.default == Word::Enabled,
        kubernetes_version,
        stop_delay,
        addresses_file,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(webhook::run(options))?;
    Ok(ExitCode::SUCCESS)
}

fn values(args: Manifests) -> Values {
    let Manifests { mesh, replicas } = args;
    let image = mesh.settings().options.image;
    Values {
        namespace: mesh.mesh_namespace,
        name: mesh.name,
        image,
        replicas,
        default: mesh.default == Word::Enabled,
        port: mesh.port,
        metrics_port: mesh.metrics_port,
        log_level: mesh.log_level,
    }
}
