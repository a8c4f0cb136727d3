//! Many connections, and connections that do nothing of what they should: memory stays bounded and others are
//! served.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use outrigger_tests::client::hello::client_hello;
use outrigger_tests::client::raw::{Step, talk};
use outrigger_tests::proxy::Proxy;
use outrigger_tests::upstream::{Speaks, TcpHost};
use outrigger_tests::{block_on, wait};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::kit::{LIMIT, relay, stat, wait_for};
use crate::protocol_choice::{Place, REQUEST, Setting};

/// What a connection on which nothing moves may cost, with a debug build and an allocator that keeps some: for
/// both its sockets, its task, timers and guards.
const IDLE_KIB: u64 = 12;

/// File descriptors for 10,000 connections, and others.
const WANTED: u64 = 30_000;
/// Held by who needs most of the file descriptors that there are.
static MANY: Mutex<()> = Mutex::new(());

/// How many file descriptors this process, and one that it starts, may have.
fn raise_limit() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // More than is allowed is for root to ask.
    if hard < WANTED && setrlimit(Resource::RLIMIT_NOFILE, WANTED, WANTED).is_ok() {
        return Ok(WANTED);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

fn resident_kib(proxy: &mut Proxy) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.process().id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no VmRSS")?.parse()?)
}

async fn is_served(address: SocketAddr) -> Result<()> {
    let steps = [
        Step::Send("hello".to_owned()),
        Step::WaitFor("host:hello".to_owned()),
    ];
    talk(address, &steps, LIMIT).await?;
    Ok(())
}

#[test]
fn idle_connections_cost_little_and_others_are_served() -> Result<()> {
    let _many = MANY.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = raise_limit()?;
    block_on(async {
        let host = TcpHost::start("host", Speaks::Echo).await?;
        let mut proxy = relay(host.address(), json!({})).await?;
        let address = proxy.listener("main").await?;
        // Each takes two descriptors here, and two in the proxy; other tests of this process need some.
        let count = (limit.saturating_sub(8000) / 2).clamp(200, 10_000);
        let first = open_many(address, 100).await?;
        let before = resident_kib(&mut proxy)?;
        let rest = open_many(address, count.saturating_sub(200)).await?;
        let opened = rest.len() as u64;
        let grown = resident_kib(&mut proxy)?.saturating_sub(before);
        ensure!(
            grown <= IDLE_KIB * opened,
            "{opened} idle connections take {grown} KiB"
        );
        is_served(address).await?;
        ensure!(stat(&proxy, "listener.main.downstream_cx_active").await? >= opened);
        drop((first, rest));
        wait_for(&proxy, "listener.main.downstream_cx_active", 0).await?;
        wait_for(&proxy, "cluster.host.upstream_cx_active", 0).await?;
        is_served(address).await
    })
}

/// Connections that have been through once.
async fn open_many(address: SocketAddr, count: u64) -> Result<Vec<TcpStream>> {
    let mut opened = Vec::new();
    let mut answer = [0; 7];
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"hi").await?;
        stream.read_exact(&mut answer).await?;
        opened.push(stream);
    }
    Ok(opened)
}

#[test]
fn clients_that_stop_in_their_first_message_hold_nobody_up() -> Result<()> {
    raise_limit()?;
    block_on(async {
        let host = TcpHost::start("host", Speaks::Echo).await?;
        let timeout = json!({"listener_filters_timeout": "3s"});
        let proxy = relay(host.address(), timeout).await?;
        let address = proxy.listener("main").await?;
        let hello = client_hello(Some("a.example.com"), &[], 16_384);
        let mut half = Vec::new();
        for number in 0..1000 {
            let mut stream = TcpStream::connect(address).await?;
            let end = number % hello.len();
            stream.write_all(&hello[..end]).await?;
            half.push(stream);
        }
        is_served(address).await?;
        ensure!(stat(&proxy, "listener.main.downstream_cx_active").await? <= 1);
        // Time is up for all of them, and each is closed.
        wait_for(&proxy, "listener.main.downstream_pre_cx_timeout", 1000).await?;
        wait_for(&proxy, "listener.main.downstream_pre_cx_active", 0).await?;
        for mut stream in half {
            let mut rest = Vec::new();
            // A reset is an end too: bytes were left unread.
            let _read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await?;
            ensure!(rest.is_empty());
        }
        is_served(address).await
    })
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() -> Result<()> {
    raise_limit()?;
    block_on(async {
        let host = TcpHost::start("host", Speaks::Echo).await?;
        let proxy = relay(host.address(), json!({})).await?;
        let address = proxy.listener("main").await?;
        for number in 0..3000 {
            let mut stream = TcpStream::connect(address).await?;
            match number % 3 {
                0 => {}
                1 => stream.set_zero_linger()?,
                _ => {
                    stream.write_all(b"some bytes").await?;
                    stream.set_zero_linger()?;
                }
            }
        }
        is_served(address).await?;
        for gauge in [
            "listener.main.downstream_pre_cx_active",
            "listener.main.downstream_cx_active",
            "cluster.host.upstream_cx_active",
            "cluster.host.upstream_rq_pending_active",
            "cluster.host.upstream_rq_active",
        ] {
            wait_for(&proxy, gauge, 0).await?;
        }
        is_served(address).await
    })
}

#[test]
fn sigterm_lets_connections_go_on_for_the_drain_time() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::Echo).await?;
        let proxy = relay(host.address(), json!({})).await?;
        let address = proxy.listener("main").await?;
        let mut open = open_many(address, 1).await?;
        let stream = open.first_mut().context("there is one")?;
        proxy.terminate()?;
        wait::until("nobody listens", LIMIT, async || {
            ensure!(TcpStream::connect(address).await.is_err(), "still listens");
            Ok(())
        })
        .await?;
        stream.write_all(b"more").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        ensure!(&answer == b"more");
        Ok(())
    })
}

/// A listener that looks for HTTP, and connects early.
async fn looking(host: SocketAddr, timeout: &'static str) -> Result<Place> {
    let setting = Setting {
        timeout,
        limit: 100_000,
        ..Setting::default()
    };
    Place::new(host, setting).await
}

async fn speaks_no_http(address: SocketAddr) -> Result<()> {
    let steps = [
        // Without the end of a line it may become HTTP.
        Step::Send("hello\n".to_owned()),
        Step::WaitFor("host:hello".to_owned()),
    ];
    talk(address, &steps, LIMIT).await?;
    Ok(())
}

/// Connections on which nobody speaks, and what the rest of them cost.
async fn open_silent(place: &mut Place, count: u64, state: &str) -> Result<Vec<TcpStream>> {
    let mut opened = Vec::new();
    let mut before = 0;
    for number in 0..count {
        if number == 100 {
            place.wait_choices(&[(state, 100)]).await?;
            before = resident_kib(&mut place.proxy)?;
        }
        opened.push(TcpStream::connect(place.address).await?);
        if number % 100 == 0 {
            // The queue of those that wait to be accepted is bounded.
            place.wait_choices(&[(state, number + 1)]).await?;
        }
    }
    place.wait_choices(&[(state, count)]).await?;
    let grown = resident_kib(&mut place.proxy)?.saturating_sub(before);
    ensure!(
        grown <= IDLE_KIB * (count - 100),
        "{count} silent connections take {grown} KiB"
    );
    Ok(opened)
}

#[test]
fn silent_connections_cost_little_where_their_protocol_is_unknown() -> Result<()> {
    let _many = MANY.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = raise_limit()?;
    let count = (limit.saturating_sub(8000) / 2).clamp(200, 10_000);
    block_on(async {
        let host = TcpHost::start("host", Speaks::Echo).await?;
        // Those that are still looked at, for as long as it takes.
        let mut place = looking(host.address(), "600s").await?;
        let mut open = open_silent(&mut place, count, "connected_early").await?;
        speaks_no_http(place.address).await?;
        for stream in &mut open[..50] {
            stream.write_all(REQUEST.as_bytes()).await?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await?;
            ensure!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        }
        place.wait_choices(&[("http", 50), ("unused", 50)]).await?;
        drop(open);
        place.wait_idle().await?;
        drop(place);

        // And those that have gone on.
        let mut place = looking(host.address(), "0.1s").await?;
        let open = open_silent(&mut place, count, "timeout").await?;
        speaks_no_http(place.address).await?;
        place
            .wait_for("cluster.tcp.upstream_cx_total", count + 1)
            .await?;
        drop(open);
        place.wait_idle().await
    })
}

#[test]
fn a_flood_of_connections_leaves_nothing_behind_where_their_protocol_is_unknown() -> Result<()> {
    raise_limit()?;
    block_on(async {
        let host = TcpHost::start("host", Speaks::First).await?;
        let place = looking(host.address(), "0.1s").await?;
        for number in 0..3000 {
            let mut stream = TcpStream::connect(place.address).await?;
            match number % 4 {
                0 => {}
                1 => stream.set_zero_linger()?,
                2 => {
                    stream.write_all(b"GET / HT").await?;
                    stream.set_zero_linger()?;
                }
                _ => stream.write_all(b"some bytes").await?,
            }
        }
        place.wait_idle().await?;
        let steps = [
            Step::Send(REQUEST.to_owned()),
            Step::WaitFor(" 200 ".to_owned()),
        ];
        talk(place.address, &steps, LIMIT).await?;
        Ok(())
    })
}
