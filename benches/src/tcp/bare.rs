//! Bare relays: what passing bytes on costs without anything around it. Each runs as a process of its own, like a
//! proxy.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;

use anyhow::Result;
use clap::ValueEnum;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{Shutdown, shutdown};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

const PIPE: i32 = 1 << 20;

/// How a bare relay moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Bare {
    /// From socket to socket through a pipe of 1 MiB.
    Splice,
    /// Through a buffer of 256 KiB.
    #[value(name = "copy-256k")]
    Copy256,
    /// Through a buffer of 8 KiB.
    #[value(name = "copy-8k")]
    Copy8,
}

impl Bare {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Copy256 => "copy-256k",
            Self::Copy8 => "copy-8k",
        }
    }

    /// Relays between a listener and a backend until the process is ended.
    ///
    /// # Errors
    /// When it cannot listen, or accept.
    pub fn run(self, listen: SocketAddr, backend: SocketAddr) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(LocalSet::new().run_until(async {
            let listener = TcpListener::bind(listen).await?;
            self.serve(&listener, backend).await
        }))
    }

    /// The same on a socket that listens, within a `LocalSet`.
    pub(super) async fn serve(self, listener: &TcpListener, backend: SocketAddr) -> Result<()> {
        loop {
            let (downstream, _) = listener.accept().await?;
            // A connection that breaks is the load's to complain of.
            spawn_local(async move { _ = self.relay(downstream, backend).await });
        }
    }

    async fn relay(self, downstream: TcpStream, backend: SocketAddr) -> Result<()> {
        let upstream = Rc::new(TcpStream::connect(backend).await?);
        let downstream = Rc::new(downstream);
        for stream in [&upstream, &downstream] {
            stream.set_nodelay(true)?;
        }
        let (from, to) = (Rc::clone(&downstream), Rc::clone(&upstream));
        // A task for each way: only the one whose socket has something is woken.
        spawn_local(async move { _ = self.pass(&from, &to).await });
        self.pass(&upstream, &downstream).await
    }

    async fn pass(self, from: &TcpStream, to: &TcpStream) -> Result<()> {
        match self {
            Self::Splice => pass_spliced(from, to).await?,
            Self::Copy256 => pass_copied(from, to, 256 * 1024).await?,
            Self::Copy8 => pass_copied(from, to, 8 * 1024).await?,
        }
        Ok(shutdown(to.as_raw_fd(), Shutdown::Write)?)
    }
}

async fn pass_spliced(from: &TcpStream, to: &TcpStream) -> Result<()> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE))?;
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    let most = usize::try_from(PIPE)?;
    loop {
        let fill = || Ok(splice(from, None, &write, None, most, flags)?);
        let mut held: usize = from.async_io(Interest::READABLE, fill).await?;
        if held == 0 {
            return Ok(());
        }
        while held > 0 {
            let empty = || Ok(splice(&read, None, to, None, held, flags)?);
            held -= to.async_io(Interest::WRITABLE, empty).await?;
        }
    }
}

async fn pass_copied(from: &TcpStream, to: &TcpStream, size: usize) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        from.readable().await?;
        let read = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }
}
