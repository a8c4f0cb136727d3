//! Hosts that break off, hang or break the protocol: each connection goes through the same steps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::frames::{self, Frame};

/// What such a host does next.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Reads to the end of an HTTP/1 head.
    ReadHead,
    /// Reads the preface of HTTP/2, sends these bytes (SETTINGS, as a rule) and reads to a HEADERS frame.
    ReadHeaders(Vec<u8>),
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes again and again, until the peer has enough.
    Flood(Vec<u8>),
    /// Sends these bytes, one each second.
    Drip(Vec<u8>),
    /// Lets the peer read what was sent.
    Pause,
    /// Neither reads nor sends anything more.
    Hang,
    /// Reads until the peer closes.
    Listen,
    /// Ends the connection with RST.
    Reset,
}

/// A host that does the same deeds on each connection, and then closes it.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Hostile {
    /// Starts one on a free port.
    pub async fn start(deeds: Vec<Deed>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let deeds: Arc<[Deed]> = deeds.into();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&deeds)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends early when the peer is gone.
async fn serve(mut stream: TcpStream, deeds: Arc<[Deed]>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    for deed in &*deeds {
        match deed {
            Deed::ReadHead => read_head(&mut stream).await?,
            Deed::ReadHeaders(first) => read_headers(&mut stream, first).await?,
            Deed::Send(bytes) => stream.write_all(bytes).await.ok()?,
            Deed::Flood(bytes) => loop {
                stream.write_all(bytes).await.ok()?;
                // Enough of a flood, without filling the memory of whoever keeps it.
                tokio::time::sleep(Duration::from_millis(1)).await;
            },
            Deed::Drip(bytes) => {
                for byte in bytes {
                    stream.write_all(&[*byte]).await.ok()?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Deed::Pause => tokio::time::sleep(Duration::from_millis(50)).await,
            Deed::Hang => std::future::pending().await,
            Deed::Listen => while stream.read_u8().await.is_ok() {},
            Deed::Reset => {
                stream.set_zero_linger().ok()?;
                return Some(());
            }
        }
    }
    // What was not read would make a close a reset.
    stream.shutdown().await.ok()?;
    while stream.read_u8().await.is_ok() {}
    Some(())
}

async fn read_head(stream: &mut TcpStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(())
}

async fn read_headers(stream: &mut TcpStream, first: &[u8]) -> Option<()> {
    let mut preface = vec![0; frames::PREFACE.len()];
    stream.read_exact(&mut preface).await.ok()?;
    stream.write_all(first).await.ok()?;
    loop {
        let frame = Frame::read(stream).await?;
        match frame.kind {
            frames::HEADERS => return Some(()),
            frames::SETTINGS if frame.flags == 0 && !first.is_empty() => {
                stream.write_all(&frames::settings_ack()).await.ok()?;
            }
            _ => {}
        }
    }
}
