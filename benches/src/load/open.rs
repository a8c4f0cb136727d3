//! Open-loop HTTP/1 load of several callers, whatever the answers are: for what happens under
//! overload.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::Arrivals;

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Who asked: the place in the list of callers.
    pub caller: usize,
    /// Its status.
    pub status: u16,
    /// The proxy said why.
    pub has_reason: bool,
    /// When the request was due.
    pub due: Instant,
    /// From when the request was sent.
    pub latency: Duration,
}

/// The load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Requests per second of all callers.
    pub rate: f64,
    /// How long.
    pub duration: Duration,
    /// Callers by name, each with its share of the requests.
    pub callers: Vec<(String, u32)>,
    /// Connections, one request on each at a time.
    pub connections: usize,
}

#[derive(Clone, Copy)]
struct Request {
    caller: usize,
    due: Instant,
    sent: Instant,
}

struct Connection {
    stream: TcpStream,
    current: Cell<Option<Request>>,
}

struct Shared {
    texts: Vec<String>,
    idle: RefCell<Vec<usize>>,
    backlog: RefCell<VecDeque<(usize, Instant)>>,
    answers: RefCell<Vec<Answer>>,
    failure: RefCell<Option<anyhow::Error>>,
}

/// Sends requests as they are due, and gives all answers.
pub async fn drive(address: SocketAddr, plan: &Plan) -> Result<Vec<Answer>> {
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connections.push(Rc::new(Connection {
            stream,
            current: Cell::new(None),
        }));
    }
    let text = |(name, _): &(String, u32)| {
        format!("GET /api/items HTTP/1.1\r\nhost: bench.local\r\nx-caller: {name}\r\n\r\n")
    };
    let shared = Rc::new(Shared {
        texts: plan.callers.iter().map(text).collect(),
        idle: RefCell::new((0..connections.len()).collect()),
        backlog: RefCell::default(),
        answers: RefCell::default(),
        failure: RefCell::default(),
    });
    let local = LocalSet::new();
    local
        .run_until(async {
            for (index, connection) in connections.iter().enumerate() {
                let (connection, shared) = (Rc::clone(connection), Rc::clone(&shared));
                tokio::task::spawn_local(async move {
                    if let Err(error) = read(index, &connection, &shared).await {
                        *shared.failure.borrow_mut() = Some(error);
                    }
                });
            }
            let sent = arrive(&connections, &shared, plan).await?;
            let settle = tokio::time::timeout(Duration::from_secs(10), async {
                while shared.answers.borrow().len() < sent && shared.failure.borrow().is_none() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            settle.await.context("replies are missing")?;
            match shared.failure.borrow_mut().take() {
                Some(error) => Err(error),
                None => Ok(()),
            }
        })
        .await?;
    Ok(shared.answers.take())
}

/// Gives how many requests there were.
async fn arrive(connections: &[Rc<Connection>], shared: &Shared, plan: &Plan) -> Result<usize> {
    // Callers in turns by their shares, spread evenly: the one that is furthest behind goes next.
    let total: u32 = plan.callers.iter().map(|(_, share)| share).sum();
    let mut credit = vec![0_i64; plan.callers.len()];
    let mut arrivals = Arrivals::new(plan.rate, plan.duration)?;
    let mut sent = 0;
    while let Some(due) = arrivals.next().await? {
        for (credit, (_, share)) in credit.iter_mut().zip(&plan.callers) {
            *credit += i64::from(*share);
        }
        let caller = (0..credit.len())
            .max_by_key(|index| credit[*index])
            .context("no callers")?;
        credit[caller] -= i64::from(total);
        sent += 1;
        let idle = shared.idle.borrow_mut().pop();
        match idle {
            Some(index) => send(&connections[index], shared, caller, due)?,
            None => shared.backlog.borrow_mut().push_back((caller, due)),
        }
    }
    Ok(sent)
}

fn send(connection: &Connection, shared: &Shared, caller: usize, due: Instant) -> Result<()> {
    let sent = Instant::now();
    connection.current.set(Some(Request { caller, due, sent }));
    let text = &shared.texts[caller];
    // One small write into an empty socket buffer: it goes whole, or the connection is broken.
    let written = connection.stream.try_write(text.as_bytes())?;
    anyhow::ensure!(written == text.len(), "a request was cut");
    Ok(())
}

async fn read(index: usize, connection: &Connection, shared: &Shared) -> Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        connection.stream.readable().await?;
        match connection.stream.try_read_buf(&mut buffer) {
            Ok(0) => bail!("a connection was closed"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        let Some((status, has_reason)) = whole_reply(&buffer)? else {
            continue;
        };
        buffer.clear();
        let request = connection.current.take().context("an answer too many")?;
        shared.answers.borrow_mut().push(Answer {
            caller: request.caller,
            status,
            has_reason,
            due: request.due,
            latency: request.sent.elapsed(),
        });
        let waiting = shared.backlog.borrow_mut().pop_front();
        match waiting {
            Some((caller, due)) => send(connection, shared, caller, due)?,
            None => shared.idle.borrow_mut().push(index),
        }
    }
}

/// Status and whether a reason is given, once the whole reply is there.
fn whole_reply(buffer: &[u8]) -> Result<Option<(u16, bool)>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&buffer[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .context("a reply without status")?
        .parse()?;
    let (mut length, mut has_reason) = (0_usize, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
        has_reason |= name.eq_ignore_ascii_case("x-outrigger-reason");
    }
    Ok((buffer.len() >= end + 4 + length).then_some((status, has_reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_with_its_reason() {
        let reply = b"HTTP/1.1 503 No\r\nX-Outrigger-Reason: full\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(whole_reply(reply).unwrap(), Some((503, true)));
        assert_eq!(whole_reply(&reply[..reply.len() - 1]).unwrap(), None);
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(whole_reply(reply).unwrap(), Some((200, false)));
    }
}
