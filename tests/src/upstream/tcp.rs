//! Hosts that speak bytes: what a connection gets back says which host it reached.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What a host does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Its name before the first bytes that come, and then what comes.
    Echo,
    /// Its name at once, and then what comes.
    First,
    /// Nothing until the client has closed its half; then how many bytes came.
    Last,
    /// Its name, and then it closes its half; it still reads.
    Closes,
    /// It ends the connection with RST when something comes.
    Resets,
    /// The same, but it answers before.
    AnswersAndResets,
    /// When something comes: how the connection before this one ended, once it has. After `hold` it does not close
    /// its own half.
    Ends,
}

/// A running host; dropping it closes its port and connections.
#[derive(Debug)]
pub struct TcpHost {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TcpHost {
    /// Starts one on a free port.
    pub async fn start(name: &'static str, speaks: Speaks) -> Result<Self> {
        Self::start_at(name, speaks, "127.0.0.1:0".parse()?).await
    }

    /// The same at a chosen address.
    pub async fn start_at(name: &'static str, speaks: Speaks, at: SocketAddr) -> Result<Self> {
        Self::on(TcpListener::bind(at).await?, name, speaks)
    }

    /// The same on a listener that is there already.
    pub fn on(listener: TcpListener, name: &'static str, speaks: Speaks) -> Result<Self> {
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let (_, mut before) = oneshot::channel();
            while let Ok((stream, _)) = listener.accept().await {
                let (end, ended) = oneshot::channel();
                let before = std::mem::replace(&mut before, ended);
                connections.spawn(async move {
                    if speaks == Speaks::Ends {
                        _ = tell_ends(stream, before, end).await;
                    } else {
                        serve(stream, name, speaks).await;
                    }
                });
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

impl Drop for TcpHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says how the connection before this one ended.
async fn tell_ends(
    mut stream: TcpStream,
    before: oneshot::Receiver<&'static str>,
    end: oneshot::Sender<&'static str>,
) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    if stream.read(&mut buffer).await? > 0 {
        let before = before.await.unwrap_or("first");
        stream.write_all(before.as_bytes()).await?;
    }
    let mut holds = false;
    let ended = loop {
        match stream.read(&mut buffer).await {
            // It is asked not to close its half: then only a reset can be the end.
            Ok(0) if holds => {
                while !stream.ready(Interest::ERROR).await?.is_error() {}
                break "reset at last";
            }
            Ok(0) => break "closed",
            Ok(length) => holds |= buffer.starts_with(b"hold") && length >= 4,
            Err(_) => break "reset",
        }
    };
    // Nobody may ask.
    _ = end.send(ended);
    stream.shutdown().await
}

/// Ends early when the peer is gone.
async fn serve(mut stream: TcpStream, name: &str, speaks: Speaks) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let greeting = format!("{name}:");
    if matches!(speaks, Speaks::First | Speaks::Closes) {
        stream.write_all(greeting.as_bytes()).await.ok()?;
    }
    if speaks == Speaks::Closes {
        stream.shutdown().await.ok()?;
    }
    let mut greets = speaks == Speaks::Echo;
    let mut count = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = stream.read(&mut buffer).await.ok()?;
        if length == 0 {
            break;
        }
        count += length;
        if std::mem::take(&mut greets) {
            stream.write_all(greeting.as_bytes()).await.ok()?;
        }
        match speaks {
            Speaks::Echo | Speaks::First => stream.write_all(&buffer[..length]).await.ok()?,
            Speaks::Last | Speaks::Closes | Speaks::Ends => {}
            Speaks::Resets | Speaks::AnswersAndResets => {
                if speaks == Speaks::AnswersAndResets {
                    let answer = greeting.repeat(1000);
                    stream.write_all(answer.as_bytes()).await.ok()?;
                }
                stream.set_zero_linger().ok()?;
                return Some(());
            }
        }
    }
    if speaks == Speaks::Last {
        let answer = format!("{name}: {count} bytes");
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
    stream.shutdown().await.ok()
}
