//! HTTP/2 load like gRPC: 10 connections, 10 streams each at most.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::Uri;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::{Arrivals, BODY, Pace, Progress, Sample, TARGETS};
use crate::config::Chain;

const CONNECTIONS: usize = 10;
const STREAMS: usize = 10;

#[derive(Default)]
struct Shared {
    progress: Progress,
    requests: Vec<Uri>,
    turn: Cell<usize>,
}

/// Every target of the chain in turn; plain ones are as of gRPC.
fn requests(chain: Chain) -> Result<Vec<Uri>> {
    let uri = |turn| {
        let (host, path) = match chain {
            Chain::Sidecar => chain.target(turn),
            _ => ("bench.local".to_owned(), "/shop.Catalog/List".to_owned()),
        };
        Ok(format!("http://{host}{path}").parse()?)
    };
    (0..TARGETS).map(uri).collect()
}

pub(super) async fn drive(
    address: SocketAddr,
    chain: Chain,
    pace: Pace,
    duration: Duration,
) -> Result<Sample> {
    let shared = Rc::new(Shared {
        requests: requests(chain)?,
        ..Shared::default()
    });
    let local = LocalSet::new();
    local
        .run_until(async {
            let senders = connect(address).await?;
            match pace {
                Pace::Saturate => {
                    for sender in &senders {
                        for _ in 0..STREAMS {
                            let (sender, shared) = (sender.clone(), Rc::clone(&shared));
                            tokio::task::spawn_local(repeat(sender, shared));
                        }
                    }
                    tokio::time::sleep(duration).await;
                }
                Pace::Rate(rate) => arrive(&senders, &shared, rate, duration).await?,
            }
            shared.progress.settle().await
        })
        .await?;
    Ok(shared.progress.sample.take())
}

async fn connect(address: SocketAddr) -> Result<Vec<SendRequest<Bytes>>> {
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .handshake(stream)
            .await?;
        // Ends when the senders go; an error shows in the requests.
        tokio::task::spawn_local(async { _ = connection.await });
        senders.push(sender.ready().await?);
    }
    Ok(senders)
}

async fn repeat(sender: SendRequest<Bytes>, shared: Rc<Shared>) {
    while !shared.progress.ended.get() {
        request(&sender, &shared, Instant::now()).await;
    }
}

async fn arrive(
    senders: &[SendRequest<Bytes>],
    shared: &Rc<Shared>,
    rate: f64,
    duration: Duration,
) -> Result<()> {
    // In turns, so that the load spreads over the connections.
    let slots = (0..STREAMS).flat_map(|_| 0..senders.len());
    shared.progress.idle.borrow_mut().extend(slots);
    let mut arrivals = Arrivals::new(rate, duration)?;
    while let Some(due) = arrivals.next().await? {
        let idle = shared.progress.idle.borrow_mut().pop();
        let Some(index) = idle else {
            shared.progress.backlog.borrow_mut().push_back(due);
            continue;
        };
        let (sender, shared) = (senders[index].clone(), Rc::clone(shared));
        tokio::task::spawn_local(async move {
            let mut due = Some(due);
            while let Some(now) = due {
                request(&sender, &shared, now).await;
                due = shared.progress.backlog.borrow_mut().pop_front();
            }
            shared.progress.idle.borrow_mut().push(index);
        });
    }
    Ok(())
}

async fn request(sender: &SendRequest<Bytes>, shared: &Shared, due: Instant) {
    shared
        .progress
        .in_flight
        .set(shared.progress.in_flight.get() + 1);
    let turn = shared.turn.get();
    shared.turn.set(turn + 1);
    let uri = shared.requests[turn % shared.requests.len()].clone();
    let result = exchange(sender.clone(), uri).await;
    shared
        .progress
        .in_flight
        .set(shared.progress.in_flight.get() - 1);
    let mut sample = shared.progress.sample.borrow_mut();
    match result {
        Ok(()) => sample.record(due),
        Err(_) => sample.failed += 1,
    }
}

async fn exchange(sender: SendRequest<Bytes>, uri: Uri) -> Result<()> {
    let head = http::Request::post(uri)
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "outrigger-bench")
        .header("x-tier", "gold")
        .body(())?;
    let (reply, mut stream) = sender.ready().await?.send_request(head, false)?;
    stream.send_data(Bytes::from_static(BODY.as_bytes()), true)?;
    let reply = reply.await?;
    ensure!(
        reply.status() == http::StatusCode::OK,
        "status {}",
        reply.status()
    );
    let mut body = reply.into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        length += data.len();
    }
    let trailers = body.trailers().await?.context("no trailers")?;
    let good = length == BODY.len() && trailers.contains_key("grpc-status");
    ensure!(good, "a reply is not as sent");
    Ok(())
}
