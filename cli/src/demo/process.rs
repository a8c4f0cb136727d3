//! The demo's processes: started, watched, ended with it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

/// How long a process gets to stop by itself.
const GRACE: Duration = Duration::from_secs(8);

/// A running process whose output goes to a file. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a program with its arguments; its output is appended to `DIR/NAME.log`.
    pub(crate) fn start(
        name: &str,
        words: &[String],
        env: &[(&str, String)],
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let (program, args) = words.split_first().context("no program")?;
        let log = directory.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("can't write {}", log.display()))?;
        let child = Command::new(program)
            .args(args)
            // The user's own proxy is not the demo's.
            .env_remove("http_proxy")
            .envs(env.iter().map(|(key, value)| (*key, value.as_str())))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {program}"))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
        })
    }

    /// An error that shows the end of its log, if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} ended ({status}); its last words:\n{}",
                self.name,
                self.last_words()
            );
        }
        Ok(())
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().collect::<Vec<_>>();
        let from = lines.len().saturating_sub(12);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// SIGTERM, then SIGKILL when it takes too long.
    pub(crate) async fn stop(mut self) {
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            let id = nix::unistd::Pid::from_raw(id);
            // One that is gone needs no signal.
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap_or_default();
        }
        if tokio::time::timeout(GRACE, self.child.wait())
            .await
            .is_err()
        {
            drop(self.child.kill().await);
        }
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        drop(self.child.kill().await);
    }
}
