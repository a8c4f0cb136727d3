//! HTTP/1.1 load over plain sockets: one request in flight on each of 64 connections.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::{Arrivals, Pace, Progress, Sample, TARGETS};
use crate::config::Chain;

const CONNECTIONS: usize = 64;

/// Every target of the chain in turn.
fn requests(chain: Chain) -> Vec<String> {
    let request = |turn| {
        let (host, path) = chain.target(turn);
        format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: outrigger-bench\r\n\
             accept: */*\r\nx-tier: gold\r\n\r\n"
        )
    };
    (0..TARGETS).map(request).collect()
}

struct Connection {
    stream: TcpStream,
    due: Cell<Instant>,
}

#[derive(Default)]
struct Shared {
    progress: Progress,
    requests: Vec<String>,
    turn: Cell<usize>,
}

pub(super) async fn drive(
    address: SocketAddr,
    chain: Chain,
    pace: Pace,
    duration: Duration,
) -> Result<Sample> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connections.push(Rc::new(Connection {
            stream,
            due: Cell::new(Instant::now()),
        }));
    }
    let shared = Rc::new(Shared {
        requests: requests(chain),
        ..Shared::default()
    });
    let local = LocalSet::new();
    local
        .run_until(async {
            let readers: Vec<_> = connections
                .iter()
                .enumerate()
                .map(|(index, connection)| {
                    let (connection, shared) = (Rc::clone(connection), Rc::clone(&shared));
                    let again = matches!(pace, Pace::Saturate);
                    tokio::task::spawn_local(read(index, connection, shared, again))
                })
                .collect();
            match pace {
                Pace::Saturate => saturate(&connections, &shared, duration).await?,
                Pace::Rate(rate) => arrive(&connections, &shared, rate, duration).await?,
            }
            shared.progress.settle().await?;
            for reader in readers {
                ensure!(
                    !reader.is_finished(),
                    "a connection was closed: {:?}",
                    reader.await?
                );
                reader.abort();
            }
            Ok(())
        })
        .await?;
    Ok(shared.progress.sample.take())
}

async fn saturate(
    connections: &[Rc<Connection>],
    shared: &Shared,
    duration: Duration,
) -> Result<()> {
    for connection in connections {
        send(connection, shared, Instant::now())?;
    }
    tokio::time::sleep(duration).await;
    Ok(())
}

async fn arrive(
    connections: &[Rc<Connection>],
    shared: &Shared,
    rate: f64,
    duration: Duration,
) -> Result<()> {
    shared
        .progress
        .idle
        .borrow_mut()
        .extend(0..connections.len());
    let mut arrivals = Arrivals::new(rate, duration)?;
    while let Some(due) = arrivals.next().await? {
        let idle = shared.progress.idle.borrow_mut().pop();
        match idle {
            Some(index) => send(&connections[index], shared, due)?,
            None => shared.progress.backlog.borrow_mut().push_back(due),
        }
    }
    Ok(())
}

fn send(connection: &Connection, shared: &Shared, due: Instant) -> Result<()> {
    connection.due.set(due);
    shared
        .progress
        .in_flight
        .set(shared.progress.in_flight.get() + 1);
    // One small write into an empty socket buffer: it goes whole, or the connection is broken.
    let turn = shared.turn.get();
    shared.turn.set(turn + 1);
    let request = &shared.requests[turn % shared.requests.len()];
    let written = connection.stream.try_write(request.as_bytes())?;
    ensure!(written == request.len(), "a request was cut");
    Ok(())
}

/// Reads replies; after each, sends what is due next.
async fn read(
    index: usize,
    connection: Rc<Connection>,
    shared: Rc<Shared>,
    again: bool,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        connection.stream.readable().await?;
        match connection.stream.try_read_buf(&mut buffer) {
            Ok(0) => bail!("closed"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        let Some(good) = whole_reply(&buffer)? else {
            continue;
        };
        buffer.clear();
        shared
            .progress
            .in_flight
            .set(shared.progress.in_flight.get() - 1);
        if good {
            shared
                .progress
                .sample
                .borrow_mut()
                .record(connection.due.get());
        } else {
            shared.progress.sample.borrow_mut().failed += 1;
        }
        if again {
            if !shared.progress.ended.get() {
                send(&connection, &shared, Instant::now())?;
            }
            continue;
        }
        let waiting = shared.progress.backlog.borrow_mut().pop_front();
        match waiting {
            Some(due) => send(&connection, &shared, due)?,
            None => shared.progress.idle.borrow_mut().push(index),
        }
    }
}

/// Whether the buffer holds a whole reply, and if so, whether it is a 200.
pub(crate) fn whole_reply(buffer: &[u8]) -> Result<Option<bool>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&buffer[..end])?;
    let length = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("a reply without content-length")?;
    let length: usize = length.1.trim().parse()?;
    let whole = buffer.len() >= end + 4 + length;
    Ok(whole.then(|| head.starts_with("HTTP/1.1 200")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_whole_with_its_body() {
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(whole_reply(reply).unwrap(), Some(true));
        assert_eq!(whole_reply(&reply[..reply.len() - 1]).unwrap(), None);
        assert_eq!(
            whole_reply(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").unwrap(),
            Some(false)
        );
    }
}
