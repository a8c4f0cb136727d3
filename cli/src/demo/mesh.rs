//! The demo's mesh: its processes, its files, and what can be asked of it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::{
    process::Process,
    report::Edit,
    site::{Ports, Site},
    topology::{self, Workload},
    view::View,
};
use crate::http_client::{get_json, get_text};

/// How long anything may take to start, to be acknowledged or to heal.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// How long a replaced instance serves on after the last proxy knows the new one: requests that were on
/// their way to it end.
const LAME_DUCK: Duration = Duration::from_millis(500);

/// How many proxies run under the newest configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sync {
    /// Connected proxies.
    pub(crate) proxies: usize,
    /// Those that have acknowledged everything.
    pub(crate) in_sync: usize,
}

/// A workload with its two processes.
#[derive(Debug)]
pub(super) struct Member {
    /// What it is.
    pub(super) workload: Workload,
    app: Process,
    sidecar: Process,
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Mesh {
    directory: PathBuf,
    programs: Programs,
    pub(super) ports: Ports,
    control_plane: Option<Process>,
    pub(super) members: Vec<Member>,
    entry: SocketAddr,
    // After the processes that live there.
    pub(super) site: Site,
}

#[derive(Clone, Debug)]
struct Programs {
    outrigger: PathBuf,
    proxy: PathBuf,
}

impl Programs {
    fn find() -> anyhow::Result<Self> {
        let outrigger = std::env::current_exe().context("can't find this program's file")?;
        let beside = outrigger.with_file_name("outrigger-proxy");
        if !beside.is_file() {
            bail!(
                "{} is missing; build it with `cargo build --package outrigger-proxy`",
                beside.display()
            );
        }
        Ok(Self {
            outrigger,
            proxy: beside,
        })
    }
}

impl Mesh {
    /// Starts everything and waits until each proxy has its configuration.
    pub(super) async fn start(
        mut site: Site,
        directory: &Path,
        canary: u32,
        api_port: u16,
        view: &mut View,
    ) -> anyhow::Result<Self> {
        let mut programs = Programs::find()?;
        programs.proxy = site.sidecar_program(&programs.proxy)?;
        let ports = site.ports(api_port)?;
        let workloads = topology::workloads(&mut site)?;
        let config = directory.join("mesh");
        std::fs::create_dir_all(&config)?;
        topology::write_services(&config, &site)?;
        topology::write_addresses(&config, &workloads.iter().collect::<Vec<_>>())?;
        topology::replace(
            &config.join(topology::ROUTE_FILE),
            &topology::route([100 - canary, canary]),
        )?;
        let entry = entry_of(&workloads)?.home.entry(&mut site)?;
        let mut mesh = Self {
            directory: directory.to_path_buf(),
            programs,
            ports: ports.clone(),
            control_plane: None,
            members: Vec::new(),
            entry,
            site,
        };
        view.scene(&format!(
            "starting the control plane, five sample services and a sidecar for each{}",
            mesh.site.describe()
        ));
        mesh.start_control_plane().await?;
        // Half of the proxies speak the incremental form, half the state of the world.
        for (index, workload) in workloads.into_iter().enumerate() {
            let member = mesh.start_member(workload, index % 2 == 0)?;
            mesh.members.push(member);
        }
        mesh.wait_ready().await?;
        mesh.wait_sync().await?;
        view.note(&format!(
            "mesh files in {}; edit them and watch",
            config.display()
        ));
        view.note(&format!(
            "control plane's API on http://{}/api/v1/status",
            ports.api
        ));
        view.note(&format!(
            "Jaeger's query API on http://{}/api/services",
            ports.jaeger
        ));
        if let Some(hint) = mesh.entry_workload()?.home.hint() {
            view.note(&hint);
        }
        Ok(mesh)
    }

    /// Where load goes: to the entry workload, whose sidecar takes it.
    pub(crate) fn entry(&self) -> SocketAddr {
        self.entry
    }

    /// Where a client beside the entry workload reaches a service: by its sidecar.
    pub(crate) fn way_out(&self, service: &str) -> anyhow::Result<SocketAddr> {
        let home = &self.entry_workload()?.home;
        home.way_out(self.site.service_address(service))
    }

    pub(super) fn entry_workload(&self) -> anyhow::Result<&Workload> {
        entry_of(self.members.iter().map(|member| &member.workload))
    }

    /// Starts this program once more, as something else; `exec` are words before its own.
    pub(crate) fn start_outrigger(
        &self,
        name: &str,
        exec: Vec<String>,
        args: Vec<String>,
    ) -> anyhow::Result<Process> {
        let words = [
            exec,
            vec![self.programs.outrigger.display().to_string()],
            args,
        ]
        .concat();
        Process::start(name, &words, &[], &self.directory)
    }

    /// Writes a file of the mesh and waits until every proxy has acknowledged it.
    pub(crate) async fn apply(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join("mesh").join(file);
        if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        let before = self.newest_change().await?.version;
        topology::replace(&path, text)?;
        self.wait_change(before).await?;
        Ok(())
    }

    /// Removes a file of the mesh and waits until every proxy has acknowledged it.
    pub(crate) async fn remove(&self, file: &str) -> anyhow::Result<()> {
        let before = self.newest_change().await?.version;
        std::fs::remove_file(self.directory.join("mesh").join(file))?;
        self.wait_change(before).await?;
        Ok(())
    }

    async fn start_control_plane(&mut self) -> anyhow::Result<()> {
        let mut args = vec![
            "control-plane".to_owned(),
            format!("--config-dir={}", self.directory.join("mesh").display()),
            format!("--data-dir={}", self.directory.join("data").display()),
        ];
        args.extend(self.ports.flags.iter().cloned());
        let process = self.start_outrigger("control-plane", self.site.exec(), args)?;
        self.control_plane = Some(process);
        let url = format!("http://{}/ready", self.ports.metrics);
        let deadline = Instant::now() + PATIENCE;
        while get_text(&url).await.is_err() {
            if let Some(process) = &mut self.control_plane {
                process.check()?;
            }
            pause(deadline, "the control plane did not become ready").await?;
        }
        Ok(())
    }

    fn start_member(&self, workload: Workload, delta: bool) -> anyhow::Result<Member> {
        let home = &workload.home;
        let bootstrap = workload
            .sidecar(self.ports.xds, self.ports.otlp, delta)
            .to_yaml();
        let file = self
            .directory
            .join(format!("{}.bootstrap.yaml", workload.name));
        // For people: a sidecar may run as somebody who cannot read it.
        std::fs::write(&file, &bootstrap)
            .with_context(|| format!("can't write {}", file.display()))?;
        let (exec, env) = home.app();
        let program = |path: &Path| vec![path.display().to_string()];
        let app = Process::start(
            &workload.name,
            &[exec, program(&self.programs.outrigger), workload.app_args()].concat(),
            &env,
            &self.directory,
        )?;
        let args = [
            "--concurrency",
            "1",
            "--drain-time-s",
            "2",
            "--config-yaml",
            &bootstrap,
        ];
        let sidecar = Process::start(
            &format!("{}-sidecar", workload.name),
            &[
                home.exec_sidecar(),
                program(&self.programs.proxy),
                args.map(str::to_owned).to_vec(),
            ]
            .concat(),
            &[],
            &self.directory,
        )?;
        Ok(Member {
            workload,
            app,
            sidecar,
        })
    }

    /// Every sidecar says that it is ready and every application takes connections.
    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for index in 0..self.members.len() {
            let Some(member) = self.members.get(index) else {
                break;
            };
            let workload = member.workload.clone();
            let ready = format!("http://{}/ready", workload.home.admin);
            while get_text(&ready).await.is_err() || !workload.home.takes_connections().await {
                self.check()?;
                let Some(member) = self.members.get(index) else {
                    break;
                };
                let words = format!(
                    "{} did not become ready; its sidecar says:\n{}",
                    workload.name,
                    member.sidecar.last_words()
                );
                pause(deadline, &words).await?;
            }
        }
        Ok(())
    }

    /// Fails when a process has ended that should run.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(process) = &mut self.control_plane {
            process.check()?;
        }
        for member in &mut self.members {
            member.app.check()?;
            member.sidecar.check()?;
        }
        Ok(())
    }

    /// How many proxies are in sync.
    pub(crate) async fn sync(&self) -> anyhow::Result<Sync> {
        let status = get_json(&format!("http://{}/api/v1/status", self.ports.api)).await?;
        let proxies = status
            .get("proxies")
            .and_then(serde_json::Value::as_array)
            .context("/api/v1/status has no proxies")?;
        let in_sync = proxies
            .iter()
            .filter(|proxy| proxy.get("in_sync") == Some(&serde_json::Value::Bool(true)))
            .count();
        Ok(Sync {
            proxies: proxies.len(),
            in_sync,
        })
    }

    async fn wait_sync(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sync = self.sync().await;
            if let Ok(sync) = sync
                && sync.in_sync == self.members.len()
                && sync.proxies == self.members.len()
            {
                return Ok(());
            }
            pause(deadline, &format!("not all proxies came in sync: {sync:?}")).await?;
        }
    }

    /// Writes the route's weights and waits until every proxy has acknowledged them.
    pub(crate) async fn edit_route(&self, weights: [u32; 2]) -> anyhow::Result<Edit> {
        let before = self.newest_change().await?.version;
        let file = self.directory.join("mesh").join(topology::ROUTE_FILE);
        topology::replace(&file, &topology::route(weights))?;
        let change = self.wait_change(before).await?;
        Ok(Edit {
            weights: format!("{}/{}", weights[0], weights[1]),
            acked_by: change.acked,
            proxies: change.proxies,
            ack_ms: change.ack_ms.unwrap_or_default(),
        })
    }

    async fn wait_change(&self, before: u64) -> anyhow::Result<Change> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let change = self.newest_change().await?;
            if change.version > before && change.ack_ms.is_some() {
                return Ok(change);
            }
            pause(
                deadline,
                &format!("the edit was not acknowledged by all: {change:?}"),
            )
            .await?;
        }
    }

    async fn newest_change(&self) -> anyhow::Result<Change> {
        let url = format!("http://{}/api/v1/changes", self.ports.api);
        let Changes { changes } = serde_json::from_value(get_json(&url).await?)
            .with_context(|| format!("{url} did not answer as expected"))?;
        changes
            .into_iter()
            .max_by_key(|change| change.version)
            .with_context(|| format!("{url} knows no change"))
    }

    /// kill -9, then a new one with the same ports and data; ends when all proxies are in sync.
    pub(crate) async fn restart_control_plane(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.control_plane.take() {
            process.kill().await;
        }
        self.start_control_plane().await?;
        self.wait_sync().await
    }

    /// Starts a second instance of a workload, moves its service's address there, and stops the first
    /// when no proxy sends to it any more.
    pub(crate) async fn roll(&mut self) -> anyhow::Result<()> {
        let position = self
            .members
            .iter()
            .position(|member| member.workload.name == topology::ROLLED)
            .context("the workload to replace is missing")?;
        let next = topology::replacement(&self.members[position].workload, &mut self.site)?;
        let member = self.start_member(next, true)?;
        self.members.push(member);
        self.wait_ready().await?;
        self.wait_sync().await?;
        let before = self.newest_change().await?.version;
        let old = self.members.remove(position);
        let workloads = self
            .members
            .iter()
            .map(|member| &member.workload)
            .collect::<Vec<_>>();
        topology::write_addresses(&self.directory.join("mesh"), &workloads)?;
        self.wait_change(before).await?;
        tokio::time::sleep(LAME_DUCK).await;
        old.sidecar.stop().await;
        old.app.stop().await;
        self.wait_sync().await
    }

    /// Stops everything, sidecars before their applications.
    pub(crate) async fn stop(self) {
        let mut stopping = tokio::task::JoinSet::new();
        for member in self.members {
            stopping.spawn(async move {
                member.sidecar.stop().await;
                member.app.stop().await;
            });
        }
        while stopping.join_next().await.is_some() {}
        if let Some(process) = self.control_plane {
            process.stop().await;
        }
    }
}

fn entry_of<'a>(workloads: impl IntoIterator<Item = &'a Workload>) -> anyhow::Result<&'a Workload> {
    let mut workloads = workloads.into_iter();
    let entry = workloads.find(|workload| workload.endpoint_of == topology::ENTRY);
    entry.context("the mesh has no entry")
}

/// One entry of `/api/v1/changes`.
#[derive(Clone, Debug, Deserialize)]
struct Change {
    version: u64,
    acked: usize,
    proxies: usize,
    /// From the first sign of the edit to the last acknowledgement; none while some are missing.
    ack_ms: Option<f64>,
}

#[derive(Deserialize)]
struct Changes {
    changes: Vec<Change>,
}

/// Waits a moment, or fails when the time is over.
pub(super) async fn pause(deadline: Instant, complaint: &str) -> anyhow::Result<()> {
    if Instant::now() > deadline {
        bail!("{complaint}");
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}
