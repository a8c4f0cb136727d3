//! First bytes that are cut short or wrong, on a listener that looks for TLS and HTTP: each connection gets some
//! chain or ends, nothing is left of it, and the rest are served. What the parsers make of any bytes is tested beside
//! them; here it is what becomes of the connections.

use anyhow::{Result, ensure};
use outrigger_tests::block_on;
use outrigger_tests::client::hello::client_hello;
use outrigger_tests::client::raw::{Step, talk};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{Speaks, TcpHost, Upstream};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::kit::{LIMIT, bootstrap, cluster, http, socket, stat, tcp_proxy, typed, wait_for};

/// How a client goes on after its odd bytes.
const ENDS: usize = 4;

/// Messages to spoil.
fn seeds() -> Vec<Vec<u8>> {
    let protocols = ["h2".to_owned(), "http/1.1".to_owned()];
    let hello = |record| client_hello(Some("a.example.com"), &protocols, record);
    vec![
        hello(16_384),
        hello(20),
        hello(1),
        b"GET /path HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"POST /path HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        vec![b'A'; 70_000],
        b"\r\n\r\n\r\n".to_vec(),
    ]
}

/// Cut, changed, doubled or turned round.
fn spoilt(random: &mut SmallRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.random();
                }
            }
            2 => bytes.insert(at, random.random()),
            _ => bytes.rotate_left(at),
        }
    }
    bytes
}

async fn odd_client(proxy: &Proxy, bytes: &[u8], end: usize, cut: usize) -> Result<()> {
    let mut stream = TcpStream::connect(proxy.listener("main").await?).await?;
    stream.set_nodelay(true)?;
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    // The proxy may have ended it by then.
    let mut wrote = stream.write_all(first).await.is_ok();
    tokio::task::yield_now().await;
    wrote &= stream.write_all(second).await.is_ok();
    match end % ENDS {
        0 => {}
        1 => stream.set_zero_linger()?,
        _ if !wrote => {}
        _ => {
            let mut rest = Vec::new();
            stream.shutdown().await?;
            let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await;
            ensure!(read.is_ok(), "kept open after {}", bytes.escape_ascii());
        }
    }
    Ok(())
}

#[test]
fn whatever_comes_first_nothing_is_left_of_it_and_others_are_served() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::Echo).await?;
        let upstream = Upstream::start("http").await?;
        let only = |name: &str, value: &str, mut chain: serde_json::Value| {
            chain["filter_chain_match"] = json!({name: value});
            chain
        };
        let listener = json!({
            "name": "main",
            "stat_prefix": "main",
            "address": socket("127.0.0.1", 0),
            "listener_filters": [
                typed("filters.listener.tls_inspector.v3.TlsInspector", json!({})),
                typed("filters.listener.http_inspector.v3.HttpInspector", json!({})),
            ],
            "listener_filters_timeout": "0.3s",
            "continue_on_listener_filters_timeout": true,
            "metadata": {"filter_metadata": {"outrigger.protocol_choice": {}}},
            "filter_chains": [
                {
                    "filter_chain_match": {"application_protocols": ["http/1.0", "http/1.1", "h2c"]},
                    "filters": [http("h", "http")],
                },
                only("transport_protocol", "tls", tcp_proxy("tls", "tcp")),
                tcp_proxy("t", "tcp"),
            ],
        });
        let clusters = json!([
            cluster("http", upstream.address()),
            cluster("tcp", host.address()),
        ]);
        let proxy = Proxy::start(Kind::Outrigger, &bootstrap(json!([listener]), clusters)).await?;
        let address = proxy.listener("main").await?;
        let seed = 20_250_101;
        let mut random = SmallRng::seed_from_u64(seed);
        let seeds = seeds();
        for round in 0..400 {
            let bytes = spoilt(&mut random, &seeds);
            odd_client(&proxy, &bytes, round, random.random_range(0..200)).await?;
            upstream.take_received();
        }
        for gauge in [
            "listener.main.downstream_pre_cx_active",
            "listener.main.downstream_cx_active",
            "http.h.downstream_cx_active",
            "cluster.tcp.upstream_cx_active",
            "cluster.tcp.upstream_rq_active",
            "cluster.tcp.upstream_rq_pending_active",
            "cluster.http.upstream_rq_active",
        ] {
            wait_for(&proxy, gauge, 0).await?;
        }
        // Every connection to a host was either used or given up.
        let made = stat(&proxy, "cluster.tcp.upstream_cx_total").await?;
        let used = stat(&proxy, "cluster.tcp.upstream_rq_total").await?;
        let unused = stat(&proxy, "listener.main.protocol_choice.unused").await?;
        ensure!(
            made <= used + unused,
            "{made} made, {used} used, {unused} not"
        );
        for (sent, wanted) in [
            (
                "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
                "HTTP/1.1 200",
            ),
            ("something else\n", "host:something else"),
        ] {
            let steps = [
                Step::Send(sent.to_owned()),
                Step::WaitFor(wanted.to_owned()),
            ];
            talk(address, &steps, LIMIT).await?;
        }
        let log = proxy.log();
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    })
}
