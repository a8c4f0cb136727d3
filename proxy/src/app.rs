//! The process: build, run, drain, in that order. The only file that knows all modules.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::ExitCode,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    args::{Args, Mode},
    bootstrap::{self, Overrides},
    config::{self, bootstrap::Bootstrap},
    listener::{Active, Build},
    snapshot::{Publisher, State, state::Host},
    telemetry::{access_log::AccessLogs, stats::Registry},
    upstream::{Cluster, dns},
    worker::{self, Phase},
    xds::{Command, Control},
};

/// How long the last access-log lines may take.
const LAST_LINES: Duration = Duration::from_secs(2);

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
    bootstrap::load(&text, &overrides)
        .map_err(|error| anyhow::anyhow!("configuration {}:\n{error}", args.source()))
}

fn validate(args: &Args) -> anyhow::Result<()> {
    load(args)?;
    writeln!(io::stdout(), "configuration '{}' OK", args.source())?;
    Ok(())
}

fn serve(args: &Args) -> anyhow::Result<()> {
    outrigger_base::log::init(args.log_level.filter()).context("--log-level")?;
    let bootstrap = load(args)?;
    let workers = args.workers();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the main thread's runtime")?;
    runtime.block_on(async {
        let app = App::build(args, &bootstrap, workers)?;
        app.run().await
    })
}

/// Everything that runs.
struct App {
    phase: watch::Sender<Phase>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    access_logs: AccessLogs,
    drain_time: Duration,
}

impl App {
    fn build(args: &Args, bootstrap: &Bootstrap, workers: usize) -> anyhow::Result<Self> {
        let registry = Registry::new(workers);
        let access_logs = AccessLogs::new(&registry);
        let commands = mpsc::unbounded_channel();
        let mut host = ProcessHost {
            build: Build {
                registry: registry.clone(),
                workers,
                access_logs: access_logs.clone(),
                own_address: own_address(),
                service_cluster: Arc::clone(&bootstrap.node.cluster),
                service_node: Arc::clone(&bootstrap.node.id),
            },
            resolver: dns::Resolver::default(),
            commands: commands.0.clone(),
        };
        let publisher = Publisher::new();
        let mut state = State::new(bootstrap, &registry, &mut host).map_err(listed)?;
        // What is warm from the start is served from the first accepted connection on.
        if let Some(snapshot) = state.settle() {
            publisher.publish(snapshot);
        }
        let (control, _handle) =
            Control::new(bootstrap, state, host, publisher.clone(), commands).map_err(listed)?;
        tokio::spawn(control.run());

        let (phase, phases) = watch::channel(Phase::Running);
        let settings = worker::Settings {
            drain_time: args.drain_time(),
            snapshots: publisher.subscribe(),
            phase: phases,
        };
        let workers = (1..=workers)
            .map(|index| worker::spawn(index, settings.clone()))
            .collect::<io::Result<Vec<_>>>()
            .context("cannot start the workers")?;
        Ok(Self { phase, workers, access_logs, drain_time: args.drain_time() })
    }

    /// Runs until a signal, then drains.
    async fn run(self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut reopen = signal(SignalKind::user_defined1())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => {
                    self.phase.send_replace(Phase::Stopped);
                    break;
                }
                _ = reopen.recv() => self.access_logs.reopen(),
            }
        }
        if *self.phase.borrow() != Phase::Stopped {
            tracing::info!(drain_time_s = self.drain_time.as_secs(), "draining");
            self.phase.send_replace(Phase::Draining);
        }
        let phase = self.phase.clone();
        let drain_time = self.drain_time;
        let mut ended = tokio::task::spawn_blocking(move || join(self.workers));
        let ended = tokio::select! {
            ended = &mut ended => ended,
            () = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = tokio::time::sleep(drain_time) => {}
                }
            } => {
                phase.send_replace(Phase::Stopped);
                ended.await
            }
        };
        self.access_logs.flush(LAST_LINES);
        ended.context("a worker could not be waited for")?
    }
}

/// Waits for the workers.
fn join(workers: Vec<JoinHandle<io::Result<()>>>) -> anyhow::Result<()> {
    for worker in workers {
        match worker.join() {
            Ok(result) => result.context("a worker failed")?,
            Err(_) => bail!("a worker panicked"),
        }
    }
    Ok(())
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
    find().map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

/// What the configuration's state needs done in this process.
#[derive(Debug)]
struct ProcessHost {
    build: Build,
    resolver: dns::Resolver,
    commands: mpsc::UnboundedSender<Command>,
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
        let warm = self.commands.clone();
        // The look-ups end with the cluster. A stopped main loop needs no waking.
        self.resolver.watch(cluster, move || drop(warm.send(Command::Warm)));
        drop(self.commands.send(Command::Warm));
    }
}
