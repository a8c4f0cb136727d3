//! The command line: Envoy's flags of those names.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

/// An Envoy-compatible sidecar proxy.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "outrigger-proxy",
    version,
    about,
    after_help = "\
Signals: SIGTERM stops listening and drains (HTTP/1 `connection: close`, HTTP/2 GOAWAY) until all \
connections have ended or the drain time is over; where listeners have a traffic_direction, only the inbound \
ones do so at first, and outbound ones work until the last connection has ended. A second one, or SIGINT, \
ends at once. SIGUSR1 opens access-log files anew.

Exit status: 0 done, 1 failed, 2 usage."
)]
pub struct Args {
    /// Bootstrap file: YAML or JSON, as for Envoy
    #[arg(
        short = 'c',
        long,
        value_name = "FILE",
        required_unless_present = "config_yaml"
    )]
    pub config_path: Option<PathBuf>,

    /// Bootstrap as text; with --config-path, its top-level fields are laid over the file's
    #[arg(long, value_name = "TEXT")]
    pub config_yaml: Option<String>,

    /// What to do with the configuration
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: Option<u32>,

    /// Identity of this proxy; wins over `node.id`
    #[arg(long, value_name = "ID")]
    pub service_node: Option<String>,

    /// Name of the service that this proxy belongs to; wins over `node.cluster`
    #[arg(long, value_name = "NAME")]
    pub service_cluster: Option<String>,

    /// Log level, on standard error
    #[arg(short = 'l', long, value_enum, default_value_t = LogLevel::Info, value_name = "LEVEL")]
    pub log_level: LogLevel,

    /// Longest time in seconds that drained connections may go on
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub drain_time_s: u64,

    /// File that the admin endpoint's address is written to
    #[arg(long, value_name = "FILE")]
    pub admin_address_path: Option<PathBuf>,

    /// Send no `x-outrigger-reason` with replies of our own, for a proxy at the edge; logs and spans still
    /// say why
    #[arg(long)]
    pub hide_reasons: bool,

    /// Accepted for Envoy's sake, without effect: there is no hot restart here
    #[arg(long, value_name = "ID", help_heading = "Without effect")]
    pub base_id: Option<u32>,

    /// Accepted for Envoy's sake, without effect: there is no hot restart here
    #[arg(long, help_heading = "Without effect")]
    pub use_dynamic_base_id: bool,

    /// Accepted for Envoy's sake, without effect: there is no hot restart here
    #[arg(long, help_heading = "Without effect")]
    pub disable_hot_restart: bool,
}

/// `--mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Run
    Serve,
    /// Check the configuration, report every error with its path, and exit
    Validate,
}

/// `--log-level`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Everything
    Trace,
    /// More
    Debug,
    /// What happens
    Info,
    /// What looks wrong
    #[value(alias = "warn")]
    Warning,
    /// What is wrong
    Error,
    /// As error
    Critical,
    /// Nothing
    Off,
}

impl LogLevel {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    /// The filter of that level.
    #[must_use]
    pub fn filter(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            // Libraries have nothing to say that users of a proxy ask for.
            Self::Debug => "debug,h2=info,hyper=info,hyper_util=info,tower=info,hickory=info",
            Self::Info => "info",
            Self::Warning => "warn",
            Self::Error | Self::Critical => "error",
            Self::Off => "off",
        }
    }
}

impl Args {
    /// How many workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        match self.concurrency {
            Some(count) => count as usize,
            None => std::thread::available_parallelism().map_or(1, Into::into),
        }
    }

    /// `--drain-time-s`
    #[must_use]
    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time_s)
    }

    /// The configuration's name in messages.
    #[must_use]
    pub fn source(&self) -> String {
        self.config_path.as_ref().map_or_else(
            || "--config-yaml".to_owned(),
            |path| path.display().to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn envoys_flags_are_understood() {
        let args = Args::try_parse_from([
            "outrigger-proxy",
            "-c",
            "envoy.yaml",
            "--mode",
            "validate",
            "--concurrency",
            "2",
            "--service-node",
            "n",
            "--service-cluster",
            "c",
            "-l",
            "warning",
            "--drain-time-s",
            "5",
            "--base-id",
            "3",
            "--use-dynamic-base-id",
        ])
        .unwrap();
        assert_eq!(args.mode, Mode::Validate);
        assert_eq!(args.workers(), 2);
        assert_eq!(args.drain_time(), Duration::from_secs(5));
        assert_eq!(args.source(), "envoy.yaml");
    }

    #[test]
    fn a_configuration_is_required() {
        let error = Args::try_parse_from(["outrigger-proxy"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let odd = [
            "outrigger-proxy",
            "-c",
            "x",
            "--component-log-level",
            "http:debug",
        ];
        assert_eq!(Args::try_parse_from(odd).unwrap_err().exit_code(), 2);
    }
}
