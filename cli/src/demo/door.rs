//! A way for the demo itself into a network namespace: a port of the machine that leads to one in there.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::Context as _;
use outrigger_netns::Namespace;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// An open door; it closes when this is dropped, with all connections through it.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Door {
    /// Opens one on a port of loopback (0 lets the system choose): connections come out in the namespace and go
    /// on from there.
    pub(super) fn open(port: u16, namespace: &Namespace, to: SocketAddr) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("can't listen on port {port} of 127.0.0.1"))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let namespace = namespace.open()?;
        let task = tokio::spawn(serve(listener, namespace, to));
        Ok(Self { address, task })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, namespace: File, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        // Out of descriptors or a peer that is gone already: go on with the next.
        let Ok((outside, _)) = listener.accept().await else {
            continue;
        };
        let Ok(inside) = socket(&namespace) else {
            continue;
        };
        connections.spawn(async move {
            // An end that nobody listens at closes the other one.
            drop(relay(outside, inside, to).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

fn socket(namespace: &File) -> anyhow::Result<TcpSocket> {
    let make = || Ok(TcpSocket::new_v4()?);
    outrigger_netns::inside(namespace.try_clone()?, make)
}

async fn relay(mut outside: TcpStream, inside: TcpSocket, to: SocketAddr) -> anyhow::Result<()> {
    let mut inside = inside.connect(to).await?;
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await?;
    Ok(())
}
