//! Many connections, and connections that do nothing of what they should: memory stays bounded and others are
//! served. And connections that the kernel redirected, in a network namespace of their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use outrigger_tests::client::hello::client_hello;
use outrigger_tests::client::raw::{Step, talk, talk_from};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{Speaks, TcpHost, Upstream};
use outrigger_tests::{block_on, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TYPES: &str = "type.googleapis.com/envoy.extensions";
const LIMIT: Duration = Duration::from_secs(10);
/// What a connection on which nothing moves may cost, with a debug build and an allocator that keeps some: for
/// both its sockets, its task, timers and guards.
const IDLE_KIB: u64 = 12;

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn tcp_proxy(prefix: &str, cluster: &str) -> Value {
    json!({"filters": [{"name": "tcp", "typed_config": {
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": prefix,
        "cluster": cluster,
    }}]})
}

fn cluster(name: &str, host: SocketAddr) -> Value {
    json!({
        "name": name,
        "circuit_breakers": {"thresholds": [{
            "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
        }]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": socket(&host.ip().to_string(), host.port())}},
        ]}]},
    })
}

fn bootstrap(listeners: Value, clusters: Value) -> String {
    json!({
        "admin": {"address": socket("127.0.0.1", 0)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
    .to_string()
}

/// A proxy that looks for TLS and passes everything on to `host`.
async fn relay(host: SocketAddr, listener: Value) -> Result<Proxy> {
    let mut main = json!({
        "name": "main",
        "stat_prefix": "main",
        "address": socket("127.0.0.1", 0),
        "listener_filters": [{"name": "tls", "typed_config": {
            "@type": format!("{TYPES}.filters.listener.tls_inspector.v3.TlsInspector"),
        }}],
        "filter_chains": [tcp_proxy("t", "host")],
    });
    for (name, value) in listener.as_object().into_iter().flatten() {
        main[name] = value.clone();
    }
    let config = bootstrap(json!([main]), json!([cluster("host", host)]));
    Proxy::start(Kind::Outrigger, &config).await
}

/// How many file descriptors this process, and one that it starts, may have.
fn raise_limit() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

fn resident_kib(proxy: &mut Proxy) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.process().id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no VmRSS")?.parse()?)
}

async fn stat(proxy: &Proxy, name: &str) -> Result<u64> {
    let stats = proxy.stats().await?;
    stats.get(name).copied().context(name.to_owned())
}

async fn wait_for(proxy: &Proxy, name: &str, wanted: u64) -> Result<()> {
    wait::until(name, Duration::from_secs(30), async || {
        let seen = stat(proxy, name).await?;
        ensure!(seen == wanted, "{name} is {seen}, not {wanted}");
        Ok(())
    })
    .await
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

#[test]
fn a_reset_stays_a_reset_and_what_was_said_before_arrives() -> Result<()> {
    block_on(async {
        let ends = TcpHost::start("ends", Speaks::Ends).await?;
        let proxy = relay(ends.address(), json!({})).await?;
        let address = proxy.listener("main").await?;
        let said = |text: &str| Step::WaitFor(text.to_owned());
        let hi = || Step::Send("hi".to_owned());
        talk(address, &[hi(), said("first"), Step::Reset], LIMIT).await?;
        talk(
            address,
            &[hi(), said("reset"), Step::Finish, Step::End],
            LIMIT,
        )
        .await?;
        let end = talk(
            address,
            &[hi(), said("closed"), Step::Finish, Step::End],
            LIMIT,
        )
        .await?;
        ensure!(&*end == b"closed<closed>", "{end:?}");

        // Envoy takes the answer back with the reset.
        let answers = TcpHost::start("answers", Speaks::AnswersAndResets).await?;
        let proxy = relay(answers.address(), json!({})).await?;
        let address = proxy.listener("main").await?;
        for bytes in [2, 10_000_000] {
            let many = Step::SendMany {
                text: "x".to_owned(),
                times: bytes,
            };
            let end = talk(address, &[many, Step::End], LIMIT).await?;
            let expected = format!("{}<reset>", "answers:".repeat(1000));
            let end = String::from_utf8_lossy(&end);
            ensure!(
                end == expected,
                "after {bytes}: {} bytes, {:?}",
                end.len(),
                end.get(end.len().saturating_sub(20)..)
            );
        }
        wait_for(&proxy, "cluster.host.upstream_cx_destroy_remote", 2).await?;
        wait_for(&proxy, "cluster.host.upstream_cx_active", 0).await
    })
}

/// Where the redirected hosts are.
const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// Runs this in a network namespace of its own, if that can be had: it needs root.
fn alone(what: impl AsyncFnOnce() -> Result<()> + Send) -> Result<()> {
    let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
    if !nix::unistd::geteuid().is_root() || !has("nft") || !has("ip") {
        eprintln!("left out: it needs root, `ip` and `nft`");
        return Ok(());
    }
    thread::scope(|scope| {
        let run = || -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            done("ip", &["link", "set", "lo", "up"])?;
            done("ip", &["addr", "add", &format!("{THERE}/32"), "dev", "lo"])?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(what())
        };
        scope
            .spawn(run)
            .join()
            .unwrap_or_else(|_| bail!("panicked"))
    })
}

fn done(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {error}");
    Ok(())
}

/// What the client at 127.0.0.1 sends to these ports comes to the proxy; what the proxy sends has another
/// source.
fn redirect(ports: &str, to: u16) -> Result<()> {
    let chain = "add chain ip nat output { type nat hook output priority -100 ; }";
    let rule = format!(
        "add rule ip nat output ip saddr 127.0.0.1 ip daddr {THERE} tcp dport {ports} redirect to :{to}"
    );
    for command in ["add table ip nat", chain, &rule] {
        done("nft", &[command])?;
    }
    Ok(())
}

async fn from_client(port: u16, steps: &[Step]) -> Result<String> {
    let from = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let to = SocketAddr::new(THERE.into(), port);
    let bytes = talk_from(from, to, steps, LIMIT).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

const CAPTURE: u16 = 15001;

fn capture(more: &[Value]) -> Value {
    let mut listeners = vec![json!({
        "name": "capture",
        "stat_prefix": "capture",
        "address": socket("0.0.0.0", CAPTURE),
        "use_original_dst": true,
        "filter_chains": [
            {
                "filter_chain_match": {"destination_port": 7003},
                "filters": tcp_proxy("port", "known")["filters"],
            },
            {
                "filter_chain_match": {"destination_port": 7004},
                "filters": [{"name": "http", "typed_config": {
                    "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                    "stat_prefix": "h",
                    "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "passthrough"}},
                    ]}]},
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
                    }],
                }}],
            },
            tcp_proxy("passthrough", "passthrough"),
        ],
    })];
    listeners.extend_from_slice(more);
    listeners.into()
}

#[test]
fn redirected_connections_reach_where_they_were_going_to() -> Result<()> {
    for kind in [Kind::Envoy, Kind::Outrigger] {
        alone(async move || redirected(kind).await).with_context(|| kind.name())?;
    }
    Ok(())
}

async fn redirected(kind: Kind) -> Result<()> {
    let at = |port| SocketAddr::new(THERE.into(), port);
    let there = TcpHost::start_at("there", Speaks::Echo, at(7000)).await?;
    let known = TcpHost::start("known", Speaks::Echo).await?;
    let virtual_listener = |name: &str, address: &str, port| {
        json!({
            "name": name, "stat_prefix": name, "bind_to_port": false, "address": socket(address, port),
            "filter_chains": [tcp_proxy(name, "known")],
        })
    };
    let listeners = capture(&[
        virtual_listener("exact", &THERE.to_string(), 7001),
        virtual_listener("any", "0.0.0.0", 7002),
    ]);
    let clusters = json!([
        {"name": "passthrough", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"},
        cluster("known", known.address()),
    ]);
    let proxy = Proxy::start(kind, &bootstrap(listeners, clusters)).await?;
    redirect("7000-7009", CAPTURE)?;
    let hello = [
        Step::Send("hello".to_owned()),
        Step::WaitFor("hello".to_owned()),
        Step::Finish,
        Step::WaitClose,
    ];
    ensure!(there.address() == at(7000));
    for (port, expected) in [
        (7000, "there:hello"),
        (7001, "known:hello"),
        (7002, "known:hello"),
        (7003, "known:hello"),
    ] {
        let said = from_client(port, &hello).await;
        let said = said.with_context(|| format!("port {port}"))?;
        ensure!(said == expected, "port {port}: {said:?}, not {expected:?}");
    }
    // Requests go there too.
    let http = Upstream::start_with("http", at(7004), None).await?;
    let request = "GET /there HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let steps = [Step::Send(request.to_owned()), Step::WaitClose];
    let said = from_client(7004, &steps).await?;
    ensure!(said.starts_with("HTTP/1.1 200"), "{said:?}");
    ensure!(http.take_received().len() == 1, "the host got no request");
    // Nobody listens there: the connection is closed.
    let said = from_client(7009, &[Step::WaitClose]).await?;
    ensure!(said.is_empty(), "{said:?}");
    for (name, wanted) in [
        ("listener.exact.downstream_cx_total", 1),
        ("listener.any.downstream_cx_total", 1),
        ("tcp.port.downstream_cx_total", 1),
        ("cluster.passthrough.upstream_cx_connect_fail", 1),
        ("listener.capture.downstream_cx_total", 4),
    ] {
        wait_for(&proxy, name, wanted).await?;
    }
    Ok(())
}

#[test]
fn a_connection_to_the_proxy_itself_does_not_go_round() -> Result<()> {
    alone(async || {
        let clusters = json!([
            {"name": "passthrough", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"},
            {"name": "known"},
        ]);
        let config = bootstrap(capture(&[]), clusters);
        let proxy = Proxy::start(Kind::Outrigger, &config).await?;
        // With the rules there the kernel tracks every connection, and tells where this one went.
        redirect("7000", CAPTURE)?;
        let said = from_client(CAPTURE, &[Step::WaitClose]).await?;
        ensure!(said.is_empty(), "{said:?}");
        wait_for(&proxy, "cluster.passthrough.original_dst_loop", 1).await?;
        wait_for(&proxy, "cluster.passthrough.upstream_cx_total", 0).await?;
        wait_for(&proxy, "listener.capture.downstream_cx_total", 1).await
    })
}
