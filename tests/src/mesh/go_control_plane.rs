//! `tests/peers/go-control-plane`: an xDS server made of Envoy's own Go library, so that our proxy
//! is proven against an implementation that shares no code with ours.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{DEADLINE, ports};
use crate::process::Process;
use crate::{proxy, wait};

/// The first build downloads and compiles Envoy's Go types.
const BUILD_DEADLINE: Duration = Duration::from_secs(600);

/// A running server; dropping it kills it.
#[derive(Debug)]
pub struct GoControlPlane {
    process: Option<Process>,
    address: SocketAddr,
    folder: TempDir,
}

/// What the server saw or did.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `subscribe`, `send`, `ack`, `nack`, `loaded`, `error` or `listening`.
    pub event: String,
    /// `sotw` or `delta`.
    pub form: String,
    /// The type's URL.
    #[serde(rename = "type")]
    pub type_url: String,
    /// Of the response that is sent or answered.
    pub version: String,
    /// Why it was refused.
    pub error: String,
    /// Names asked for.
    pub names: Vec<String>,
    /// What a delta client already has.
    pub initial: std::collections::BTreeMap<String, String>,
}

impl GoControlPlane {
    /// Starts one on these resources, each with `@type`.
    pub async fn start(resources: &[Value]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut this = Self {
            process: None,
            address: ports::reserve()?,
            folder,
        };
        this.write(resources)?;
        this.restart().await?;
        Ok(this)
    }

    /// Starts it, again if need be, on the port and the resources that it had.
    pub async fn restart(&mut self) -> Result<()> {
        let program = build().await?;
        let args = [
            format!("-resources={}", self.file().display()),
            format!("-listen={}", self.address),
        ];
        let mut process = Process::start("go-control-plane", program, &args, &[])?;
        wait::until("go-control-plane to listen", DEADLINE, async || {
            process.check_running()?;
            let log = process.log();
            log.contains("\"listening\"").then_some(()).context(log)
        })
        .await?;
        self.process = Some(process);
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.signal(Signal::SIGKILL)?;
        process.wait(DEADLINE).await?;
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves these resources from now on.
    pub async fn set(&self, resources: &[Value]) -> Result<()> {
        let process = self.process.as_ref().context("it does not run")?;
        let count = |what: &str| {
            self.events()
                .iter()
                .filter(|event| event.event == what)
                .count()
        };
        let (loaded, failed) = (count("loaded"), count("error"));
        self.write(resources)?;
        process.signal(Signal::SIGHUP)?;
        wait::until("the resources to be loaded", DEADLINE, async || {
            if count("error") > failed {
                return Ok(Err(process.log()));
            }
            (count("loaded") > loaded)
                .then_some(Ok(()))
                .context("not yet")
        })
        .await?
        .map_err(anyhow::Error::msg)
    }

    /// Everything that happened since it started last.
    pub fn events(&self) -> Vec<Event> {
        let log = self.process.as_ref().map(Process::log).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The version that was sent last of a type (the end of its name).
    pub fn version(&self, kind: &str) -> Option<String> {
        let events = self.events();
        let last = events
            .iter()
            .rev()
            .find(|event| event.event == "send" && event.is(kind));
        last.map(|event| event.version.clone())
    }

    /// Waits for the first request of a type.
    pub async fn subscription(&self, kind: &str) -> Result<Event> {
        wait::until(&format!("a request for {kind}"), DEADLINE, async || {
            let events = self.events();
            let mut first = events.iter().filter(|event| event.event == "subscribe");
            let found = first.find(|event| event.is(kind));
            found.cloned().with_context(|| format!("{events:#?}"))
        })
        .await
    }

    /// Waits until a version of a type other than `old` is the last that was sent, and answered.
    pub async fn answer(&self, kind: &str, old: Option<&str>) -> Result<Event> {
        wait::until(&format!("an answer about {kind}"), DEADLINE, async || {
            let events = self.events();
            let found = last_answer(&events, kind).filter(|found| Some(&*found.version) != old);
            found.cloned().with_context(|| format!("{events:#?}"))
        })
        .await
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("resources.json")
    }

    fn write(&self, resources: &[Value]) -> Result<()> {
        let text = serde_json::to_string_pretty(&json!({ "resources": resources }))?;
        Ok(fs::write(self.file(), text)?)
    }
}

impl Event {
    /// Whether it is about a type, by the end of its name.
    pub fn is(&self, kind: &str) -> bool {
        self.type_url.rsplit('.').next() == Some(kind)
    }
}

/// The newest answer to the version that was sent last. The same version may have been sent before,
/// with others in between: those answers are old.
fn last_answer<'a>(events: &'a [Event], kind: &str) -> Option<&'a Event> {
    let of_kind = || events.iter().filter(|event| event.is(kind));
    let version = &of_kind().rev().find(|event| event.event == "send")?.version;
    of_kind()
        .rev()
        .take_while(|event| event.event != "send" || event.version == *version)
        .find(|event| {
            let is_answer = event.event == "ack" || event.event == "nack";
            is_answer && event.version == *version
        })
}

/// Builds the server into the target directory; Go's own cache makes all but the first time quick.
async fn build() -> Result<&'static Path> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    Ok(BUILT.get_or_try_init(compile).await?)
}

async fn compile() -> Result<PathBuf> {
    let venv = proxy::venv()?;
    let target = venv
        .parent()
        .context("the environment lies in the target directory")?;
    let program = target.join("peers/go-control-plane");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/go-control-plane");
    let mut command = tokio::process::Command::new(go(&venv)?);
    command
        .args([
            "build",
            "-buildvcs=false",
            "-trimpath",
            "-ldflags=-s -w",
            "-o",
        ])
        .args([program.as_os_str(), ".".as_ref()])
        .current_dir(source)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(BUILD_DEADLINE, command.output())
        .await
        .context("building go-control-plane takes too long")??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("building go-control-plane failed; it needs Go modules from the network:\n{said}");
    }
    Ok(program)
}

/// The Go compiler: on the path, or in the Python environment of the tests.
fn go(venv: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push(venv.join("bin"));
    let mut candidates = folders.iter().map(|folder| folder.join("go"));
    let found = candidates.find(|file| file.is_file());
    Ok(found
        .context("Go is missing: install it (https://go.dev/dl, 1.24 or later) to prove our proxy against Envoy's own xDS server")?
        .into())
}
