//! A service in a process of its own, for what an [`Upstream`](crate::upstream::Upstream) within
//! the test cannot do: be killed, or call others with the tracing headers that it was called with.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::{DEADLINE, ports};
use crate::process::Process;
use crate::{proxy, wait};

/// `outrigger sample-service`, which knows nothing of the mesh.
#[derive(Debug)]
pub struct Service {
    process: Option<Process>,
    address: SocketAddr,
    args: Vec<String>,
    http_proxy: Option<SocketAddr>,
}

impl Service {
    /// Starts one that answers for `name`.
    pub async fn start(name: &str) -> Result<Self> {
        Self::calling(name, &[], None).await
    }

    /// The same, which calls others for each request, through a proxy.
    pub async fn calling(
        name: &str,
        calls: &[&str],
        http_proxy: Option<SocketAddr>,
    ) -> Result<Self> {
        let address = ports::reserve()?;
        let mut args = vec![
            "sample-service".to_owned(),
            format!("--name={name}"),
            format!("--listen={address}"),
            "--delay-ms=0".to_owned(),
        ];
        args.extend(calls.iter().map(|call| format!("--call={call}")));
        let mut this = Self {
            process: None,
            address,
            args,
            http_proxy,
        };
        this.restart().await?;
        Ok(this)
    }

    /// Starts it, again if need be, where it was.
    pub async fn restart(&mut self) -> Result<()> {
        let proxy = self.http_proxy.map(|address| address.to_string());
        let env: Vec<_> = proxy
            .iter()
            .map(|proxy| ("http_proxy", proxy.as_str()))
            .collect();
        let program = proxy::binary("outrigger")?;
        let mut process = Process::start("sample-service", &program, &self.args, &env)?;
        wait::until("the service to listen", DEADLINE, async || {
            process.check_running()?;
            Ok(TcpStream::connect(self.address).await?)
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
}
