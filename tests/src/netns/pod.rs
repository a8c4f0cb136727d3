//! One pod: its redirection rules, its sidecar, and what its applications are run and reached by.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use outrigger_netns::Namespace;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::inject::{Commands, names_control_plane};
use super::{Injection, Mode};
use crate::mesh::DEADLINE;
use crate::process::{self, Process};
use crate::{client, proxy, wait};

/// Where the sidecar's admin interface is, for those in the pod.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);

/// A pod; dropping it kills all that it has.
#[derive(Debug)]
pub struct Pod {
    name: String,
    // Before the namespace, so that it is gone when that goes.
    sidecar: Option<Process>,
    commands: Option<(Commands, Mode)>,
    namespace: Namespace,
    program: PathBuf,
}

impl Pod {
    pub(super) fn new(name: &str, namespace: Namespace, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            sidecar: None,
            commands: None,
            namespace,
            program,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses: IPv4, IPv6.
    pub fn ips(&self) -> &[IpAddr] {
        self.namespace.addresses()
    }

    /// Its address of a family.
    pub fn ip(&self, is_v6: bool) -> IpAddr {
        let ip = self.ips().iter().find(|ip| ip.is_ipv6() == is_v6);
        *ip.expect("a pod has both")
    }

    /// Sets the rules and starts the sidecar; ends when it is ready.
    pub async fn inject(&mut self, injection: &Injection) -> Result<()> {
        let commands = injection.commands(&self.name, self.ips()).await?;
        ensure!(
            injection.static_resources.is_some() || names_control_plane(&commands.proxy),
            "{commands:?}"
        );
        let outrigger = proxy::binary("outrigger")?;
        let output = self
            .namespace
            .command(outrigger)
            .args(&commands.redirect)
            .output()?;
        ensure!(
            output.status.success(),
            "outrigger {:?}: {}",
            commands.redirect,
            String::from_utf8_lossy(&output.stderr)
        );
        self.commands = Some((commands, injection.mode));
        self.restart_sidecar().await
    }

    /// Starts the sidecar, again if need be, and waits until it is ready.
    pub async fn restart_sidecar(&mut self) -> Result<()> {
        let (commands, mode) = self.commands.as_ref().context("it is not injected")?;
        let mut words = self.namespace.exec_sidecar(*mode == Mode::Tproxy);
        words.push(self.program.display().to_string());
        words.extend(commands.proxy.iter().cloned());
        let name = format!("{}-sidecar", self.name);
        let env = commands.env.iter();
        let env: Vec<_> = env.map(|(name, value)| (&**name, &**value)).collect();
        let mut process = Process::start(&name, Path::new(&words[0]), &words[1..], &env)?;
        let ready = SocketAddr::new(self.ip(false), 15021);
        wait::until(&format!("{name} to be ready"), DEADLINE, async || {
            process.check_running()?;
            let reply = client::get(ready, "/healthz/ready").await?;
            ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
            // A configuration is accepted before workers listen.
            for port in [15001, 15006] {
                drop(self.connect((Ipv4Addr::LOCALHOST, port).into()).await?);
            }
            Ok(())
        })
        .await
        .with_context(|| process::tail(&process.log(), 30))?;
        self.sidecar = Some(process);
        Ok(())
    }

    /// SIGKILL of the sidecar, and waits for its end.
    pub async fn kill_sidecar(&mut self) -> Result<()> {
        let mut process = self.sidecar.take().context("it does not run")?;
        process.signal(Signal::SIGKILL)?;
        process.wait(DEADLINE).await?;
        Ok(())
    }

    /// SIGTERM for the sidecar, which goes on by itself.
    pub fn terminate_sidecar(&mut self) -> Result<Process> {
        let process = self.sidecar.take().context("it does not run")?;
        process.signal(Signal::SIGTERM)?;
        Ok(process)
    }

    /// Starts an application in the pod, with these words before its own, such as another user's `setpriv`.
    pub fn start(&self, name: &str, words: &[String]) -> Result<Process> {
        let words = [self.namespace.exec(), words.to_vec()].concat();
        let name = format!("{name} in {}", self.name);
        Process::start(&name, Path::new(&words[0]), &words[1..], &[])
    }

    /// Runs an application in the pod to its end; gives its exit code and all that it wrote.
    pub async fn run(&self, words: &[&str]) -> Result<(i32, String)> {
        self.run_for(words, DEADLINE).await
    }

    /// The same with a deadline.
    pub async fn run_for(&self, words: &[&str], deadline: Duration) -> Result<(i32, String)> {
        let mut all = self.namespace.exec();
        all.extend(words.iter().map(|word| (*word).to_owned()));
        process::run(Path::new(&all[0]), &all[1..], deadline).await
    }

    /// The same; fails unless the application ends well. Gives what it wrote.
    pub async fn say(&self, words: &[&str]) -> Result<String> {
        let (code, text) = self.run(words).await?;
        ensure!(
            code == 0,
            "{} in {}: {code}: {text}",
            words.join(" "),
            self.name
        );
        Ok(text)
    }

    /// Connects from the pod.
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let socket = self.socket(to.is_ipv6())?;
        let stream = tokio::time::timeout(DEADLINE, socket.connect(to)).await;
        let stream = stream.with_context(|| format!("no connection from {} to {to}", self.name))?;
        stream.with_context(|| format!("{} to {to}", self.name))
    }

    /// Listens in the pod, on all of its addresses and loopback.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        let socket = self.socket(true)?;
        socket.set_reuseaddr(true)?;
        // It takes IPv4 too.
        socket.bind((std::net::Ipv6Addr::UNSPECIFIED, port).into())?;
        Ok(socket.listen(128)?)
    }

    /// Listens in the pod at one address alone.
    pub fn listen_at(&self, address: SocketAddr) -> Result<TcpListener> {
        let socket = self.socket(address.is_ipv6())?;
        socket.bind(address)?;
        Ok(socket.listen(128)?)
    }

    fn socket(&self, is_v6: bool) -> Result<TcpSocket> {
        self.namespace.inside(|| {
            Ok(if is_v6 {
                TcpSocket::new_v6()?
            } else {
                TcpSocket::new_v4()?
            })
        })
    }

    /// One answer of the sidecar's admin interface.
    pub fn admin(&self, path: &str) -> Result<String> {
        self.namespace.inside(|| {
            let reply = crate::block_on(client::get(ADMIN, path))?;
            ensure!(reply.status == 200, "{path}: {}", reply.status);
            Ok(reply.text())
        })
    }

    /// All counters and gauges of the sidecar, by name.
    pub fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.admin("/stats")?;
        let numbers = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(numbers.collect())
    }

    /// One counter or gauge; 0 if it is not there.
    pub fn stat(&self, name: &str) -> Result<u64> {
        Ok(self.stats()?.get(name).copied().unwrap_or_default())
    }

    /// What the sidecar wrote so far.
    pub fn log(&self) -> String {
        self.sidecar.as_ref().map(Process::log).unwrap_or_default()
    }
}
