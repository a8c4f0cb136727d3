//! `outrigger sidecar exec`: a command whose end is the end of its sidecar, for pods that are to finish where the
//! sidecar is an ordinary container.

use std::{
    ffi::OsString,
    io::ErrorKind,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use outrigger_injector::{
    hook,
    spec::{ADMIN_PORT, READY_PORT},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// What the command gets as if it were sent to it.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Shells' codes of commands that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

#[derive(Debug, Parser)]
pub(super) struct Args {
    /// How long to wait for the sidecar at most
    #[arg(long, value_parser = super::seconds, default_value = "60s")]
    timeout: Duration,

    /// Its readiness port
    #[arg(long, default_value_t = READY_PORT)]
    port: u16,

    /// The port of its admin interface
    #[arg(long, default_value_t = ADMIN_PORT)]
    admin_port: u16,

    /// Leave the sidecar running when the command fails: for pods with `restartPolicy: OnFailure`, where the
    /// command is started again and the sidecar is not
    #[arg(long)]
    stays_on_failure: bool,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command between the sidecar's readiness and its end; the exit code is the command's, or 128 and the
/// number of the signal that ended it.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(supervise(args));
    // Waiting for the sidecar may still be under way.
    runtime.shutdown_background();
    let has_failed = !matches!(result, Ok(0));
    if has_failed && args.stays_on_failure {
        eprintln!("the sidecar stays");
    } else if let Err(error) = hook::quit(args.admin_port) {
        eprintln!("the sidecar could not be ended: {error:#}");
    }
    result.map(ExitCode::from)
}

async fn supervise(args: &Args) -> anyhow::Result<u8> {
    let mut signals = signals()?;
    let mut children = signal(SignalKind::child())?;
    let (port, timeout) = (args.port, args.timeout);
    tokio::select! {
        ready = tokio::task::spawn_blocking(move || hook::wait(port, timeout)) => ready??,
        Some(signal) = signals.recv() => return Ok(killed_by(signal)),
    }
    let (program, rest) = args.command.split_first().context("no command")?;
    let child = match Command::new(program).args(rest).spawn() {
        Ok(child) => Pid::from_raw(i32::try_from(child.id())?),
        Err(error) => {
            eprintln!("cannot run {}: {error}", program.display());
            return Ok(match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_RUN,
            });
        }
    };
    loop {
        if let Some(code) = reap(child)? {
            return Ok(code);
        }
        tokio::select! {
            _ = children.recv() => {}
            Some(signal) = signals.recv() => {
                // It may have ended just now.
                kill(child, signal).unwrap_or_default();
            }
        }
    }
}

/// Takes note of every process that has ended; the code of `child`, if it has. As the first process of a
/// container this one inherits whatever its command leaves behind.
fn reap(child: Pid) -> anyhow::Result<Option<u8>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Ok(Some(u8::try_from(code).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Ok(Some(killed_by(signal)));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the command"),
        }
    }
}

fn killed_by(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

/// Everything that is forwarded, from now on.
fn signals() -> anyhow::Result<mpsc::UnboundedReceiver<Signal>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for forwarded in FORWARDED {
        let mut stream = signal(SignalKind::from_raw(forwarded as i32))
            .with_context(|| format!("{forwarded} cannot be taken"))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(forwarded).is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}
