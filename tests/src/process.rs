//! Child processes that never outlive their test, with their output kept for the failure report.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::wait;

/// A running child in its own process group.
///
/// The group is killed when the value is dropped, and the kernel kills the child when the thread
/// that started it ends (through `setpriv --pdeathsig`), so nothing survives a crashed test.
/// A test that panics prints what the child wrote.
pub struct Process {
    name: String,
    child: Child,
    log: Log,
    exit: Option<ExitStatus>,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Process {
    /// Starts `program` with `args`; `name` names it in failure reports.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[String],
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let mut command = with_death_signal(program);
        let mut child = command
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let log = Log::default();
        log.follow(child.stdout.take());
        log.follow(child.stderr.take());
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            exit: None,
        })
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything the child wrote so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The exit status, once the child ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait()?;
        }
        Ok(self.exit)
    }

    /// Sends one signal to the child (not its group).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Waits for the child to end by itself.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait::until(&format!("{name} to end"), deadline, async || {
            self.exited()?.context("still running")
        })
        .await
    }

    /// Fails with the log's last lines when the child has ended.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!(
                "{} ended ({}):\n{}",
                self.name,
                describe(status),
                tail(&self.log(), 30)
            );
        }
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.exited(), self.pid()) {
            // Either call fails only when the child is already gone.
            _ = killpg(pid, Signal::SIGKILL);
            _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!(
                "--- output of {} ---\n{}",
                self.name,
                tail(&self.log(), 200)
            );
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .field("id", &self.id())
            .finish()
    }
}

impl Log {
    fn follow(&self, stream: Option<impl Read + Send + 'static>) {
        let Some(stream) = stream else { return };
        let log = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                log.lock().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
    }

    fn text(&self) -> String {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `program` to its end and gives its exit code and everything it wrote.
pub async fn run(program: &Path, args: &[String], deadline: Duration) -> Result<(i32, String)> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(deadline, command.output())
        .await
        .with_context(|| format!("{} did not end in {deadline:?}", program.display()))?
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let code = output
        .status
        .code()
        .unwrap_or_else(|| -output.status.signal().unwrap_or(0));
    Ok((code, String::from_utf8_lossy(&text).into_owned()))
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn with_death_signal(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}
