//! What is measured: Envoy, Outrigger, and others that are installed, each as a proxy from one
//! listener to one backend.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use outrigger_tests::process::Process;
use outrigger_tests::{proxy, wait};
use serde::Serialize;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::config::{self, Chain};
use crate::load::Protocol;
use crate::tcp::bare::Bare;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The yardstick.
    Envoy,
    /// The proxy of this repository.
    Outrigger,
    /// nginx, when installed; HTTP/1 only.
    Nginx,
}

impl Kind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Outrigger => "outrigger",
            Self::Nginx => "nginx",
        }
    }

    /// Whether it can do the work of this chain, with this protocol on both sides.
    pub fn can(self, protocol: Protocol, chain: Chain) -> bool {
        match self {
            Self::Envoy => !chain.is_ours(),
            Self::Outrigger => true,
            Self::Nginx => protocol == Protocol::Http1 && chain == Chain::Plain,
        }
    }

    fn binary(self) -> Result<PathBuf> {
        match self {
            Self::Envoy => proxy::Kind::Envoy.binary(),
            Self::Outrigger => proxy::Kind::Outrigger.binary(),
            Self::Nginx => {
                let path = Path::new("/usr/sbin/nginx");
                ensure!(path.exists(), "nginx is not installed");
                Ok(path.to_owned())
            }
        }
    }
}

/// A running one.
#[derive(Debug)]
pub struct Subject {
    /// Its name in reports.
    pub name: String,
    /// Where its listener is.
    pub address: SocketAddr,
    process: Process,
    _folder: TempDir,
}

impl Subject {
    /// Starts it with one worker, without waiting for anything.
    pub fn spawn(
        kind: Kind,
        protocol: Protocol,
        chain: Chain,
        backend: SocketAddr,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let text = match kind {
            Kind::Nginx => nginx(folder.path(), address, backend),
            Kind::Envoy | Kind::Outrigger => {
                config::bootstrap(protocol, chain, address, backend).to_string()
            }
        };
        Self::spawn_with(kind, &text, address, folder)
    }

    /// The same with a configuration of its own, whose listener is made for the address that it is
    /// given.
    pub fn spawn_on(kind: Kind, config: impl FnOnce(SocketAddr) -> String) -> Result<Self> {
        let address = free_address()?;
        Self::spawn_with(kind, &config(address), address, tempfile::tempdir()?)
    }

    /// A bare relay: this program again.
    pub fn spawn_bare(bare: Bare, backend: SocketAddr) -> Result<Self> {
        let address = free_address()?;
        let [listen, backend] = [address, backend].map(|address| address.to_string());
        let args = [
            "--bare",
            bare.name(),
            "--listen",
            &listen,
            "--backend",
            &backend,
        ];
        let args = args.map(str::to_owned);
        let process = Process::start(bare.name(), &env::current_exe()?, &args, &[])?;
        Ok(Self {
            name: bare.name().to_owned(),
            address,
            process,
            _folder: tempfile::tempdir()?,
        })
    }

    fn spawn_with(kind: Kind, text: &str, address: SocketAddr, folder: TempDir) -> Result<Self> {
        let file = match kind {
            Kind::Nginx => "nginx.conf",
            Kind::Envoy | Kind::Outrigger => "bench.yaml",
        };
        let config = folder.path().join(file);
        fs::write(&config, text)?;
        let config = config.display().to_string();
        let args: &[&str] = match kind {
            Kind::Envoy => &[
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "error",
                "-c",
            ],
            Kind::Outrigger => &["--concurrency", "1", "--log-level", "error", "-c"],
            Kind::Nginx => &["-c"],
        };
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        args.push(config);
        let process = Process::start(kind.name(), &kind.binary()?, &args, &[])?;
        Ok(Self {
            name: kind.name().to_owned(),
            address,
            process,
            _folder: folder,
        })
    }

    /// Waits until the listener accepts.
    pub async fn ready(&mut self) -> Result<()> {
        wait::until("the listener", Duration::from_secs(20), async || {
            self.process.check_running()?;
            TcpStream::connect(self.address)
                .await
                .context("connect")
                .map(drop)
        })
        .await
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(Duration::from_secs(30)).await?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// The process that does the work.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// One process in the foreground, keep-alive on both sides, no log.
fn nginx(folder: &Path, address: SocketAddr, backend: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 100000000;
  upstream backend {{ server {backend}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen {address};
    location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
  }}
}}
"
    )
}
