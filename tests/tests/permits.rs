//! No permit leaks: after hundreds of requests that were cancelled, timed out, reset, retried, mirrored,
//! upgraded and refused, in an order that a seed decides, every limit is as free as at first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use outrigger_tests::client::raw::{self, Step};
use outrigger_tests::client::{Http1, Http2, Request};
use outrigger_tests::frames::{go_away, settings};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{Deed, Hostile, Refused, SCRIPT, Upstream};
use outrigger_tests::{block_on, wait};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const TYPES: &str = "type.googleapis.com/envoy.extensions";
const REQUESTS: usize = 500;
const MOST_ROUNDS: usize = 6;
/// More than the limits allow.
const AT_ONCE: usize = 24;
const SOON: Duration = Duration::from_secs(15);
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

#[test]
fn nothing_leaks_on_one_worker() {
    check(1, 1);
}

#[test]
fn nothing_leaks_between_workers() {
    check(2, 3);
}

/// A host that takes no more of a body stops the proxy's reading from the client. It must notice all the
/// same that the client has gone: no timeout runs before the end of a request.
#[test]
fn an_upload_that_nobody_takes_ends_with_its_client() {
    for kind in [Kind::Envoy, Kind::Outrigger] {
        if let Err(error) = block_on(stalled_upload(kind)) {
            panic!("{}: {error:#}", kind.name());
        }
    }
}

async fn stalled_upload(kind: Kind) -> Result<()> {
    let hangs = Hostile::start(vec![Deed::Hang]).await?;
    let clusters = [cluster("http2", true, &[hangs.address()])];
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "http2"}});
    let config = config(&[route], &[], &clusters);
    let proxy = Proxy::start(kind, &config.to_string()).await?;
    let main = proxy.listener("main").await?;
    let active =
        async || -> Result<u64> { Ok(proxy.stats().await?["cluster.http2.upstream_rq_active"]) };
    let mut client = TcpStream::connect(main).await?;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n";
    // More than the window of an HTTP/2 stream, and not more than sockets take besides.
    let body = vec![b'x'; 160_000];
    client.write_all(&[head.as_bytes(), &body].concat()).await?;
    wait::until("the request", SOON, async || {
        ensure!(active().await? == 1, "not yet");
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(client);
    wait::until("the end of the request", SOON, async || {
        ensure!(active().await? == 0, "still active");
        Ok(())
    })
    .await
}

fn check(seed: u64, workers: usize) {
    if let Err(error) = block_on(run(seed, workers)) {
        panic!("seed {seed}: {error:#}");
    }
}

async fn run(seed: u64, workers: usize) -> Result<()> {
    let hosts = Hosts::start().await?;
    let concurrency = workers.to_string();
    let args = ["--concurrency", &concurrency];
    let folder = tempfile::tempdir()?;
    let config = hosts.config().to_string();
    let mut proxy = Proxy::start_in(Kind::Outrigger, &config, folder, &args).await?;
    let main = proxy.listener("main").await?;
    let free = limits(&proxy).await?;

    let mut random = StdRng::seed_from_u64(seed);
    // What happens in the end depends on time too.
    for round in 1.. {
        send_many(main, &mut random).await?;
        let missing = everything_happened(&proxy).await;
        if missing.is_ok() {
            break;
        }
        ensure!(round < MOST_ROUNDS, "{missing:?}");
    }
    proxy.process().check_running()?;
    ensure!(!proxy.log().contains("panicked"), "{}", proxy.log());
    wait::until("all limits to be free again", SOON, async || {
        let now = limits(&proxy).await?;
        let left: Vec<_> = now.iter().filter(|line| !free.contains(line)).collect();
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })
    .await
}

async fn send_many(main: SocketAddr, random: &mut StdRng) -> Result<()> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = Vec::new();
    for number in 0..REQUESTS {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let trial = Trial::new(number, random);
        tasks.push(tokio::spawn(async move {
            trial.run(main).await;
            drop(permit);
        }));
    }
    for task in tasks {
        task.await?;
    }
    Ok(())
}

/// What a client does.
struct Trial {
    request: Request,
    is_http2: bool,
    /// Instead of the request: asks for another protocol, and speaks it.
    upgrade: Option<Vec<Step>>,
    /// It gives up then: HTTP/1 by closing, HTTP/2 by a reset of the stream, or by closing.
    patience: Option<Duration>,
    closes: bool,
}

impl Trial {
    fn new(number: usize, random: &mut StdRng) -> Self {
        let scripts = [
            json!({}),
            json!({"delay_ms": random.random_range(0..60)}),
            json!({"delay_ms": random.random_range(60..400)}),
            json!({"status": 503}),
            json!({"status": 503, "then": [{}]}),
            json!({"status": 503, "body_size": 300_000}),
            json!({"reset": "before_headers"}),
            json!({"reset": "before_headers", "then": [{}]}),
            json!({"reset": "mid_body", "body_size": 2000, "chunks": 4}),
            json!({"body_size": 1_000_000, "chunks": 20}),
            json!({"body_size": 2000, "chunks": 4, "frame_delay_ms": random.random_range(0..150)}),
            json!({"body_size": 2000, "chunks": 8, "frame_delay_ms": 60}),
            json!({"early": true, "status": 413}),
            json!({"trailers": [["grpc-status", "14"]], "body": ""}),
        ];
        let upgrade = random.random_bool(0.2).then(|| upgrade(random));
        let script = &scripts[random.random_range(0..scripts.len())];
        let cluster = ["http1", "http2"][random.random_range(0..2)];
        let caller = random.random_range(0..4);
        let size = [None, Some(0), Some(100), Some(300_000)][random.random_range(0..4)];
        let method = if size.is_some() { "POST" } else { "GET" };
        let mut request = Request::new(method, &format!("/{cluster}/{number}"))
            .header("x-caller", &caller.to_string())
            .header(SCRIPT, &script.to_string());
        request.body = size.map(|size| Bytes::from(vec![b'x'; size]));
        request.chunks = random.random_range(0..4);
        let patience = random.random_range(0..300);
        Self {
            request,
            is_http2: random.random(),
            upgrade,
            patience: random
                .random_bool(0.4)
                .then(|| Duration::from_millis(patience)),
            closes: random.random(),
        }
    }

    /// What comes of it does not matter here.
    async fn run(self, main: SocketAddr) {
        let patience = self.patience.unwrap_or(SOON);
        if let Some(steps) = self.upgrade {
            _ = tokio::time::timeout(patience, raw::talk(main, &steps, SOON)).await;
        } else if self.is_http2 {
            let Ok(mut connection) = Http2::connect(main).await else {
                return;
            };
            _ = tokio::time::timeout(patience, connection.send(self.request)).await;
            if !self.closes {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        } else if let Ok(mut connection) = Http1::connect(main).await {
            _ = tokio::time::timeout(patience, connection.send(self.request)).await;
        }
    }
}

/// A client that asks for another protocol, perhaps speaks before it has the answer, and closes at some time.
fn upgrade(random: &mut StdRng) -> Vec<Step> {
    let caller = random.random_range(0..4);
    let early = ["", "early"][random.random_range(0..2)];
    let head = format!(
        "GET /upgraded/ HTTP/1.1\r\nhost: a\r\nx-caller: {caller}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{early}"
    );
    let mut steps = vec![Step::Send(head)];
    if random.random_bool(0.8) {
        steps.push(Step::WaitFor("101 ".to_owned()));
        let text = "more than sockets take ".to_owned();
        let times = random.random_range(0..50_000);
        steps.push(Step::SendMany { text, times });
    }
    match random.random_range(0..3) {
        0 => {}
        1 => steps.push(Step::Finish),
        _ => steps.extend([Step::Send("bye".to_owned()), Step::WaitClose]),
    }
    steps
}

/// All that is counted in and out: one line for each.
async fn limits(proxy: &Proxy) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let breakers = json(proxy, "/circuit_breakers?format=json").await?;
    for breaker in breakers["circuit_breakers"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let [cluster, priority, name, used] =
            ["cluster", "priority", "name", "used"].map(|field| breaker[field].to_string());
        lines.push(format!("{cluster} {priority} {name} {used}"));
    }
    let bulkheads = json(proxy, "/bulkheads?format=json").await?;
    for bulkhead in bulkheads["bulkheads"].as_array().into_iter().flatten() {
        let [in_use, queued] = ["in_use", "queued"].map(|field| bulkhead[field].to_string());
        let callers = [&bulkhead["top_callers"], &bulkhead["top_waiting"]];
        lines.push(format!("bulkhead {in_use} {queued} {callers:?}"));
    }
    ensure!(lines.len() > 20, "{lines:?}");
    let gauges = |name: &str| {
        let is_active = name.ends_with("_active") && !name.starts_with("http.admin.");
        is_active || name.contains(".circuit_breakers.") || name == "bulkhead.guard.queued"
    };
    let stats = proxy.stats().await?;
    let stats = stats.iter().filter(|(name, _)| gauges(name));
    lines.extend(stats.map(|(name, value)| format!("{name}: {value}")));
    Ok(lines)
}

async fn json(proxy: &Proxy, path: &str) -> Result<Value> {
    let reply = proxy.admin_get(path).await?;
    serde_json::from_slice(&reply.body).context(path.to_owned())
}

/// A test in which nothing goes wrong would show nothing.
async fn everything_happened(proxy: &Proxy) -> Result<()> {
    let stats = proxy.stats().await?;
    let happened = [
        "bulkhead.guard.overflow",
        "bulkhead.guard.queue_timeout",
        ".upstream_cx_connect_fail",
        ".upstream_cx_pool_overflow",
        ".upstream_rq_active_overflow",
        ".upstream_rq_cancelled",
        ".upstream_rq_pending_overflow",
        ".upstream_rq_per_try_timeout",
        ".upstream_rq_retry",
        ".upstream_rq_retry_overflow",
        ".upstream_rq_rx_reset",
        ".upstream_rq_timeout",
        ".upstream_rq_tx_reset",
        "cluster.mirror.upstream_rq_total",
        "http.main.downstream_rq_rx_reset",
        "http.main.downstream_rq_idle_timeout",
        "http.main.downstream_cx_upgrades_total",
        "cluster.upgraded.upstream_rq_101",
        "cluster.upgraded.upstream_cx_destroy_local_with_active_rq",
        "cluster.upgraded.upstream_cx_destroy_remote_with_active_rq",
    ];
    let of_all = |name: &&str| -> u64 {
        let all = stats.iter().filter(|(full, _)| full.ends_with(name));
        all.map(|(_, count)| count).sum()
    };
    let never: Vec<_> = happened
        .into_iter()
        .filter(|name| of_all(name) == 0)
        .collect();
    ensure!(never.is_empty(), "{never:?} never happened");
    Ok(())
}

/// Good hosts and bad ones.
struct Hosts {
    good: [Upstream; 2],
    refuses: Refused,
    resets: Hostile,
    hangs: Hostile,
    goes_away: Hostile,
    /// Hosts that switch to another protocol, and what they do then.
    switches: Vec<Hostile>,
}

impl Hosts {
    async fn start() -> Result<Self> {
        let go_away = vec![
            Deed::ReadHeaders(settings(&[])),
            Deed::Send(go_away(0, 0)),
            Deed::Listen,
        ];
        let switch = Deed::Send(SWITCH.into());
        let bytes = || Deed::Send(vec![b'x'; 100_000]);
        let mut switches = Vec::new();
        for deeds in [
            vec![switch.clone(), Deed::Listen],
            vec![switch.clone(), bytes(), Deed::Listen],
            vec![switch.clone(), Deed::Pause, bytes()],
            vec![switch.clone(), Deed::Pause, Deed::Reset],
            vec![switch, Deed::Hang],
            vec![Deed::Send(
                b"HTTP/1.1 101 Switching Protocols\r\n\r\n".into(),
            )],
            vec![Deed::Send(
                b"HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno".into(),
            )],
        ] {
            let deeds = [vec![Deed::ReadHead], deeds].concat();
            switches.push(Hostile::start(deeds).await?);
        }
        Ok(Self {
            good: [Upstream::start("a").await?, Upstream::start("b").await?],
            refuses: Refused::reserve()?,
            resets: Hostile::start(vec![Deed::ReadHead, Deed::Reset]).await?,
            hangs: Hostile::start(vec![Deed::Hang]).await?,
            goes_away: Hostile::start(go_away).await?,
            switches,
        })
    }

    fn config(&self) -> Value {
        let [a, b] = [&self.good[0], &self.good[1]].map(Upstream::address);
        let bad = [self.refuses.address(), self.hangs.address()];
        let clusters = [
            cluster(
                "http1",
                false,
                &[a, b, bad[0], bad[1], self.resets.address()],
            ),
            cluster(
                "http2",
                true,
                &[a, b, bad[0], bad[1], self.goes_away.address()],
            ),
            cluster("mirror", false, &[a, bad[0], bad[1]]),
            cluster(
                "upgraded",
                false,
                &self
                    .switches
                    .iter()
                    .map(Hostile::address)
                    .chain([bad[0]])
                    .collect::<Vec<_>>(),
            ),
        ];
        let route = |name: &str| {
            json!({
                "match": {"prefix": format!("/{name}/")},
                "route": {
                    "cluster": name,
                    "timeout": "0.3s",
                    "request_mirror_policies": [{"cluster": "mirror"}],
                    "retry_policy": {
                        "retry_on": "5xx,reset,connect-failure,refused-stream,unavailable",
                        "num_retries": 3,
                        "per_try_timeout": "0.1s",
                        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.02s"},
                    },
                },
            })
        };
        let bulkhead = json!({
            "@type": "type.googleapis.com/outrigger.extensions.filters.http.bulkhead.v1alpha1.Bulkhead",
            "stat_prefix": "guard",
            "max_concurrent": 10,
            "max_queued": 5,
            "queue_timeout": "0.03s",
            "caller_header": "x-caller",
        });
        let bulkhead = json!({"name": "bulkhead", "typed_config": bulkhead});
        config(
            &[route("http1"), route("http2"), route("upgraded")],
            &[bulkhead],
            &clusters,
        )
    }
}

fn config(routes: &[Value], filters: &[Value], clusters: &[Value]) -> Value {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
    });
    let filters: Vec<Value> = filters.iter().cloned().chain([router]).collect();
    json!({
        "admin": {"address": socket(0)},
        "static_resources": {
            "listeners": [{
                "name": "main",
                "address": socket(0),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": format!(
                            "{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
                        ),
                        "stat_prefix": "main",
                        "upgrade_configs": [{"upgrade_type": "websocket"}],
                            // An end behind more than sockets take is not seen by anybody.
                            "stream_idle_timeout": "2s",
                        "route_config": {"name": "main", "virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": routes,
                        }]},
                        "http_filters": filters,
                    },
                }]}],
            }],
            "clusters": clusters,
        },
    })
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// A cluster with limits that are soon reached, which closes its connections when they are idle.
fn cluster(name: &str, is_http2: bool, hosts: &[SocketAddr]) -> Value {
    let hosts: Vec<Value> = hosts
        .iter()
        .map(|host| json!({"endpoint": {"address": socket(host.port())}}))
        .collect();
    let protocol = match is_http2 {
        true => json!({"http2_protocol_options": {"max_concurrent_streams": 3}}),
        false => json!({"http_protocol_options": {}}),
    };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]},
        "circuit_breakers": {"thresholds": [{
            "max_connections": 4,
            "max_pending_requests": 2,
            "max_requests": 4,
            "max_connection_pools": 4,
            "track_remaining": true,
            "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 2},
        }]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "common_http_protocol_options": {"idle_timeout": "0.5s"},
                "explicit_http_config": protocol,
            },
        },
    })
}
