//! Connections that the kernel redirected, in a network namespace of their own: by REDIRECT and by TPROXY, for IPv4
//! and IPv6.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use outrigger_tests::client::raw::{Step, talk_from};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{Speaks, TcpHost, Upstream};
use serde_json::{Value, json};

use crate::kit::{LIMIT, bootstrap, cluster, http, socket, tcp_proxy, typed, wait_for};

/// The port that the kernel gives connections to.
const CAPTURE: u16 = 15001;

/// Addresses and words of an address family.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    /// Where the client is.
    client: IpAddr,
    /// Where the redirected hosts are.
    there: IpAddr,
    /// Another address of the same machine.
    also: IpAddr,
    any: IpAddr,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "ip",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        there: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
        also: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)),
        any: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    },
    Family {
        name: "ip6",
        client: IpAddr::V6(Ipv6Addr::LOCALHOST),
        there: IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1)),
        also: IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2)),
        any: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    },
];

/// How the kernel gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Redirect,
    Tproxy,
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Runs this in a network namespace of its own, if that can be had: it needs root.
fn alone(what: impl AsyncFnOnce() -> Result<()> + Send) -> Result<()> {
    let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
    if !nix::unistd::geteuid().is_root() || !has("nft") || !has("ip") {
        eprintln!("SKIPPED: it needs root, `ip` and `nft`");
        return Ok(());
    }
    thread::scope(|scope| {
        let run = || -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            done("ip", &["link", "set", "lo", "up"])?;
            for family in FAMILIES {
                for address in [family.there, family.also] {
                    let bits = if address.is_ipv4() { 32 } else { 128 };
                    let address = format!("{address}/{bits}");
                    let add = ["addr", "add", &address, "dev", "lo"];
                    let at_once: &[_] = if bits == 128 { &["nodad"] } else { &[] };
                    done("ip", &[&add[..], at_once].concat())?;
                }
            }
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

/// The same in each way there is.
fn in_each_way(what: impl AsyncFn(Family, Mode) -> Result<()> + Sync) -> Result<()> {
    for family in FAMILIES {
        for mode in [Mode::Redirect, Mode::Tproxy] {
            alone(async || what(family, mode).await)
                .with_context(|| format!("{family:?} {mode:?}"))?;
        }
    }
    Ok(())
}

fn done(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {error}");
    Ok(())
}

impl Family {
    /// What the client sends to these ports comes to the proxy; what the proxy sends has another source.
    fn redirect(self, mode: Mode, ports: &str) -> Result<()> {
        let (name, client) = (self.name, self.client);
        let hosts = format!("{{ {}, {} }}", self.there, self.also);
        let sent = format!("{name} saddr {client} {name} daddr {hosts} tcp dport {ports}");
        let chain = |hook: &str| format!("add chain {name} test {hook}");
        let rule = |hook: &str, rule: &str| format!("add rule {name} test {hook} {rule}");
        let mut rules = vec![format!("add table {name} test")];
        match mode {
            Mode::Redirect => rules.extend([
                chain("output { type nat hook output priority -100 ; }"),
                rule("output", &format!("{sent} redirect to :{CAPTURE}")),
            ]),
            Mode::Tproxy => rules.extend([
                chain("output { type route hook output priority -150 ; }"),
                rule("output", &format!("{sent} meta mark set 1")),
                chain("prerouting { type filter hook prerouting priority -150 ; }"),
                rule(
                    "prerouting",
                    &format!("meta mark 1 tcp dport {ports} tproxy to :{CAPTURE} accept"),
                ),
            ]),
        }
        if mode == Mode::Tproxy {
            let version = if self.name == "ip" { "-4" } else { "-6" };
            let rule = ["rule", "add", "fwmark", "1", "lookup", "100"];
            let route = ["route", "add", "local", "default", "dev", "lo"];
            done("ip", &[&[version][..], &rule].concat())?;
            done("ip", &[&[version][..], &route, &["table", "100"]].concat())?;
        }
        for rule in rules {
            done("nft", &[&rule])?;
        }
        Ok(())
    }

    fn at(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.there, port)
    }

    async fn ask(self, to: SocketAddr, steps: &[Step]) -> Result<String> {
        let said = talk_from(Some(self.client), to, steps, LIMIT).await;
        let said = said.with_context(|| format!("to {to}"))?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// The listener that the kernel gives connections to, and others.
    fn capture(self, mode: Mode, more: &[Value]) -> Value {
        let mut listeners = vec![json!({
            "name": "capture",
            "stat_prefix": "capture",
            "address": socket(&self.any.to_string(), CAPTURE),
            "use_original_dst": true,
            "transparent": mode == Mode::Tproxy,
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
}

fn passthrough() -> Value {
    json!({"name": "passthrough", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"})
}

#[test]
fn redirected_connections_reach_where_they_were_going_to() -> Result<()> {
    in_each_way(async |family, mode| redirected(Kind::Envoy, family, mode).await)
        .context("envoy")?;
    in_each_way(async |family, mode| redirected(Kind::Outrigger, family, mode).await)
}

async fn redirected(kind: Kind, family: Family, mode: Mode) -> Result<()> {
    let there = TcpHost::start_at("there", Speaks::Echo, family.at(7000)).await?;
    let known = TcpHost::start("known", Speaks::Echo).await?;
    let virtual_listener = |name: &str, address: IpAddr, port| {
        json!({
            "name": name, "stat_prefix": name, "bind_to_port": false,
            "address": socket(&address.to_string(), port),
            "filter_chains": [tcp_proxy(name, "known")],
        })
    };
    let listeners = family.capture(
        mode,
        &[
            virtual_listener("exact", family.there, 7001),
            virtual_listener("any", family.any, 7002),
        ],
    );
    let clusters = json!([passthrough(), cluster("known", known.address())]);
    let proxy = Proxy::start(kind, &bootstrap(listeners, clusters)).await?;
    family.redirect(mode, "7000-7009")?;
    let hello = [
        Step::Send("hello".to_owned()),
        Step::WaitFor("hello".to_owned()),
        Step::Finish,
        Step::WaitClose,
    ];
    ensure!(there.address() == family.at(7000));
    for (port, expected) in [
        (7000, "there:hello"),
        (7001, "known:hello"),
        (7002, "known:hello"),
        (7003, "known:hello"),
    ] {
        let said = family.ask(family.at(port), &hello).await?;
        ensure!(said == expected, "port {port}: {said:?}, not {expected:?}");
    }
    // Requests go there too.
    let http = Upstream::start_with("http", family.at(7004), None).await?;
    let request = "GET /there HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let steps = [Step::Send(request.to_owned()), Step::WaitClose];
    let said = family.ask(family.at(7004), &steps).await?;
    ensure!(said.starts_with("HTTP/1.1 200"), "{said:?}");
    ensure!(http.take_received().len() == 1, "the host got no request");
    // Nobody listens there: the connection is closed.
    let said = family.ask(family.at(7009), &[Step::WaitClose]).await?;
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
    in_each_way(async |family, mode| {
        let config = bootstrap(
            family.capture(mode, &[]),
            json!([passthrough(), {"name": "known"}]),
        );
        let proxy = Proxy::start(Kind::Outrigger, &config).await?;
        // With the rules there the kernel tracks every connection, and tells where this one went.
        family.redirect(mode, "7000")?;
        let said = family.ask(family.at(CAPTURE), &[Step::WaitClose]).await?;
        ensure!(said.is_empty(), "{said:?}");
        wait_for(&proxy, "cluster.passthrough.original_dst_loop", 1).await?;
        wait_for(&proxy, "cluster.passthrough.upstream_cx_total", 0).await?;
        wait_for(&proxy, "listener.capture.downstream_cx_total", 1).await
    })
}

#[test]
fn a_connection_to_the_proxy_by_another_of_its_addresses_does_not_go_round() -> Result<()> {
    // Only REDIRECT has the proxy accept it at another address than the one that it was going to.
    for family in FAMILIES {
        alone(async || {
            let clusters = json!([passthrough(), {"name": "known"}]);
            let config = bootstrap(family.capture(Mode::Redirect, &[]), clusters);
            let proxy = Proxy::start(Kind::Outrigger, &config).await?;
            family.redirect(Mode::Redirect, &CAPTURE.to_string())?;
            for (count, address) in [(1, family.there), (2, family.also)] {
                let to = SocketAddr::new(address, CAPTURE);
                let said = family.ask(to, &[Step::WaitClose]).await?;
                ensure!(said.is_empty(), "{said:?}");
                wait_for(&proxy, "cluster.passthrough.original_dst_loop", count).await?;
                wait_for(&proxy, "listener.capture.downstream_cx_total", count).await?;
            }
            wait_for(&proxy, "cluster.passthrough.upstream_cx_total", 0).await
        })
        .with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

#[test]
fn each_destination_is_learned_for_itself() -> Result<()> {
    in_each_way(async |family, mode| {
        let to = |address| SocketAddr::new(address, 7005);
        let first = TcpHost::start_at("first", Speaks::First, to(family.there)).await?;
        let also = TcpHost::start_at("also", Speaks::First, to(family.also)).await?;
        let choosing = json!({
            "name": "choosing", "stat_prefix": "choosing", "bind_to_port": false,
            "address": socket(&family.any.to_string(), 7005),
            "listener_filters": [
                typed("filters.listener.http_inspector.v3.HttpInspector", json!({})),
            ],
            "listener_filters_timeout": "600s",
            "metadata": {"filter_metadata": {"outrigger.protocol_choice": {}}},
            "filter_chains": [
                {
                    "filter_chain_match": {"application_protocols": ["http/1.1"]},
                    "filters": [http("h", "passthrough")],
                },
                tcp_proxy("choosing", "passthrough"),
            ],
        });
        let listeners = family.capture(mode, &[choosing]);
        let clusters = json!([passthrough(), cluster("known", first.address())]);
        let proxy = Proxy::start(Kind::Outrigger, &bootstrap(listeners, clusters)).await?;
        family.redirect(mode, "7005")?;
        for (server_first, learned, host, greeting) in [
            (1, 0, &first, "first:"),
            (2, 0, &also, "also:"),
            (3, 1, &first, "first:"),
            (4, 2, &also, "also:"),
        ] {
            let hears = [
                Step::WaitFor(greeting.to_owned()),
                Step::Finish,
                Step::WaitClose,
            ];
            family.ask(host.address(), &hears).await?;
            for (name, wanted) in [("server_first", server_first), ("learned", learned)] {
                let name = format!("listener.choosing.protocol_choice.{name}");
                wait_for(&proxy, &name, wanted).await?;
            }
        }
        wait_for(&proxy, "listener.choosing.downstream_cx_total", 4).await
    })
}
