//! Load balancing over real sockets, where one of three hosts is slow. Shares of requests are compared, not
//! times: those depend on the machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use outrigger_tests::block_on;
use outrigger_tests::client::{Http1, Request};
use outrigger_tests::proxy::{Kind, Proxy};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const REQUESTS: usize = 300;
const FAST: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(100);

/// An HTTP/1 host that answers each request after a delay and counts.
struct Host {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl Host {
    async fn start(delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, delay, Arc::clone(&counted)));
            }
        });
        Ok(Self { address, count })
    }
}

/// Requests have no bodies and come one at a time: each ends with its empty line.
async fn serve(mut stream: TcpStream, delay: Duration, count: Arc<AtomicUsize>) -> Result<()> {
    let mut received = Vec::new();
    while stream.read_buf(&mut received).await? > 0 {
        if received.ends_with(b"\r\n\r\n") {
            received.clear();
            count.fetch_add(1, Relaxed);
            tokio::time::sleep(delay).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await?;
        }
    }
    Ok(())
}

fn config(hosts: &[Host], balancing: &Value) -> String {
    let endpoints: Vec<Value> = hosts
        .iter()
        .map(|host| {
            json!({"endpoint": {"address": {"socket_address": {
                "address": "127.0.0.1", "port_value": host.address.port(),
            }}}})
        })
        .collect();
    let mut cluster = json!({
        "name": "many",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "many", "endpoints": [{"lb_endpoints": endpoints}]},
    });
    if let (Some(cluster), Some(balancing)) = (cluster.as_object_mut(), balancing.as_object()) {
        cluster.extend(balancing.clone());
    }
    let types = "type.googleapis.com/envoy.extensions.filters";
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "clusters": [cluster],
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
                            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "many"}}],
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

/// The share of requests that go to the slow one of three hosts.
async fn slow_share(balancing: &Value) -> Result<f64> {
    let hosts = [
        Host::start(FAST).await?,
        Host::start(FAST).await?,
        Host::start(SLOW).await?,
    ];
    let proxy = Proxy::start(Kind::Outrigger, &config(&hosts, balancing)).await?;
    let address = proxy.listener("main").await?;
    let mut client = Http1::connect(address).await?;
    for _ in 0..REQUESTS {
        let reply = client.send(Request::new("GET", "/")).await?;
        ensure!(reply.status == 200, "{reply:?}");
    }
    let counts = hosts.each_ref().map(|host| host.count.load(Relaxed));
    ensure!(counts.iter().sum::<usize>() == REQUESTS, "{counts:?}");
    Ok(counts[2] as f64 / REQUESTS as f64)
}

#[test]
fn peak_ewma_sends_little_to_a_slow_host_and_round_robin_a_third() {
    let outcome: Result<()> = block_on(async {
        let ewma = json!({"load_balancing_policy": {"policies": [{"typed_extension_config": {
            "name": "outrigger.load_balancing_policies.peak_ewma",
            "typed_config": {
                "@type": "type.googleapis.com/outrigger.extensions.load_balancing_policies\
                    .peak_ewma.v1alpha1.PeakEwma",
            },
        }}]}});
        let turns = slow_share(&json!({})).await?;
        let ewma = slow_share(&ewma).await?;
        ensure!((turns - 1.0 / 3.0).abs() < 0.01, "round robin: {turns}");
        ensure!(ewma < 0.1, "peak-EWMA: {ewma}");
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}
