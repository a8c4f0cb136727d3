//! The admin endpoint, in the shapes of Envoy's: what the proxy knows and does, and a few switches.
//!
//! It runs on the main thread and reads what workers publish; it never waits for one. Connections,
//! headers and times are bounded.

mod app;
mod bulkheads;
mod circuit_breakers;
mod clusters;
mod config_dump;
mod endpoints;
mod listeners;
mod query;
mod serve;
mod server;
mod stats;

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

use tokio::sync::mpsc;

pub use app::App;
pub use serve::serve;

use self::server::ServerStats;
use crate::{
    config::{bootstrap::Bootstrap, listener::Listener},
    snapshot::{Dump, Publisher},
    telemetry::{
        access_log::{AccessLogs, Loggers},
        stats::Registry,
    },
};

/// How far the process is in its life, as `/ready` and `/server_info` show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifecycle {
    /// Static clusters warm up.
    #[default]
    PreInitializing,
    /// The first dynamic configuration is awaited.
    Initializing,
    /// It serves.
    Live,
    /// It drains before it ends.
    Draining,
}

/// What the admin endpoint asks of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `/drain_listeners`.
    DrainListeners {
        /// Wait for the drain time before listeners close.
        graceful: bool,
        /// Only listeners of inbound traffic.
        inbound_only: bool,
        /// Drain connections, but keep listening.
        skip_exit: bool,
    },
    /// `/quitquitquit`.
    Quit,
}

/// How the process was started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--concurrency`.
    pub concurrency: usize,
    /// `-c`.
    pub config_path: String,
    /// `--config-yaml`.
    pub config_yaml: String,
    /// `--admin-address-path`.
    pub admin_address_path: String,
    /// `--log-level`.
    pub log_level: String,
    /// `--service-cluster`.
    pub service_cluster: String,
    /// `--service-node`.
    pub service_node: String,
    /// `--drain-time-s`.
    pub drain_time_s: u64,
}

/// Reads the log level, or sets it first.
pub type LogLevel = Box<dyn Fn(Option<&str>) -> Result<String, String>>;
/// Asks for everything that the control loop knows.
pub type FetchDump = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Dump>>>>;

/// What the endpoint shows and can reach.
pub struct Context {
    registry: Registry,
    publisher: Publisher,
    bootstrap: Arc<Bootstrap>,
    options: Options,
    access_logs: AccessLogs,
    dump: FetchDump,
    log_level: LogLevel,
    commands: mpsc::UnboundedSender<Command>,
    lifecycle: Cell<Lifecycle>,
    /// Workers read it too.
    is_failing_health_checks: Arc<AtomicBool>,
    started: (Instant, SystemTime),
    stats: ServerStats,
    loggers: Loggers,
    /// What access logs say of the listener.
    listener: Arc<Listener>,
    /// Whose sidecar this is.
    app: App,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("lifecycle", &self.lifecycle)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// The context of a process that starts now, and the commands that will come from its users.
    ///
    /// # Errors
    /// A file of the endpoint's access log cannot be opened.
    pub fn new(
        registry: Registry,
        publisher: Publisher,
        bootstrap: Arc<Bootstrap>,
        options: Options,
        access_logs: AccessLogs,
        dump: FetchDump,
        log_level: LogLevel,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Command>), String> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let admin = bootstrap.admin.as_ref();
        let logs = admin.map_or(&[][..], |admin| &admin.access_log);
        let context = Self {
            stats: ServerStats::new(&registry),
            loggers: access_logs.compile(logs)?,
            listener: Arc::new(listener(admin.map(|admin| admin.address))),
            registry,
            publisher,
            bootstrap,
            options,
            access_logs,
            dump,
            log_level,
            commands,
            lifecycle: Cell::default(),
            is_failing_health_checks: Arc::default(),
            started: (Instant::now(), SystemTime::now()),
            app: App::default(),
        };
        context.stats.update(&context);
        Ok((context, receiver))
    }

    /// Health checks fail for all who share the switch.
    #[must_use]
    pub fn sharing_health(mut self, switch: Arc<AtomicBool>) -> Self {
        self.is_failing_health_checks = switch;
        self
    }

    /// It is the sidecar of this application.
    #[must_use]
    pub fn beside(mut self, app: App) -> Self {
        self.app = app;
        self
    }

    /// The process says how far it is.
    pub fn set_lifecycle(&self, lifecycle: Lifecycle) {
        self.lifecycle.set(lifecycle);
        self.stats.update(self);
    }

    /// How far the process is; a process that was told to fail health checks counts as draining.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        match self.lifecycle.get() {
            Lifecycle::Live if self.is_failing_health_checks.load(Relaxed) => Lifecycle::Draining,
            other => other,
        }
    }
}

/// The endpoint as a listener, for its access log.
fn listener(address: Option<SocketAddr>) -> Listener {
    Listener {
        addresses: address.into_iter().collect(),
        stat_prefix: Some("admin".into()),
        ..Listener::named("admin")
    }
}

impl Lifecycle {
    /// As Envoy writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
        }
    }
}

/// Writes the address that the endpoint listens on to the file of `--admin-address-path`, whole or
/// not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write_address(path: &Path, address: SocketAddr) -> std::io::Result<()> {
    outrigger_base::file::replace(path, address.to_string())
}

#[cfg(test)]
mod tests;
