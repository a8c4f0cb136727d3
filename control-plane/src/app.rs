//! Starts the parts of the control plane, in the order in which they need each other, and stops
//! them again.

use std::{fmt, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use outrigger_base::{file, net::bind, signal};
use outrigger_traces::{Limits, Store};
use outrigger_xds::server::grpc::Service;
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic::transport::server::TcpIncoming;

use crate::{
    Args,
    api::{health, jaeger, mesh},
    otlp_receiver,
    serving::Serving,
    sources::{
        collect::{Collector, Sources},
        files::Files,
        first_seen::FirstSeen,
        last_good::LastGood,
    },
};

/// How long open requests may take when the process is to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How soon a proxy that vanished without a word is missed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Where the control plane listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// xDS in clear.
    pub xds: SocketAddr,
    /// Metrics and readiness.
    pub metrics: SocketAddr,
    /// JSON API.
    pub api: SocketAddr,
    /// OTLP over gRPC.
    pub otlp_grpc: SocketAddr,
    /// OTLP over HTTP.
    pub otlp_http: SocketAddr,
    /// Jaeger's query API.
    pub jaeger: SocketAddr,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            xds,
            metrics,
            api,
            otlp_grpc,
            otlp_http,
            jaeger,
        } = self;
        write!(
            f,
            "xds {xds}, metrics {metrics}, api {api}, otlp-grpc {otlp_grpc}, otlp-http {otlp_http}, \
             jaeger {jaeger}"
        )
    }
}

/// A control plane that runs.
#[derive(Debug)]
pub struct ControlPlane {
    addresses: Addresses,
    mesh: mesh::Mesh,
    stop: watch::Sender<bool>,
    tasks: JoinSet<anyhow::Result<()>>,
}

/// The listeners of all ports.
struct Ports {
    xds: TcpListener,
    metrics: TcpListener,
    api: TcpListener,
    otlp_grpc: TcpListener,
    otlp_http: TcpListener,
    jaeger: TcpListener,
}

impl Ports {
    async fn open(args: &Args) -> anyhow::Result<Self> {
        let open = |flag, port| bind(args.bind, port, flag);
        Ok(Self {
            xds: open("--xds-port", args.xds_port).await?,
            metrics: open("--metrics-port", args.metrics_port).await?,
            api: open("--api-port", args.api_port).await?,
            otlp_grpc: open("--otlp-grpc-port", args.otlp_grpc_port).await?,
            otlp_http: open("--otlp-http-port", args.otlp_http_port).await?,
            jaeger: open("--jaeger-port", args.jaeger_port).await?,
        })
    }

    fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            xds: self.xds.local_addr()?,
            metrics: self.metrics.local_addr()?,
            api: self.api.local_addr()?,
            otlp_grpc: self.otlp_grpc.local_addr()?,
            otlp_http: self.otlp_http.local_addr()?,
            jaeger: self.jaeger.local_addr()?,
        })
    }
}

impl ControlPlane {
    /// Opens all ports, reads the configuration once and begins to serve.
    ///
    /// # Errors
    /// When a port is taken, or a directory cannot be used.
    pub async fn start(args: &Args) -> anyhow::Result<Self> {
        let config = &args.config_dir;
        let source = Files::new(config)
            .with_context(|| format!("--config-dir {}: cannot be read", config.display()))?;
        let ports = Ports::open(args).await?;
        let addresses = ports.addresses()?;
        let limits = Limits {
            max_age: Duration::from_hours(args.trace_max_age),
            max_bytes: args.trace_max_size << 20,
            ..Limits::default()
        };
        let data = || format!("--data-dir {}", args.data_dir.display());
        let last_good = LastGood::open(args.data_dir.join("last-good")).with_context(data)?;
        let traces = Store::open(args.data_dir.join("traces"), limits).with_context(data)?;

        let serving = Arc::new(Serving::new());
        let sources = Arc::new(Sources::default());
        // Before the first proxy can ask: it shall never be told of an empty mesh.
        let collector = Collector::start(
            source,
            last_good,
            FirstSeen::open(args.data_dir.join("first-seen.json")),
            Arc::clone(&sources),
            Arc::clone(&serving),
        );
        let mesh = mesh::Mesh {
            serving: Arc::clone(&serving),
            sources,
        };

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(until(stopped.clone(), collector.run()));
        tasks.spawn(serve_xds(ports.xds, serving, stopped.clone()));
        let health = health::Health {
            mesh: mesh.clone(),
            traces: traces.clone(),
        };
        tasks.spawn(serve_http(
            ports.metrics,
            health::router(health),
            stopped.clone(),
        ));
        tasks.spawn(serve_http(
            ports.api,
            mesh::router(mesh.clone()),
            stopped.clone(),
        ));
        tasks.spawn(serve_http(
            ports.jaeger,
            jaeger::router(traces.clone()),
            stopped.clone(),
        ));
        let listeners = otlp_receiver::Listeners {
            grpc: Some(ports.otlp_grpc),
            http: Some(ports.otlp_http),
        };
        tasks.spawn(otlp_receiver::serve(
            listeners,
            traces,
            signal::stopped(stopped),
        ));
        Ok(Self {
            addresses,
            mesh,
            stop,
            tasks,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What it serves, for those in the same process.
    pub fn mesh(&self) -> &mesh::Mesh {
        &self.mesh
    }

    /// Runs until `signal` is done or a part fails, then stops everything.
    ///
    /// # Errors
    /// When a part failed.
    pub async fn run_until(mut self, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
        let failed = tokio::select! {
            () = signal => None,
            ended = self.tasks.join_next() => ended,
        };
        let stopped = self.stop().await;
        match failed {
            None => stopped,
            Some(ended) => {
                ended.context("a part of the control plane panicked")??;
                anyhow::bail!("a part of the control plane ended by itself")
            }
        }
    }

    /// Ends streams, lets open requests finish, writes what is queued.
    ///
    /// # Errors
    /// When a part failed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        self.mesh.serving.stop();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.context("a part of the control plane panicked")??;
            }
            Ok(())
        };
        match tokio::time::timeout(GRACE + Duration::from_secs(1), all).await {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!("some requests did not end in time");
                Ok(())
            }
        }
    }
}

/// Runs a control plane as the whole process: logs, prints its addresses, and stops on SIGTERM and
/// SIGINT.
pub fn main(args: &Args) -> ExitCode {
    match outrigger_base::log::init(&args.log_level)
        .with_context(|| format!("--log-level {}", args.log_level))
        .and_then(|()| {
            Ok(tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?)
        })
        .and_then(|runtime| runtime.block_on(run(args)))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let signal = signal::stop().context("signal handlers")?;
    let control_plane = ControlPlane::start(args).await?;
    let addresses = control_plane.addresses();
    tracing::info!("control plane is up: {addresses}");
    if let Some(path) = &args.addresses_file {
        // Others wait for it to appear.
        file::replace(path, serde_json::to_vec_pretty(&addresses)?)
            .with_context(|| format!("--addresses-file {}", path.display()))?;
    }
    control_plane
        .run_until(async {
            let name = signal.await;
            tracing::info!("{name}: stopping");
        })
        .await
}

async fn serve_xds(
    listener: TcpListener,
    serving: Arc<Serving>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(Service::new(serving).into_server())
        .serve_with_incoming_shutdown(incoming, signal::stopped(stopped))
        .await
        .context("xDS server")
}

async fn serve_http(
    listener: TcpListener,
    router: Router,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(signal::stopped(stopped))
        .await
        .context("HTTP server")
}

async fn until(
    stopped: watch::Receiver<bool>,
    work: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = work => {}
        () = signal::stopped(stopped) => {}
    }
    Ok(())
}
