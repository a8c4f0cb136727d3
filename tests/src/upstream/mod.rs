//! A scriptable upstream: HTTP/1 and HTTP/2 (prior knowledge) on one port. By default it answers
//! 200 with a JSON echo of what it received; the request header [`SCRIPT`] asks for something else.

mod hostile;
mod http1;
mod http2;
mod script;
mod tcp;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{Backlog, listen};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

pub use hostile::{Deed, Hostile};
pub(crate) use script::pattern;
pub use script::{Reset, Script};
pub use tcp::{Speaks, TcpHost};

/// The request header that holds a [`Script`] as JSON; the echo leaves it out.
pub const SCRIPT: &str = "x-upstream-script";

/// What the upstream received.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Received {
    /// The upstream's identity.
    pub upstream: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// The method.
    pub method: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// The target as received.
    pub path: String,
    /// Headers in the order received, without the script.
    pub headers: Vec<(String, String)>,
    /// The body; a long one as its length and checksum.
    pub body: String,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// The ordinal of the upstream's connection that carried it.
    #[serde(skip)]
    pub connection: usize,
}

/// A running upstream; dropping it closes its port and connections.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// What the connections of one upstream share.
#[derive(Debug)]
struct State {
    identity: String,
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    fixed: Option<Script>,
    /// How often a request with this path and script came.
    seen: Mutex<HashMap<Vec<u8>, usize>>,
}

impl Upstream {
    /// Starts one on a free port; `identity` names it in its echoes.
    pub async fn start(identity: &str) -> Result<Self> {
        Self::start_with(identity, "127.0.0.1:0".parse()?, None).await
    }

    /// The same on a chosen address, and with a script that answers every request.
    pub async fn start_with(
        identity: &str,
        address: SocketAddr,
        fixed: Option<Script>,
    ) -> Result<Self> {
        Self::on(TcpListener::bind(address).await?, identity, fixed)
    }

    /// The same on a listener that is there already.
    pub fn on(listener: TcpListener, identity: &str, fixed: Option<Script>) -> Result<Self> {
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            identity: identity.to_owned(),
            received: Mutex::default(),
            connections: AtomicUsize::new(0),
            fixed,
            seen: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what was received since the last call.
    pub fn take_received(&self) -> Vec<Received> {
        std::mem::take(&mut *self.state.lock())
    }

    /// How many requests came and were not taken yet.
    pub fn pending(&self) -> usize {
        self.state.lock().len()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request at its head; gives its place, for [`State::complete`].
    fn record(&self, received: Received) -> usize {
        let mut all = self.lock();
        all.push(received);
        all.len() - 1
    }

    /// What to answer to a request.
    fn script(&self, head: &http::request::Parts) -> Script {
        if let Some(fixed) = &self.fixed {
            return fixed.clone();
        }
        let script = Script::of(&head.headers);
        if script.then.is_empty() && script.only.is_none() {
            return script;
        }
        let mut key = head.uri.path().as_bytes().to_vec();
        key.extend(
            head.headers
                .get(SCRIPT)
                .map(|text| text.as_bytes())
                .unwrap_or_default(),
        );
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let times = seen.entry(key).or_default();
        *times += 1;
        script.for_request(&self.identity, *times - 1)
    }

    /// Adds body and trailers, unless the record was taken meanwhile.
    fn complete(&self, place: usize, whole: &Received) {
        if let Some(record) = self.lock().get_mut(place)
            && record.connection == whole.connection
            && record.path == whole.path
        {
            record.clone_from(whole);
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Connections live in the set, so that aborting this task closes them all.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let ordinal = state.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, Arc::clone(&state), ordinal));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, state: Arc<State>, ordinal: usize) {
    _ = stream.set_nodelay(true);
    let mut first = [0; 3];
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return,
            Ok(read) if read < first.len() && b"PRI".starts_with(&first[..read]) => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(_) => break,
        }
    }
    if &first == b"PRI" {
        http2::serve(stream, state, ordinal).await;
    } else {
        http1::serve(stream, state, ordinal).await;
    }
}

/// Answers every connection with fixed bytes after the first request head, then closes, or sends back what
/// comes. For upstreams that break the protocol, or leave it.
#[derive(Debug)]
pub struct RawUpstream {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl RawUpstream {
    /// Starts one on a free port.
    pub async fn start(reply: String) -> Result<Self> {
        Self::start_with(reply, false).await
    }

    /// The same; with `echoes`, what comes after the head is sent back until the peer closes.
    pub async fn start_with(reply: String, echoes: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // Connections live in the set, so that aborting this task closes them all.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer_raw(stream, reply.clone(), echoes));
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

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_raw(mut stream: TcpStream, reply: String, echoes: bool) {
    use tokio::io::AsyncReadExt as _;
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if !stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
            return;
        }
    };
    _ = stream.write_all(reply.as_bytes()).await;
    if echoes {
        _ = stream.write_all(&head[end..]).await;
        let (mut reader, mut writer) = stream.split();
        _ = tokio::io::copy(&mut reader, &mut writer).await;
    }
    _ = stream.shutdown().await;
}

/// A port where nothing listens, kept from others for the life of the value.
#[derive(Debug)]
pub struct Refused {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Refused {
    /// Reserves one.
    pub fn reserve() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        Ok(Self {
            address: socket.local_addr()?,
            _socket: socket,
        })
    }

    /// The address that refuses connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An address where connecting hangs: its accept queue is full and never emptied.
#[derive(Debug)]
pub struct Silent {
    address: SocketAddr,
    _socket: TcpSocket,
    _queue: Vec<TcpStream>,
}

impl Silent {
    /// Makes one.
    pub async fn start() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        listen(&socket, Backlog::new(0)?)?;
        let address = socket.local_addr()?;
        let mut queue = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
        {
            queue.push(stream?);
        }
        Ok(Self {
            address,
            _socket: socket,
            _queue: queue,
        })
    }

    /// Where it does not answer.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
