//! Connections that the kernel redirected, in a network namespace of their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use outrigger_tests::client::raw::{Step, talk_from};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{Speaks, TcpHost, Upstream};
use serde_json::{Value, json};

use crate::kit::{LIMIT, bootstrap, cluster, http, socket, tcp_proxy, wait_for};

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
                "filters": [http("h", "passthrough")],
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
