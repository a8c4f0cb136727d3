//! `outrigger control-plane` over a directory of its own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{DEADLINE, ports};
use crate::process::{self, Process};
use crate::{client, proxy, wait};

const PORTS: [&str; 6] = ["xds", "metrics", "api", "otlp-grpc", "otlp-http", "jaeger"];
/// Those that injected sidecars expect.
const DEFAULT_PORTS: [u16; 6] = [15010, 15014, 15080, 4317, 4318, 16686];

/// A control plane; dropping it kills it and removes its directory.
#[derive(Debug)]
pub struct ControlPlane {
    // Before the folder, so that it is gone when the folder goes.
    process: Option<Process>,
    ports: Vec<SocketAddr>,
    folder: TempDir,
}

impl ControlPlane {
    /// Starts one on the files (name, YAML) and waits until it is ready.
    pub async fn start(files: &[(&str, String)]) -> Result<Self> {
        let mut this = Self::prepare(files)?;
        this.restart().await?;
        Ok(this)
    }

    /// The same on the ports that it has by default, at an address that others reach.
    pub async fn start_at(address: IpAddr, files: &[(&str, String)]) -> Result<Self> {
        let ports = DEFAULT_PORTS.map(|port| SocketAddr::new(address, port));
        let mut this = Self::with_ports(ports.to_vec(), files)?;
        this.restart().await?;
        Ok(this)
    }

    /// Everything but the process.
    pub fn prepare(files: &[(&str, String)]) -> Result<Self> {
        let ports = PORTS
            .iter()
            .map(|_| ports::reserve())
            .collect::<Result<_>>()?;
        Self::with_ports(ports, files)
    }

    fn with_ports(ports: Vec<SocketAddr>, files: &[(&str, String)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("mesh"))?;
        let this = Self {
            process: None,
            ports,
            folder,
        };
        for (name, text) in files {
            this.write(name, text)?;
        }
        Ok(this)
    }

    /// Starts it, again if need be, on the ports and the data that it had.
    pub async fn restart(&mut self) -> Result<()> {
        let addresses = self.folder.path().join("addresses.json");
        let mut args = vec![
            "control-plane".to_owned(),
            format!("--config-dir={}", self.config_dir().display()),
            format!("--data-dir={}", self.folder.path().join("data").display()),
            format!("--addresses-file={}", addresses.display()),
            format!("--bind={}", self.address("xds").ip()),
        ];
        let ports = PORTS.iter().zip(&self.ports);
        args.extend(ports.map(|(name, address)| format!("--{name}-port={}", address.port())));
        let program = proxy::binary("outrigger")?;
        let mut process = Process::start("control-plane", &program, &args, &[])?;
        let metrics = self.address("metrics");
        wait::until("the control plane to be ready", DEADLINE, async || {
            process.check_running()?;
            let reply = client::get(metrics, "/ready").await?;
            ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
            Ok(())
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

    /// SIGTERM; gives the exit code.
    pub async fn stop(&mut self) -> Result<Option<i32>> {
        let mut process = self.process.take().context("it does not run")?;
        process.signal(Signal::SIGTERM)?;
        Ok(process.wait(DEADLINE).await?.code())
    }

    /// Where it listens: `xds`, `api`, `otlp-grpc`, `otlp-http`, `jaeger` or `metrics`.
    pub fn address(&self, port: &str) -> SocketAddr {
        let place = PORTS.iter().position(|name| *name == port);
        self.ports[place.expect("a port that it has")]
    }

    /// The directory of the mesh's files.
    pub fn config_dir(&self) -> PathBuf {
        self.folder.path().join("mesh")
    }

    /// Replaces a file at once, as editors do.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.config_dir().join(name);
        let beside = self.folder.path().join("beside");
        fs::write(&beside, text)?;
        fs::rename(&beside, &path).with_context(|| path.display().to_string())
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.config_dir().join(name))?)
    }

    /// One answer of the JSON API, such as `status`.
    pub async fn api(&self, what: &str) -> Result<Value> {
        json(self.address("api"), &format!("/api/v1/{what}")).await
    }

    /// One answer of Jaeger's query API, such as `services`: what is in its `data`.
    pub async fn jaeger(&self, what: &str) -> Result<Value> {
        let answer = json(self.address("jaeger"), &format!("/api/{what}")).await?;
        Ok(answer["data"].clone())
    }

    /// Waits until that many proxies are connected and all of them are in sync.
    pub async fn in_sync(&self, proxies: usize) -> Result<()> {
        wait::until(
            &format!("{proxies} proxies in sync"),
            DEADLINE,
            async || {
                let status = self.api("status").await?;
                ensure!(
                    status["connected"] == proxies && status["in_sync"] == proxies,
                    "{status:#}"
                );
                Ok(())
            },
        )
        .await
    }

    /// One proxy's entry of the status, when it meets the condition.
    pub async fn proxy(&self, id: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(&format!("the state of {id}"), DEADLINE, async || {
            let status = self.api("status").await?;
            let proxies = status["proxies"].as_array().context("proxies")?;
            let found = proxies
                .iter()
                .find(|proxy| proxy["id"] == id && condition(proxy));
            found.cloned().with_context(|| format!("{status:#}"))
        })
        .await
    }

    /// Replaces a file and waits until the change is acknowledged by every proxy that it concerns;
    /// gives the entry of `/api/v1/changes`.
    pub async fn edit(&self, name: &str, text: &str) -> Result<Value> {
        let before = self.version().await?;
        self.write(name, text)?;
        self.change_after(before).await
    }

    /// The version of the model.
    pub async fn version(&self) -> Result<u64> {
        self.api("status").await?["version"]
            .as_u64()
            .context("version")
    }

    /// The newest change, once it is later than `version` and acknowledged.
    pub async fn change_after(&self, version: u64) -> Result<Value> {
        wait::until("the change to be acknowledged", DEADLINE, async || {
            let changes = self.api("changes").await?;
            let newest = changes["changes"][0].clone();
            let number = newest["version"].as_u64().context("no change")?;
            ensure!(number > version && newest["ack_ms"].is_f64(), "{newest:#}");
            Ok(newest)
        })
        .await
    }

    /// One object of the listing, such as `HTTPRoute/shop/reviews`.
    pub async fn object(&self, name: &str) -> Result<Value> {
        let listing = self.api("objects").await?;
        let objects = listing["objects"].as_array().context("objects")?;
        let found = objects.iter().find(|object| object["object"] == name);
        found
            .cloned()
            .with_context(|| format!("{name} in {listing:#}"))
    }

    /// The condition of an object, of its first parent if it has parents.
    pub async fn condition(&self, object: &str, kind: &str) -> Result<Value> {
        let object = self.object(object).await?;
        let of_parent = &object["parents"][0]["conditions"];
        let conditions = if of_parent.is_array() {
            of_parent
        } else {
            &object["conditions"]
        };
        let mut all = conditions.as_array().into_iter().flatten();
        let found = all.find(|condition| condition["type"] == kind);
        found
            .cloned()
            .with_context(|| format!("{kind} in {object:#}"))
    }

    /// A trace by its id, once it has at least that many spans.
    pub async fn trace(&self, id: &str, spans: usize) -> Result<Value> {
        wait::until(&format!("{spans} spans of {id}"), DEADLINE, async || {
            let traces = self.jaeger(&format!("traces/{id}")).await?;
            let count = traces[0]["spans"].as_array().map_or(0, Vec::len);
            ensure!(count >= spans, "{count} spans: {traces:#}");
            Ok(traces[0].clone())
        })
        .await
    }
}

/// Runs a command of the command line; gives its exit code and all that it printed.
pub async fn outrigger(args: &[&str]) -> Result<(i32, String)> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    process::run(&proxy::binary("outrigger")?, &args, DEADLINE).await
}

/// Runs `outrigger validate` on a directory.
pub async fn validate(folder: &Path) -> Result<(i32, String)> {
    outrigger(&["validate", &folder.display().to_string()]).await
}

async fn json(address: SocketAddr, path: &str) -> Result<Value> {
    let reply = client::get(address, path).await?;
    ensure!(
        reply.status == 200,
        "{path}: {} {}",
        reply.status,
        reply.text()
    );
    serde_json::from_slice(&reply.body).with_context(|| format!("{path}: {}", reply.text()))
}
