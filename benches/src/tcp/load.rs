//! The load on connections: large transfers both ways, and new connections.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::load::{Arrivals, Pace, Progress, Sample};

/// How many bytes are asked for, or sent, at a time.
pub(super) const TRANSFER: u64 = 4 << 20;
/// How many connections carry transfers.
pub(super) const CONNECTIONS: usize = 8;
/// How many connections are made at the same time, at saturation.
pub(super) const CONNECTING: usize = 32;

const CHUNK: usize = 256 * 1024;

/// Takes in everything, without copying it, and tells how much it was so far.
pub(super) async fn sink(stream: &TcpStream, mut tell: impl FnMut(u64)) -> Result<()> {
    let mut total = 0;
    let mut buffer = vec![0; CHUNK];
    loop {
        // Of TCP the kernel drops what is truncated.
        let drop = || Ok(recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?);
        let read = stream.async_io(Interest::READABLE, drop).await?;
        if read == 0 {
            return Ok(());
        }
        total += u64::try_from(read)?;
        tell(total);
    }
}

/// Sends so many bytes for each permit, until there will be no more.
pub(super) async fn source(
    stream: &TcpStream,
    permits: &Semaphore,
    (byte, size): (u8, u64),
) -> Result<()> {
    let buffer = vec![byte; CHUNK];
    while let Ok(permit) = permits.acquire().await {
        permit.forget();
        let mut left = usize::try_from(size)?;
        while left > 0 {
            let chunk = &buffer[..left.min(CHUNK)];
            let write = || Ok(send(stream.as_raw_fd(), chunk, MsgFlags::empty())?);
            left -= stream.async_io(Interest::WRITABLE, write).await?;
        }
    }
    Ok(())
}

/// What a connection carries; its first byte says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Line {
    /// Transfers, each confirmed by a byte.
    Up = 1,
    /// Transfers, each asked for by a byte.
    Down = 2,
    /// Transfers both ways at the same time.
    Both = 3,
}

impl Line {
    pub(super) fn of(byte: u8) -> Option<Self> {
        [Self::Up, Self::Down, Self::Both]
            .into_iter()
            .find(|line| *line as u8 == byte)
    }

    /// What is sent at a time, and what is received for it.
    pub(super) fn sizes(self) -> (u64, u64) {
        match self {
            Self::Up => (TRANSFER, 1),
            Self::Down => (1, TRANSFER),
            Self::Both => (TRANSFER, TRANSFER),
        }
    }
}

/// One connection that carries transfers.
struct Carrier {
    stream: TcpStream,
    line: Line,
    permits: Semaphore,
    due: Cell<Instant>,
}

impl Carrier {
    fn begin(&self, shared: &Progress, due: Instant) {
        self.due.set(due);
        shared.in_flight.set(shared.in_flight.get() + 1);
        self.permits.add_permits(1);
    }

    fn complete(&self, index: usize, shared: &Progress, again: bool) {
        shared.in_flight.set(shared.in_flight.get() - 1);
        shared.sample.borrow_mut().record(self.due.get());
        if again {
            if !shared.ended.get() {
                self.begin(shared, Instant::now());
            }
            return;
        }
        let waiting = shared.backlog.borrow_mut().pop_front();
        match waiting {
            Some(due) => self.begin(shared, due),
            None => shared.idle.borrow_mut().push(index),
        }
    }

    async fn run(&self, index: usize, shared: &Progress, again: bool) -> Result<()> {
        let (sent, received) = self.line.sizes();
        let mut done = 0;
        let receive = sink(&self.stream, |total| {
            while total / received > done {
                done += 1;
                self.complete(index, shared, again);
            }
        });
        let send = source(&self.stream, &self.permits, (self.line as u8, sent));
        tokio::try_join!(receive, send).map(drop)
    }
}

/// Transfers on a few connections, which carry these in turns.
pub(super) async fn transfer(
    address: SocketAddr,
    carried: &[Line],
    pace: Pace,
    duration: Duration,
) -> Result<Sample> {
    let shared = Rc::new(Progress::default());
    let again = matches!(pace, Pace::Saturate);
    let run = async {
        let mut carriers = Vec::new();
        let mut tasks = Vec::new();
        for (index, line) in carried.iter().cycle().take(CONNECTIONS).enumerate() {
            let carrier = Rc::new(Carrier {
                stream: TcpStream::connect(address).await?,
                line: *line,
                permits: Semaphore::new(0),
                due: Cell::new(Instant::now()),
            });
            carriers.push(Rc::clone(&carrier));
            let shared = Rc::clone(&shared);
            let task = async move { carrier.run(index, &shared, again).await };
            tasks.push(tokio::task::spawn_local(task));
        }
        match pace {
            Pace::Saturate => {
                for carrier in &carriers {
                    carrier.begin(&shared, Instant::now());
                }
                tokio::time::sleep(duration).await;
            }
            Pace::Rate(rate) => {
                shared.idle.borrow_mut().extend(0..carriers.len());
                let mut arrivals = Arrivals::new(rate, duration)?;
                while let Some(due) = arrivals.next().await? {
                    let idle = shared.idle.borrow_mut().pop();
                    match idle {
                        Some(index) => carriers[index].begin(&shared, due),
                        None => shared.backlog.borrow_mut().push_back(due),
                    }
                }
            }
        }
        shared.settle().await?;
        for task in tasks {
            ensure!(
                !task.is_finished(),
                "a connection was closed: {:?}",
                task.await?
            );
            task.abort();
        }
        anyhow::Ok(())
    };
    LocalSet::new().run_until(run).await?;
    finish(&shared)
}

/// What is said on a new connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    /// What the client says.
    pub(super) request: &'static [u8],
    /// Whether what came is the whole answer, and a good one.
    pub(super) is_answer: fn(&[u8]) -> Result<Option<bool>>,
}

/// New connections: each carries one message and its answer, and is closed.
pub(super) async fn connect(
    address: SocketAddr,
    message: Message,
    pace: Pace,
    duration: Duration,
) -> Result<Sample> {
    let shared = Rc::new(Progress::default());
    let run = async {
        match pace {
            Pace::Saturate => {
                for _ in 0..CONNECTING {
                    let shared = Rc::clone(&shared);
                    tokio::task::spawn_local(async move {
                        while !shared.ended.get() {
                            once(address, message, &shared, Instant::now()).await;
                        }
                    });
                }
                tokio::time::sleep(duration).await;
            }
            Pace::Rate(rate) => {
                let mut arrivals = Arrivals::new(rate, duration)?;
                while let Some(due) = arrivals.next().await? {
                    let shared = Rc::clone(&shared);
                    tokio::task::spawn_local(async move {
                        once(address, message, &shared, due).await;
                    });
                }
            }
        }
        shared.settle().await
    };
    LocalSet::new().run_until(run).await?;
    finish(&shared)
}

async fn once(address: SocketAddr, message: Message, shared: &Progress, due: Instant) {
    shared.in_flight.set(shared.in_flight.get() + 1);
    let said = say(address, message).await;
    shared.in_flight.set(shared.in_flight.get() - 1);
    let mut sample = shared.sample.borrow_mut();
    match said {
        Ok(true) => sample.record(due),
        Ok(false) | Err(_) => sample.failed += 1,
    }
}

async fn say(address: SocketAddr, message: Message) -> Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(message.request).await?;
    let mut answer = Vec::with_capacity(1024);
    loop {
        let read = stream.read_buf(&mut answer).await?;
        ensure!(read > 0, "closed");
        if let Some(is_good) = (message.is_answer)(&answer)? {
            return Ok(is_good);
        }
    }
}

/// Opens this many connections, each with a byte there and back.
pub(super) async fn open(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"?").await?;
        stream.read_exact(&mut [0]).await?;
        streams.push(stream);
    }
    Ok(streams)
}

fn finish(shared: &Progress) -> Result<Sample> {
    let sample = shared.sample.take();
    ensure!(sample.done > 0, "nothing was answered");
    Ok(sample)
}
