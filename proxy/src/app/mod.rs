//! The process: build, run, drain, in that order. The only place that knows all modules.

mod life;

use std::{
    cell::Cell,
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::ExitCode,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;
use tokio::{
    net::TcpListener,
    runtime::LocalOptions,
    sync::{mpsc, watch},
    task::spawn_local,
};

use crate::{
    admin::{self, Lifecycle},
    args::{Args, LogLevel, Mode},
    bootstrap::{self, Overrides},
    config::{self, bootstrap::Bootstrap},
    listener::{Active, Build},
    snapshot::{Publisher, State, state::Host},
    telemetry::{
        access_log::{AccessLogs, EventLog},
        otlp::Exporters,
        stats::Registry,
    },
    upstream::{self, Cluster, dns::Resolver, health, outlier},
    worker::{self, Busy, Phase},
    xds::{self, Control},
};

/// Does what the command line says.
#[must_use]
pub fn main(args: &Args) -> ExitCode {
    let result = match args.mode {
        Mode::Validate => validate(args),
        Mode::Serve => serve(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the last resort: nothing is left to do if it is closed.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Reads and converts the configuration; every error is in the returned one.
fn load(args: &Args) -> anyhow::Result<Bootstrap> {
    let text = match (&args.config_path, &args.config_yaml) {
        (Some(_), Some(_)) => bail!("--config-path and --config-yaml together are not supported"),
        (Some(path), None) => fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?,
        (None, Some(text)) => text.clone(),
        (None, None) => bail!("one of --config-path and --config-yaml is needed"),
    };
    let overrides = Overrides {
        node_id: args.service_node.clone(),
        node_cluster: args.service_cluster.clone(),
    };
    let described = |error| anyhow::anyhow!("configuration {}:\n{error}", args.source());
    let bootstrap =
        bootstrap::load(&text, &overrides).map_err(|error| described(error.to_string()))?;
    xds::check_files(&bootstrap).map_err(|errors| described(listed(errors).to_string()))?;
    Ok(bootstrap)
}

fn validate(args: &Args) -> anyhow::Result<()> {
    load(args)?;
    writeln!(io::stdout(), "configuration '{}' OK", args.source())?;
    Ok(())
}

fn serve(args: &Args) -> anyhow::Result<()> {
    outrigger_base::log::init(args.log_level.filter()).context("--log-level")?;
    let bootstrap = load(args)?;
    let beside = admin::App::from_environment().map_err(anyhow::Error::msg)?;
    let workers = args.workers();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("cannot start the main thread's runtime")?;
    runtime.block_on(async {
        let app = App::build(args, bootstrap, beside, workers)?;
        app.run().await
    })
}

/// Everything that runs.
struct App {
    phase: watch::Sender<Phase>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    /// Whether each of them has connections to or from the application.
    busy: Vec<Arc<Busy>>,
    publisher: Publisher,
    access_logs: AccessLogs,
    exporters: Exporters,
    admin: Rc<admin::Context>,
    commands: mpsc::UnboundedReceiver<admin::Command>,
    drain_time: Duration,
}

impl App {
    fn build(
        args: &Args,
        bootstrap: Bootstrap,
        beside: admin::App,
        workers: usize,
    ) -> anyhow::Result<Self> {
        let bootstrap = Arc::new(bootstrap);
        let registry = Registry::new(workers);
        let access_logs = AccessLogs::new(&registry);
        let (exporters, export) = Exporters::new(&registry);
        let commands = mpsc::unbounded_channel();
        let mut host = ProcessHost {
            build: Build {
                registry: registry.clone(),
                workers,
                access_logs: access_logs.clone(),
                exporters: exporters.clone(),
                own_address: own_address(),
                shows_reasons: !args.hide_reasons,
                service_cluster: Arc::clone(&bootstrap.node.cluster),
                service_node: Arc::clone(&bootstrap.node.id),
            },
            resolver: Resolver::default(),
            outlier_log: outlier_log(&bootstrap, &access_logs)?,
            access_logs: access_logs.clone(),
            commands: commands.0.clone(),
        };
        let publisher = Publisher::new();
        let mut state = State::new(&bootstrap, &registry, &mut host).map_err(listed)?;
        // What is warm from the start is served from the first accepted connection on.
        if let Some(snapshot) = state.settle() {
            publisher.publish(snapshot);
        }
        let (control, handle) =
            Control::new(&bootstrap, state, host, publisher.clone(), commands).map_err(listed)?;
        tokio::spawn(control.run());
        let clusters = publisher.clone();
        tokio::spawn(export.run(Box::new(move |name| {
            clusters.current().cluster(name).map(Arc::clone)
        })));
        spawn_local(flush_stats(
            registry.clone(),
            bootstrap.stats_flush_interval,
        ));

        let is_failing_health_checks = Arc::new(AtomicBool::new(false));
        let (phase, phases) = watch::channel(Phase::default());
        let settings = worker::Settings {
            drain_time: args.drain_time(),
            snapshots: publisher.subscribe(),
            phase: phases,
            is_failing_health_checks: Arc::clone(&is_failing_health_checks),
        };
        let busy: Vec<Arc<Busy>> = (0..workers).map(|_| Arc::default()).collect();
        let workers = (1..)
            .zip(&busy)
            .map(|(index, busy)| worker::spawn(index, settings.clone(), Arc::clone(busy)))
            .collect::<io::Result<Vec<_>>>()
            .context("cannot start the workers")?;
        let (admin, admin_commands) = start_admin(
            args,
            &bootstrap,
            registry,
            publisher.clone(),
            access_logs.clone(),
            handle,
            is_failing_health_checks,
            beside,
        )?;
        Ok(Self {
            phase,
            workers,
            busy,
            publisher,
            access_logs,
            exporters,
            admin,
            commands: admin_commands,
            drain_time: args.drain_time(),
        })
    }
}

/// Starts the admin endpoint, if there is one, and follows how far the process is.
fn start_admin(
    args: &Args,
    bootstrap: &Arc<Bootstrap>,
    registry: Registry,
    publisher: Publisher,
    access_logs: AccessLogs,
    handle: xds::Handle,
    is_failing_health_checks: Arc<AtomicBool>,
    beside: admin::App,
) -> anyhow::Result<(Rc<admin::Context>, mpsc::UnboundedReceiver<admin::Command>)> {
    let mut progress = handle.progress();
    let dump: admin::FetchDump = Box::new(move || {
        let handle = handle.clone();
        Box::pin(async move { handle.dump().await })
    });
    let (context, commands) = admin::Context::new(
        registry,
        publisher,
        Arc::clone(bootstrap),
        options(args),
        access_logs,
        dump,
        log_level(args.log_level),
    )
    .map_err(anyhow::Error::msg)
    .context("admin")?;
    let context = Rc::new(
        context
            .sharing_health(is_failing_health_checks)
            .beside(beside),
    );
    let followed = Rc::clone(&context);
    followed.set_lifecycle(Lifecycle::Initializing);
    spawn_local(async move {
        // An error means that the control loop has ended with the process.
        if progress
            .wait_for(|progress| progress.is_initialized)
            .await
            .is_ok()
            && followed.lifecycle() == Lifecycle::Initializing
        {
            followed.set_lifecycle(Lifecycle::Live);
        }
    });
    if let Some(admin) = &bootstrap.admin {
        let listen = || {
            let socket = std::net::TcpListener::bind(admin.address)?;
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let listener =
            listen().with_context(|| format!("cannot bind the admin address {}", admin.address))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "admin endpoint");
        if let Some(path) = &args.admin_address_path {
            admin::write_address(path, address)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        spawn_local(admin::serve(listener, Rc::clone(&context)));
    }
    Ok((context, commands))
}

fn options(args: &Args) -> admin::Options {
    let text = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map_or_else(String::new, |path| path.display().to_string())
    };
    admin::Options {
        concurrency: args.workers(),
        config_path: text(&args.config_path),
        config_yaml: args.config_yaml.clone().unwrap_or_default(),
        admin_address_path: text(&args.admin_address_path),
        log_level: args.log_level.name().to_owned(),
        service_cluster: args.service_cluster.clone().unwrap_or_default(),
        service_node: args.service_node.clone().unwrap_or_default(),
        drain_time_s: args.drain_time_s,
    }
}

/// Opens the event log of outlier detection, if there is one.
fn outlier_log(bootstrap: &Bootstrap, logs: &AccessLogs) -> anyhow::Result<Option<EventLog>> {
    let path = bootstrap.outlier_event_log.as_deref();
    let log = path.map(|path| logs.event_log(path)).transpose();
    log.map_err(anyhow::Error::msg)
        .context("cluster_manager.outlier_detection.event_log_path")
}

/// Reads or sets the log level.
fn log_level(initial: LogLevel) -> admin::LogLevel {
    let current = Cell::new(initial);
    Box::new(move |wanted| {
        if let Some(name) = wanted {
            let level = LogLevel::from_str(name, true)?;
            outrigger_base::log::set_filter(level.filter()).map_err(|error| error.to_string())?;
            current.set(level);
        }
        Ok(current.get().name().to_owned())
    })
}

/// Ends the histograms' intervals.
async fn flush_stats(registry: Registry, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        registry.flush();
    }
}

fn listed(errors: Vec<crate::convert::ConfigError>) -> anyhow::Error {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("{}", lines.join("\n"))
}

/// This machine's address as others see it: that of the interface that leads out. Nothing is sent.
fn own_address() -> IpAddr {
    let find = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // An address of documentation (RFC 5737): any default route leads there.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    find().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// What the configuration's state needs done in this process.
#[derive(Debug)]
struct ProcessHost {
    build: Build,
    resolver: Resolver,
    outlier_log: Option<EventLog>,
    access_logs: AccessLogs,
    commands: mpsc::UnboundedSender<xds::Command>,
}

impl ProcessHost {
    /// The event logs of a cluster's health checks. One that can't be opened is told of and left out: the
    /// checks matter more.
    fn event_logs(&self, cluster: &Cluster) -> Vec<EventLog> {
        let check = cluster.config.health_check.as_ref();
        let paths = check.map_or(&[][..], |check| &check.event_logs);
        let open = |path: &std::path::PathBuf| {
            self.access_logs
                .event_log(path)
                .inspect_err(|error| {
                    tracing::error!(cluster = %cluster.name(), %error, "no health check event log");
                })
                .ok()
        };
        paths.iter().filter_map(open).collect()
    }
}

impl Host for ProcessHost {
    fn activate(
        &mut self,
        config: Arc<config::listener::Listener>,
        previous: Option<&Arc<Active>>,
    ) -> Result<Arc<Active>, String> {
        Active::new(config, previous, &self.build)
    }

    fn discover(&mut self, cluster: &Arc<Cluster>) {
        outlier::watch(cluster, self.outlier_log.clone());
        let warm = self.commands.clone();
        health::watch(cluster, self.event_logs(cluster), move || {
            drop(warm.send(xds::Command::Warm));
        });
        let warm = self.commands.clone();
        // They end with the cluster, too.
        let _task = upstream::destinations::watch(cluster);
        // The look-ups end with the cluster. A stopped main loop needs no waking.
        let _task = self
            .resolver
            .watch(cluster, move || drop(warm.send(xds::Command::Warm)));
        drop(self.commands.send(xds::Command::Warm));
    }
}
