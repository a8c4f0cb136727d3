//! What these tests configure, and how they look at it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::wait;
use serde_json::{Value, json};

pub(crate) const TYPES: &str = "type.googleapis.com/envoy.extensions";
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

pub(crate) fn tcp_proxy(prefix: &str, cluster: &str) -> Value {
    json!({"filters": [{"name": "tcp", "typed_config": {
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": prefix,
        "cluster": cluster,
    }}]})
}

pub(crate) fn cluster(name: &str, host: SocketAddr) -> Value {
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

pub(crate) fn bootstrap(listeners: Value, clusters: Value) -> String {
    json!({
        "admin": {"address": socket("127.0.0.1", 0)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
    .to_string()
}

/// An extension by the end of its type's name.
pub(crate) fn typed(name: &str, fields: Value) -> Value {
    let mut config = json!({"@type": format!("{TYPES}.{name}")});
    for (name, value) in fields.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    json!({"name": name, "typed_config": config})
}

/// A connection manager that sends everything to a cluster.
pub(crate) fn http(prefix: &str, cluster: &str) -> Value {
    typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": prefix,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": cluster}},
            ]}]},
            "http_filters": [typed("filters.http.router.v3.Router", json!({}))],
        }),
    )
}

/// A proxy that looks for TLS and passes everything on to `host`.
pub(crate) async fn relay(host: SocketAddr, listener: Value) -> Result<Proxy> {
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

pub(crate) async fn stat(proxy: &Proxy, name: &str) -> Result<u64> {
    let stats = proxy.stats().await?;
    stats.get(name).copied().context(name.to_owned())
}

pub(crate) async fn wait_for(proxy: &Proxy, name: &str, wanted: u64) -> Result<()> {
    wait::until(name, Duration::from_secs(30), async || {
        let seen = stat(proxy, name).await?;
        ensure!(seen == wanted, "{name} is {seen}, not {wanted}");
        Ok(())
    })
    .await
}
