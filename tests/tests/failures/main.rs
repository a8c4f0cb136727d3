//! Hosts and clients that break off, hang or break the protocol, over real sockets: the answer comes in
//! time, says what happened, and the proxy serves everybody else meanwhile and afterwards.
//!
//! What hosts do is done to Envoy too, and the answers must be alike; a case says where ours is another.

mod http1;
mod http2;
mod requests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use outrigger_tests::client::{Http1, Http2, Request, Response};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{Deed, Hostile, Refused, SCRIPT, Silent, Upstream};
use outrigger_tests::{block_on, wait};
use serde_json::{Value, json};

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// Every route's timeout.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The machine may be busy, but no answer takes longer.
const SLACK: Duration = Duration::from_secs(4);
const SOON: Duration = Duration::from_secs(10);

/// A host and what comes of a request to it.
struct Case {
    name: &'static str,
    host: Host,
    /// Any of these: status, `broken` if the reply broke off, response flags, details.
    envoy: &'static [&'static str],
    ours: &'static [&'static str],
    /// What `x-outrigger-reason` says, apart from the cluster.
    reason: &'static str,
}

enum Host {
    Deeds(Vec<Deed>),
    /// Refuses connections.
    Refused,
    /// Connecting to it hangs.
    Silent,
}

fn case(name: &'static str, deeds: Vec<Deed>, both: &'static [&'static str]) -> Case {
    Case {
        name,
        host: Host::Deeds(deeds),
        envoy: both,
        ours: both,
        reason: "",
    }
}

impl Case {
    fn host(self, host: Host) -> Self {
        Self { host, ..self }
    }

    fn ours(self, ours: &'static [&'static str]) -> Self {
        Self { ours, ..self }
    }

    fn reason(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }

    fn expected(&self, kind: Kind) -> &'static [&'static str] {
        match kind {
            Kind::Envoy => self.envoy,
            Kind::Outrigger => self.ours,
        }
    }
}

#[derive(Clone, Copy)]
enum Downstream {
    Http1,
    Http2,
}

/// A host of one case for clients of one protocol: it has a cluster and a route of its own.
struct Place<'a> {
    case: &'a Case,
    downstream: Downstream,
    address: SocketAddr,
    _host: Box<dyn std::any::Any>,
}

impl<'a> Place<'a> {
    async fn start(case: &'a Case, downstream: Downstream) -> Result<Self> {
        let (address, host): (_, Box<dyn std::any::Any>) = match &case.host {
            Host::Deeds(deeds) => {
                let host = Hostile::start(deeds.clone()).await?;
                (host.address(), Box::new(host))
            }
            Host::Refused => {
                let host = Refused::reserve()?;
                (host.address(), Box::new(host))
            }
            Host::Silent => {
                let host = Silent::start().await?;
                (host.address(), Box::new(host))
            }
        };
        Ok(Self {
            case,
            downstream,
            address,
            _host: host,
        })
    }

    fn name(&self) -> String {
        let protocol = match self.downstream {
            Downstream::Http1 => "http1",
            Downstream::Http2 => "http2",
        };
        format!("{}-{protocol}", self.case.name)
    }
}

/// Sends a request to each host, with clients of both protocols, all at once, on both proxies.
fn check(cases: &[Case], cluster: &Value) {
    let failed: Vec<String> = [Kind::Envoy, Kind::Outrigger]
        .into_iter()
        .filter_map(|kind| {
            let error = block_on(run(kind, cases, cluster)).err()?;
            Some(format!("{}: {error:#}", kind.name()))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

async fn run(kind: Kind, cases: &[Case], cluster: &Value) -> Result<()> {
    let good = Upstream::start("good").await?;
    let mut places = Vec::new();
    for case in cases {
        places.push(Place::start(case, Downstream::Http1).await?);
        places.push(Place::start(case, Downstream::Http2).await?);
    }
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("access.log");
    let addresses = places.iter().map(|place| (place.name(), place.address));
    let config = config(
        addresses,
        good.address(),
        cluster,
        &log.display().to_string(),
    );
    let mut proxy = Proxy::start_in(kind, &config.to_string(), folder, &[]).await?;
    let main = proxy.listener("main").await?;

    let others = tokio::spawn(async move {
        loop {
            let begun = Instant::now();
            served(&good_request().send_h1(main).await?)?;
            ensure!(begun.elapsed() < SLACK, "{:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        #[expect(unreachable_code, reason = "says what the task gives")]
        Ok(())
    });
    let tried = places.iter().map(|place| attempt(kind, place, main, &log));
    let tried = futures_util::future::join_all(tried).await;
    if others.is_finished() {
        others.await?.context("other requests meanwhile")?;
        bail!("other requests ended");
    }
    others.abort();
    let mut wrong = Vec::new();
    for (place, tried) in places.iter().zip(tried) {
        let problem = match tried {
            Ok(seen) => judge(kind, place, &seen),
            Err(error) => Some(format!("{error:#}")),
        };
        wrong.extend(problem.map(|problem| format!("{}: {problem}", place.name())));
    }
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    proxy.process().check_running()?;
    served(&good_request().send_h1(main).await?)?;
    served(&good_request().send_h2(main).await?)?;
    let panics = proxy.log().matches("panicked").count();
    ensure!(panics == 0, "{}", proxy.log());
    nothing_is_left(&proxy).await
}

/// What came of one request.
struct Seen {
    reply: Response,
    took: Duration,
    /// Response flags and details of the access log.
    logged: String,
}

async fn attempt(
    kind: Kind,
    place: &Place<'_>,
    main: SocketAddr,
    log: &std::path::Path,
) -> Result<Seen> {
    let path = format!("/{}", place.name());
    let request = Request::new("GET", &path);
    // Envoy passes on what breaks its connection to the client.
    let goes_on = kind == Kind::Outrigger;
    let begun = Instant::now();
    let (reply, took) = match place.downstream {
        Downstream::Http1 => {
            let mut connection = Http1::connect(main).await?;
            let reply = connection.send(request).await?;
            let took = begun.elapsed();
            // A reply that is whole leaves a connection that serves, unless it says something else.
            let closes = reply.header("connection") == Some("close");
            if reply.error.is_none() && !closes && goes_on {
                served(&connection.send(good_request()).await?).context("afterwards")?;
            }
            (reply, took)
        }
        Downstream::Http2 => {
            let mut connection = Http2::connect(main).await?;
            let reply = connection.send(request).await?;
            let took = begun.elapsed();
            if goes_on {
                served(&connection.send(good_request()).await?).context("afterwards")?;
            }
            (reply, took)
        }
    };
    let line = wait::until("a line in the access log", SOON, async || {
        let text = std::fs::read_to_string(log)?;
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix(&path)?.strip_prefix(' '));
        found.map(str::to_owned).context("not yet")
    })
    .await?;
    Ok(Seen {
        reply,
        took,
        logged: line,
    })
}

/// What is wrong with it, if something is.
fn judge(kind: Kind, place: &Place<'_>, seen: &Seen) -> Option<String> {
    let Seen {
        reply,
        took,
        logged,
    } = seen;
    let broken = if reply.error.is_some() { " broken" } else { "" };
    let outcome = format!("{}{broken} {logged}", reply.status);
    if !place.case.expected(kind).contains(&outcome.as_str()) {
        return Some(format!("{outcome} ({took:?}, {})", reply.text()));
    }
    if *took > TIMEOUT + SLACK {
        return Some(format!("took {took:?}"));
    }
    let is_own =
        kind == Kind::Outrigger && reply.error.is_none() && !logged.contains("via_upstream");
    let reason = reply.header("x-outrigger-reason").unwrap_or_default();
    let tells = reason.contains(&place.name()) && reason.contains(place.case.reason);
    (is_own && !tells).then(|| format!("the reason is {reason:?}"))
}

/// Whatever was counted in is counted out.
async fn nothing_is_left(proxy: &Proxy) -> Result<()> {
    let gauges = ["rq_active", "rq_pending_active"];
    wait::until("the end of all requests", SOON, async || {
        let stats = proxy.stats().await?;
        // The admin endpoint counts the request that asks.
        let left: Vec<_> = stats
            .iter()
            .filter(|(name, value)| {
                gauges.iter().any(|gauge| name.ends_with(gauge))
                    && !name.starts_with("http.admin.")
                    && **value != 0
            })
            .collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

fn good_request() -> Request {
    Request::new("GET", "/good").header(SCRIPT, r#"{"body": "done"}"#)
}

fn served(reply: &Response) -> Result<()> {
    ensure!(reply.status == 200 && reply.text() == "done", "{reply:?}");
    ensure!(reply.error.is_none(), "{reply:?}");
    Ok(())
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// A cluster and a route for each of `hosts`, made like `cluster`, and for the good one.
fn config(
    hosts: impl Iterator<Item = (String, SocketAddr)>,
    good: SocketAddr,
    cluster: &Value,
    log: &str,
) -> Value {
    let mut clusters = Vec::new();
    let mut routes = Vec::new();
    let standard = json!({});
    let all = hosts.map(|(name, address)| (name, address, cluster));
    for (name, address, cluster) in all.chain([("good".to_owned(), good, &standard)]) {
        let mut cluster = cluster.clone();
        cluster["name"] = name.clone().into();
        cluster["type"] = "STATIC".into();
        cluster["connect_timeout"] = "0.3s".into();
        cluster["load_assignment"] = json!({
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(address.port())}}]}],
        });
        clusters.push(cluster);
        routes.push(json!({
            "match": {"path": format!("/{name}")},
            "route": {"cluster": name, "timeout": format!("{}s", TIMEOUT.as_secs())},
        }));
    }
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
                        "access_log": [{"name": "file", "typed_config": {
                            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
                            "path": log,
                            "log_format": {"text_format_source": {"inline_string":
                                "%REQ(:PATH)% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}},
                        }}],
                        "route_config": {"name": "main", "virtual_hosts": [
                            {"name": "all", "domains": ["*"], "routes": routes},
                        ]},
                        "http_filters": [{
                            "name": "envoy.filters.http.router",
                            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
                        }],
                    },
                }]}],
            }],
            "clusters": clusters,
        },
    })
}
