//! The admission webhook: the API server asks it about each pod that is created, and it adds the sidecar.
//!
//! [`review`], [`patch`], [`generations`] and [`manifests`] are pure; [`server`] and [`upkeep`] are their rim.

pub mod generations;
pub mod manifests;
pub mod metrics;
pub mod patch;
pub mod registration;
pub mod review;
pub mod server;
pub mod store;
pub mod upkeep;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get,
};
use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use outrigger_base::{file, net::bind, signal};
use rustls::{ServerConfig, crypto::CryptoProvider};
use serde::Serialize;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::spec::{Settings, supports_native_sidecars};
use metrics::Metrics;
use registration::Registration;
use review::Reviewer;
use server::Webhook;
use store::Store;
use upkeep::{Upkeep, Used};

/// How long the start waits for a certificate before it serves without: connections then fail.
const FIRST_CERTIFICATE: Duration = Duration::from_secs(10);
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address of both ports.
    pub bind: IpAddr,
    /// HTTPS; 0 is any free one.
    pub port: u16,
    /// Metrics and readiness; 0 is any free one.
    pub metrics_port: u16,
    /// Where certificates are kept. None: in a Secret, and the registration is kept up to date.
    pub cert_dir: Option<PathBuf>,
    /// Other names and addresses that the certificate is for.
    pub hosts: Vec<String>,
    /// How long a certificate is good.
    pub lifetime: SignedDuration,
    /// The name of the Service, of the registration and, with an ending, of the Secret.
    pub name: String,
    /// How the mesh injects.
    pub settings: Settings,
    /// What is done where neither pod nor namespace says anything.
    pub default: bool,
    /// The version of the cluster. None: it is asked.
    pub kubernetes_version: Option<String>,
    /// How long connections are still taken when the process is to stop and says so at `/readyz`.
    pub stop_delay: Duration,
    /// Where to write the addresses of both ports.
    pub addresses_file: Option<PathBuf>,
}

/// The name of the Secret.
pub fn secret(name: &str) -> String {
    format!("{name}-certificates")
}

#[derive(Clone, Debug)]
struct Health {
    used: Arc<Used>,
    stopping: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Serialize)]
struct Addresses {
    webhook: SocketAddr,
    metrics: SocketAddr,
}

/// Runs the webhook until the process is asked to stop.
///
/// # Errors
/// When a port is taken, or the cluster cannot be reached at the start.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let signal = signal::stop().context("signal handlers")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // For the client of the API server; a second one of the same kind changes nothing.
    drop(CryptoProvider::install_default((*provider).clone()));
    let listener = bind(options.bind, options.port, "--port").await?;
    let plain = bind(options.bind, options.metrics_port, "--metrics-port").await?;
    let addresses = Addresses {
        webhook: listener.local_addr()?,
        metrics: plain.local_addr()?,
    };

    let metrics = Arc::new(Metrics::default());
    let used = Arc::new(Used::default());
    let (store, registration, version) = place(&options).await?;
    let mut settings = options.settings.clone();
    if let Some(version) = &version {
        settings.options.native_sidecar = supports_native_sidecars(version).unwrap_or(true);
    }
    let upkeep = Upkeep {
        store,
        registration,
        names: names(&options),
        lifetime: options.lifetime,
        provider: Arc::clone(&provider),
        used: Arc::clone(&used),
        metrics: Arc::clone(&metrics),
    };
    let mut upkeep = tokio::spawn(async move { upkeep.run().await });

    let stopping = Arc::new(AtomicBool::new(false));
    let (stop, stopped) = watch::channel(false);
    let health = Health {
        used: Arc::clone(&used),
        stopping: Arc::clone(&stopping),
        metrics: Arc::clone(&metrics),
    };
    let plain =
        axum::serve(plain, router(health)).with_graceful_shutdown(signal::stopped(stopped.clone()));
    let plain = tokio::spawn(async move { plain.await });
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&used) as Arc<_>);
    tls.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    let reviewer = Reviewer {
        settings,
        default: options.default,
    };
    let webhook = Arc::new(Webhook { reviewer, metrics });
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let served = tokio::spawn(server::serve(
        listener,
        acceptor,
        webhook,
        signal::stopped(stopped),
    ));

    wait(&used).await;
    tracing::info!(
        "injector is up: webhook https://{}, metrics http://{}",
        addresses.webhook,
        addresses.metrics
    );
    if let Some(path) = &options.addresses_file {
        // Others wait for it to appear.
        file::replace(path, serde_json::to_vec_pretty(&addresses)?)
            .with_context(|| format!("--addresses-file {}", path.display()))?;
    }
    let name = tokio::select! {
        name = signal => name,
        ended = &mut upkeep => {
            ended.context("the upkeep of certificates")?;
            anyhow::bail!("the upkeep of certificates ended by itself");
        }
    };
    tracing::info!("{name}: stopping");
    stopping.store(true, Ordering::Relaxed);
    tokio::time::sleep(options.stop_delay).await;
    stop.send_replace(true);
    served.await.context("the webhook")?;
    upkeep.abort();
    plain.await.context("metrics")?.context("metrics")
}

/// Where certificates are kept and trusted, and the version of the cluster.
async fn place(options: &Options) -> anyhow::Result<(Store, Option<Registration>, Option<String>)> {
    let mut version = options.kubernetes_version.clone();
    if let Some(folder) = &options.cert_dir {
        return Ok((Store::Directory(folder.clone()), None, version));
    }
    let config = kube::Config::infer().await.context(
        "no cluster: neither a kubeconfig nor a service account; --cert-dir runs without one",
    )?;
    let client = Client::try_from(config).context("the cluster's configuration")?;
    if version.is_none() {
        let info = client
            .apiserver_version()
            .await
            .context("asking the cluster for its version")?;
        tracing::info!("the cluster is Kubernetes {}", info.git_version);
        version = Some(info.git_version);
    }
    let namespace = &options.settings.mesh_namespace;
    let store = Store::Secret {
        api: Api::namespaced(client.clone(), namespace),
        name: secret(&options.name),
    };
    let registration = Registration {
        api: Api::all(client),
        name: options.name.clone(),
    };
    Ok((store, Some(registration), version))
}

/// What the certificate is for.
fn names(options: &Options) -> Vec<String> {
    let service = format!("{}.{}.svc", options.name, options.settings.mesh_namespace);
    let mut names = vec![service];
    if options.cert_dir.is_some() {
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    names.extend(options.hosts.iter().cloned());
    names
}

async fn wait(used: &Used) {
    let ready = async {
        while !used.is_good(Timestamp::now()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(FIRST_CERTIFICATE, ready)
        .await
        .is_err()
    {
        tracing::warn!("there is no certificate yet");
    }
}

fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(text))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.stopping.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else if health.used.is_good(Timestamp::now()) {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "no certificate that is good\n",
        )
    }
}

async fn text(State(health): State<Health>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, health.metrics.text())
}
