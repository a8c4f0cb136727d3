//! `outrigger sidecar`: the hooks of a sidecar that is an ordinary container, and the wrapper of what is to
//! finish beside it.

mod exec;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use outrigger_injector::{
    hook,
    spec::{ADMIN_PORT, READY_PORT},
};

/// Wait for a sidecar, drain it, or end it with a command
#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    hook: Hook,
}

#[derive(Debug, Subcommand)]
enum Hook {
    /// Wait until the sidecar is ready
    Wait {
        /// How long at most
        #[arg(long, value_parser = seconds, default_value = "60s")]
        timeout: Duration,
        /// Its readiness port
        #[arg(long, default_value_t = READY_PORT)]
        port: u16,
    },
    /// Have the sidecar take no new inbound connections, and wait until the open ones have ended
    Drain {
        /// How long at most
        #[arg(long, value_parser = seconds, default_value = "20s")]
        timeout: Duration,
        /// The port of its admin interface
        #[arg(long, default_value_t = ADMIN_PORT)]
        port: u16,
    },
    /// Run a command that is to finish, once the sidecar is ready, and end the sidecar with it
    Exec(exec::Args),
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.strip_suffix('s')
        .and_then(|count| count.parse().ok())
        .map(Duration::from_secs)
        .ok_or_else(|| "a number of seconds, such as 20s".to_owned())
}

/// Runs the hook.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.hook {
        Hook::Wait { timeout, port } => hook::wait(*port, *timeout)?,
        Hook::Drain { timeout, port } => hook::drain(*port, *timeout)?,
        Hook::Exec(args) => return exec::run(args),
    }
    Ok(ExitCode::SUCCESS)
}
