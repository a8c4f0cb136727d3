//! How an ejected host comes back, over real sockets: by single requests, whatever the load. Requests are
//! counted, not times: those depend on the machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use outrigger_tests::block_on;
use outrigger_tests::client::{Http1, Request};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::wait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const DEADLINE: Duration = Duration::from_secs(20);
const CLIENTS: usize = 8;
/// Failures in a row that eject.
const THRESHOLD: u64 = 3;
/// Returns to wait for while the host stays sick.
const RETURNS: u64 = 3;

/// An HTTP/1 host that counts requests and answers 500 while it is sick.
struct Host {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    count: AtomicU64,
    is_sick: AtomicBool,
}

impl Host {
    async fn start(is_sick: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        state.is_sick.store(is_sick, Relaxed);
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, state })
    }

    fn count(&self) -> u64 {
        self.state.count.load(Relaxed)
    }
}

/// Requests have no bodies and come one at a time: each ends with its empty line.
async fn serve(mut stream: TcpStream, state: Arc<State>) -> Result<()> {
    let mut received = Vec::new();
    while stream.read_buf(&mut received).await? > 0 {
        if received.ends_with(b"\r\n\r\n") {
            received.clear();
            state.count.fetch_add(1, Relaxed);
            let reply: &[u8] = match state.is_sick.load(Relaxed) {
                true => b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n",
                false => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            };
            stream.write_all(reply).await?;
        }
    }
    Ok(())
}

fn config(hosts: &[&Host]) -> String {
    let endpoint = |host: &&Host| {
        json!({"endpoint": {"address": {"socket_address": {
            "address": "127.0.0.1", "port_value": host.address.port(),
        }}}})
    };
    let endpoints: Vec<Value> = hosts.iter().map(endpoint).collect();
    let types = "type.googleapis.com/envoy.extensions.filters";
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "clusters": [{
                "name": "two",
                "type": "STATIC",
                "outlier_detection": {
                    "consecutive_5xx": THRESHOLD,
                    "interval": "0.05s",
                    "base_ejection_time": "0.1s",
                    "max_ejection_percent": 100,
                },
                "load_assignment": {
                    "cluster_name": "two", "endpoints": [{"lb_endpoints": endpoints}],
                },
            }],
            "listeners": [{
                "name": "main",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "filter_chains": [{"filters": [{
                    "name": "hcm",
                    "typed_config": {
                        "@type": format!("{types}.network.http_connection_manager.v3.HttpConnectionManager"),
                        "stat_prefix": "main",
                        "route_config": {"virtual_hosts": [{
                            "name": "all", "domains": ["*"],
                            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "two"}}],
                        }]},
                        "http_filters": [{
                            "name": "envoy.filters.http.router",
                            "typed_config": {"@type": format!("{types}.http.router.v3.Router")},
                        }],
                    },
                }]}],
            }],
        },
    })
    .to_string()
}

async fn stat(proxy: &Proxy, name: &str) -> Result<u64> {
    let stats = proxy.stats().await?;
    let name = format!("cluster.two.outlier_detection.{name}");
    Ok(stats.get(&name).copied().unwrap_or_default())
}

/// Sends requests until it is told to stop.
async fn client(address: SocketAddr, stop: Arc<AtomicBool>) -> Result<()> {
    let mut client = Http1::connect(address).await?;
    while !stop.load(Relaxed) {
        let reply = client.send(Request::new("GET", "/")).await?;
        ensure!(matches!(reply.status, 200 | 500), "{reply:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn come_back() -> Result<()> {
    let (sick, well) = (Host::start(true).await?, Host::start(false).await?);
    let proxy = Proxy::start(Kind::Outrigger, &config(&[&sick, &well])).await?;
    let address = proxy.listener("main").await?;

    // One request after the other: exactly the threshold reaches the sick host.
    let mut first = Http1::connect(address).await?;
    while sick.count() < THRESHOLD {
        first.send(Request::new("GET", "/")).await?;
    }
    wait::until("the ejection", DEADLINE, async || {
        let ejections = stat(&proxy, "ejections_enforced_total").await?;
        ensure!(ejections == 1, "{ejections} ejections");
        Ok(())
    })
    .await?;
    ensure!(sick.count() == THRESHOLD, "{} requests", sick.count());

    // Many at once: each return is one request, and each costs one client one error.
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(address, Arc::clone(&stop))))
        .collect();
    wait::until("returns", DEADLINE, async || {
        let returns = sick.count() - THRESHOLD;
        ensure!(returns >= RETURNS, "{returns} of {RETURNS}");
        Ok(())
    })
    .await?;
    wait::until("one ejection per request", DEADLINE, async || {
        let before = sick.count();
        let ejections = stat(&proxy, "ejections_enforced_total").await?;
        let requests = sick.count();
        ensure!(before == requests, "a return in between");
        ensure!(
            ejections - 1 == requests - THRESHOLD,
            "{ejections} ejections, {requests} requests"
        );
        Ok(())
    })
    .await?;
    let active = stat(&proxy, "ejections_active").await?;
    ensure!(active == 1, "{active} ejections active");

    // Well again, it takes its share.
    sick.state.is_sick.store(false, Relaxed);
    wait::until("the end of the ejection", DEADLINE, async || {
        let active = stat(&proxy, "ejections_active").await?;
        ensure!(active == 0, "still ejected");
        Ok(())
    })
    .await?;
    let before = (sick.count(), well.count());
    wait::until("its share", DEADLINE, async || {
        let requests = (sick.count() - before.0, well.count() - before.1);
        ensure!(requests.0 + requests.1 >= 200, "{requests:?}");
        let (less, more) = (requests.0 * 10, requests.1 * 10);
        ensure!(
            less >= requests.1 * 8 && more >= requests.0 * 8,
            "{requests:?}"
        );
        Ok(())
    })
    .await?;
    stop.store(true, Relaxed);
    for client in clients {
        client.await??;
    }
    Ok(())
}

#[test]
fn an_ejected_host_comes_back_by_single_requests() {
    if let Err(error) = block_on(come_back()) {
        panic!("{error:?}");
    }
}
