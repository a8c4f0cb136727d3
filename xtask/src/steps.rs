//! Runs commands as named steps: says what runs, how long it took, and what failed.

use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use serde_json::Value;

/// The steps of one xtask command.
#[derive(Debug)]
pub(crate) struct Steps {
    root: PathBuf,
    target: PathBuf,
    doc_flags: bool,
}

impl Steps {
    /// Finds the workspace.
    pub(crate) fn new() -> Result<Self> {
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .output()?;
        if !output.status.success() {
            bail!(
                "cargo metadata: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let folder = |name: &str| -> Result<PathBuf> {
            Ok(metadata[name]
                .as_str()
                .with_context(|| format!("no {name}"))?
                .into())
        };
        Ok(Self {
            root: folder("workspace_root")?,
            target: folder("target_directory")?,
            doc_flags: false,
        })
    }

    /// The workspace's folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The target directory.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// From here on, warnings of rustdoc are errors.
    pub(crate) fn deny_doc_warnings(&mut self) {
        self.doc_flags = true;
    }

    /// Runs cargo and shows its output.
    pub(crate) fn cargo(&self, what: &str, args: &[&str]) -> Result<()> {
        let mut command = cargo();
        command.args(args);
        if self.doc_flags {
            command.env("RUSTDOCFLAGS", "--deny warnings");
        }
        self.shown(what, &mut command)
    }

    /// Runs a program and shows its output.
    pub(crate) fn run(&self, what: &str, program: &Path, args: &[String]) -> Result<()> {
        self.shown(what, Command::new(program).args(args))
    }

    /// Runs a command and shows its output.
    pub(crate) fn shown(&self, what: &str, command: &mut Command) -> Result<()> {
        eprintln!("==> {what}: {}", describe(command));
        let start = Instant::now();
        let status = command.current_dir(&self.root).status();
        let status = status.with_context(|| describe(command))?;
        if !status.success() {
            bail!("{what} failed ({status}): {}", describe(command));
        }
        eprintln!("==> {what}: done in {}", seconds(start.elapsed()));
        Ok(())
    }

    /// Runs a program whose output matters only when it fails; shows that it is alive.
    pub(crate) fn quiet(&self, what: &str, command: &mut Command) -> Result<()> {
        eprintln!("==> {what}");
        let start = Instant::now();
        let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(200));
        let output = command
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .output();
        spinner.finish_and_clear();
        let output = output.with_context(|| describe(command))?;
        if !output.status.success() {
            let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
            said.push_str(&String::from_utf8_lossy(&output.stderr));
            bail!(
                "{what} failed ({}): {}\n{said}",
                output.status,
                describe(command)
            );
        }
        eprintln!("==> {what}: done in {}", seconds(start.elapsed()));
        Ok(())
    }
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn describe(command: &Command) -> String {
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or_else(|| command.get_program());
    let mut text = name.to_string_lossy().into_owned();
    for arg in command.get_args() {
        // Writing to a String does not fail.
        _ = write!(text, " {}", arg.to_string_lossy());
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
