//! The end of a proxy's life: on SIGTERM what runs is finished, and clients are told to go. And
//! `/drain_listeners`, which does on both proxies what Envoy does.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::{Http1, Http2, Request, Response};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{SCRIPT, Upstream};
use outrigger_tests::{block_on, wait};
use serde_json::json;
use tokio::net::TcpStream;

#[test]
fn sigterm_finishes_an_http1_request_and_closes() {
    check(async |proxy, upstream| {
        let address = proxy.listener("main").await?;
        let mut connection = Http1::connect(address).await?;
        let reply = tokio::spawn(async move { connection.send(slow()).await });
        terminate_in_flight(proxy, upstream).await?;
        let reply = reply.await??;
        served(&reply)?;
        let close = reply.header("connection");
        ensure!(
            close == Some("close"),
            "the client is not told to close: {reply:?}"
        );
        Ok(())
    });
}

#[test]
fn sigterm_finishes_an_http2_stream_and_goes_away() {
    check(async |proxy, upstream| {
        let address = proxy.listener("main").await?;
        let mut connection = Http2::connect(address).await?;
        let reply = tokio::spawn(async move { (connection.send(slow()).await, connection) });
        terminate_in_flight(proxy, upstream).await?;
        let (reply, connection) = reply.await?;
        served(&reply?)?;
        wait::until(
            "the connection to end",
            Duration::from_secs(5),
            async || {
                ensure!(connection.is_closed(), "still open");
                Ok(())
            },
        )
        .await
    });
}

#[test]
fn drain_listeners_stops_at_once_and_lets_connections_be() {
    on_both(async |proxy| {
        let address = proxy.listener("main").await?;
        let mut kept = Http1::connect(address).await?;
        goes_on(&mut kept).await?;
        // This listener has no direction.
        post(proxy, "/drain_listeners?inboundonly").await?;
        goes_on(&mut Http1::connect(address).await?).await?;
        post(proxy, "/drain_listeners").await?;
        refused(address).await?;
        goes_on(&mut kept).await?;
        goes_on(&mut kept).await
    });
}

#[test]
fn a_graceful_drain_tells_clients_to_go_before_it_stops() {
    on_both(async |proxy| {
        let address = proxy.listener("main").await?;
        let mut kept = Http1::connect(address).await?;
        goes_on(&mut kept).await?;
        post(proxy, "/drain_listeners?graceful").await?;
        // Nothing stops before the drain time is over.
        Http1::connect(address).await?;
        refused(address).await?;
        is_told_to_go(kept).await
    });
}

#[test]
fn a_graceful_drain_may_go_on_listening() {
    on_both(async |proxy| {
        let address = proxy.listener("main").await?;
        post(proxy, "/drain_listeners?graceful&skip_exit").await?;
        tokio::time::sleep(DRAIN_TIME + Duration::from_millis(200)).await;
        is_told_to_go(Http1::connect(address).await?).await?;
        let mut connection = Http2::connect(address).await?;
        served(&connection.send(quick()).await?)?;
        wait::until("GOAWAY", Duration::from_secs(7), async || {
            ensure!(connection.is_closed(), "still open");
            Ok(())
        })
        .await
    });
}

/// `--drain-time-s` of proxies in tests.
const DRAIN_TIME: Duration = Duration::from_secs(2);

fn on_both(test: impl AsyncFn(&mut Proxy) -> Result<()>) {
    for kind in [Kind::Envoy, Kind::Outrigger] {
        let run = async {
            let upstream = Upstream::start("a").await?;
            let mut proxy = Proxy::start(kind, &config(&upstream)).await?;
            test(&mut proxy).await
        };
        if let Err(error) = block_on(run) {
            panic!("{}: {error:#}", kind.name());
        }
    }
}

async fn post(proxy: &Proxy, path: &str) -> Result<()> {
    let reply = proxy.admin_post(path).await?;
    ensure!(reply.status == 200, "{path}: {reply:?}");
    Ok(())
}

async fn goes_on(connection: &mut Http1) -> Result<()> {
    let reply = connection.send(quick()).await?;
    served(&reply)?;
    ensure!(reply.header("connection").is_none(), "{reply:?}");
    Ok(())
}

async fn is_told_to_go(mut connection: Http1) -> Result<()> {
    let reply = connection.send(quick()).await?;
    served(&reply)?;
    ensure!(reply.header("connection") == Some("close"), "{reply:?}");
    Ok(())
}

async fn refused(address: SocketAddr) -> Result<()> {
    wait::until(
        "the listener to stop",
        DRAIN_TIME + Duration::from_secs(2),
        async || {
            ensure!(TcpStream::connect(address).await.is_err(), "it listens");
            Ok(())
        },
    )
    .await
}

fn quick() -> Request {
    Request::new("GET", "/").header(SCRIPT, r#"{"body": "done"}"#)
}

fn check(test: impl AsyncFnOnce(&mut Proxy, &Upstream) -> Result<()>) {
    let run = async {
        let upstream = Upstream::start("a").await?;
        let mut proxy = Proxy::start(Kind::Outrigger, &config(&upstream)).await?;
        test(&mut proxy, &upstream).await?;
        let status = proxy.process().wait(Duration::from_secs(10)).await?;
        ensure!(
            status.success(),
            "the proxy ended with {status}:\n{}",
            proxy.log()
        );
        Ok::<(), anyhow::Error>(())
    };
    if let Err(error) = block_on(run) {
        panic!("{error:#}");
    }
}

/// A request that takes long enough to be in flight when the signal comes.
fn slow() -> Request {
    Request::new("GET", "/").header(SCRIPT, r#"{"delay_ms": 500, "body": "done"}"#)
}

async fn terminate_in_flight(proxy: &Proxy, upstream: &Upstream) -> Result<()> {
    wait::until(
        "the request to reach the upstream",
        Duration::from_secs(5),
        async || {
            ensure!(upstream.pending() > 0, "not yet");
            Ok(())
        },
    )
    .await?;
    proxy.terminate().context("SIGTERM")
}

fn served(reply: &Response) -> Result<()> {
    ensure!(reply.status == 200 && reply.text() == "done", "{reply:?}");
    ensure!(reply.error.is_none(), "{reply:?}");
    Ok(())
}

fn config(upstream: &Upstream) -> String {
    let types = "type.googleapis.com/envoy.extensions.filters";
    let socket =
        |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
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
                            "{types}.network.http_connection_manager.v3.HttpConnectionManager"
                        ),
                        "stat_prefix": "main",
                        "route_config": {"name": "main", "virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}],
                        }]},
                        "http_filters": [{
                            "name": "envoy.filters.http.router",
                            "typed_config": {"@type": format!("{types}.http.router.v3.Router")},
                        }],
                    },
                }]}],
            }],
            "clusters": [{
                "name": "a",
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": "a",
                    "endpoints": [{"lb_endpoints": [
                        {"endpoint": {"address": socket(upstream.address().port())}},
                    ]}],
                },
            }],
        },
    })
    .to_string()
}

/// The proxy of a pod, whose listeners have directions, and one client of each.
struct Pod {
    proxy: Proxy,
    inbound: SocketAddr,
    outbound: SocketAddr,
    page: SocketAddr,
    /// To the application by HTTP, and as a relay of bytes.
    to_app: Http1,
    relayed: Http1,
    from_app: Http1,
}

impl Pod {
    async fn start(upstream: &Upstream, drain_time: &str) -> Result<Self> {
        let args = ["--drain-time-s", drain_time];
        let folder = tempfile::tempdir()?;
        let config = pod_config(upstream);
        let proxy = Proxy::start_in(Kind::Outrigger, &config, folder, &args).await?;
        let (inbound, outbound) = (proxy.listener("in").await?, proxy.listener("out").await?);
        let connect = async |address| {
            let mut connection = Http1::connect(address).await?;
            goes_on(&mut connection).await?;
            anyhow::Ok(connection)
        };
        let pod = Self {
            to_app: connect(inbound).await?,
            relayed: connect(proxy.listener("in-tcp").await?).await?,
            from_app: connect(outbound).await?,
            page: proxy.listener("page").await?,
            proxy,
            inbound,
            outbound,
        };
        upstream.take_received();
        Ok(pod)
    }

    async fn ends(&mut self) -> Result<()> {
        let status = self.proxy.process().wait(Duration::from_secs(10)).await?;
        ensure!(status.success(), "{status}:\n{}", self.proxy.log());
        Ok(())
    }
}

/// No answer comes over it any more.
async fn is_closed(connection: &mut Http1) -> Result<()> {
    let reply = connection.send(quick()).await;
    ensure!(
        !matches!(&reply, Ok(reply) if reply.status != 0),
        "{reply:?}"
    );
    Ok(())
}

#[test]
fn a_pods_proxy_takes_nothing_in_and_lets_out_to_the_last() -> Result<()> {
    block_on(async {
        let upstream = Upstream::start("a").await?;
        let mut pod = Pod::start(&upstream, "600").await?;
        let mut busy = Http1::connect(pod.inbound).await?;
        let reply = tokio::spawn(async move { busy.send(slow()).await });
        terminate_in_flight(&pod.proxy, &upstream).await?;
        // What came in is finished, and nothing more comes.
        refused(pod.inbound).await?;
        let reply = reply.await??;
        served(&reply)?;
        ensure!(reply.header("connection") == Some("close"), "{reply:?}");
        is_told_to_go(pod.to_app).await?;
        // What goes out goes on, also anew; our own pages are there, and the pod is not ready.
        goes_on(&mut pod.from_app).await?;
        goes_on(&mut Http1::connect(pod.outbound).await?).await?;
        goes_on(&mut Http1::connect(pod.page).await?).await?;
        let ready = pod.proxy.admin_get("/ready").await?;
        ensure!(ready.text() == "DRAINING\n", "{ready:?}");
        // Bytes that are relayed cannot be told to go: they count to their end.
        drop(pod.from_app);
        goes_on(&mut pod.relayed).await?;
        drop(pod.relayed);
        let status = pod.proxy.process().wait(Duration::from_secs(10)).await?;
        ensure!(status.success(), "{status}:\n{}", pod.proxy.log());
        Ok(())
    })
}

#[test]
fn a_pods_proxy_ends_with_the_drain_time_at_the_latest() -> Result<()> {
    block_on(async {
        let upstream = Upstream::start("a").await?;
        let mut pod = Pod::start(&upstream, "1").await?;
        pod.proxy.terminate()?;
        pod.ends().await?;
        is_closed(&mut pod.from_app).await?;
        is_closed(&mut pod.relayed).await
    })
}

#[test]
fn quitquitquit_ends_in_order_and_at_once_when_asked_twice() -> Result<()> {
    block_on(async {
        let upstream = Upstream::start("a").await?;
        let mut pod = Pod::start(&upstream, "600").await?;
        post(&pod.proxy, "/quitquitquit").await?;
        refused(pod.inbound).await?;
        goes_on(&mut pod.from_app).await?;
        post(&pod.proxy, "/quitquitquit").await?;
        pod.ends().await?;
        is_closed(&mut pod.from_app).await
    })
}

#[test]
fn quitquitquit_finishes_what_has_begun_without_directions_too() {
    check(async |proxy, upstream| {
        let address = proxy.listener("main").await?;
        let mut connection = Http1::connect(address).await?;
        let reply = tokio::spawn(async move { connection.send(slow()).await });
        wait::until("the request", Duration::from_secs(5), async || {
            ensure!(upstream.pending() > 0, "not yet");
            Ok(())
        })
        .await?;
        post(proxy, "/quitquitquit").await?;
        served(&reply.await??)
    });
}

/// Listeners to and from an application, one without a direction, and one that passes bytes on.
fn pod_config(upstream: &Upstream) -> String {
    let mut config: serde_json::Value =
        serde_json::from_str(&config(upstream)).expect("it was written as JSON");
    let template = config["static_resources"]["listeners"][0].clone();
    let listener = |name: &str, direction: &str| {
        let mut listener = template.clone();
        listener["name"] = name.into();
        listener["traffic_direction"] = direction.into();
        listener
    };
    let mut relay = listener("in-tcp", "INBOUND");
    relay["filter_chains"][0]["filters"][0] = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "relay",
            "cluster": "a",
        },
    });
    config["static_resources"]["listeners"] = json!([
        listener("in", "INBOUND"),
        listener("out", "OUTBOUND"),
        listener("page", "UNSPECIFIED"),
        relay,
    ]);
    config.to_string()
}
