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
