//! What the proxies are given to do with connections: one YAML (here JSON) for Envoy and Outrigger.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::config::{Chain, TYPES, bootstrap, socket};
use crate::load::Protocol;

/// One listener that passes its connections on to these backends in turns.
pub(super) fn relay(address: SocketAddr, backends: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = backends
        .iter()
        .map(|backend| json!({"endpoint": {"address": socket(*backend)}}))
        .collect();
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [{
                "name": "main",
                "address": socket(address),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.tcp_proxy",
                    "typed_config": {
                        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                        "stat_prefix": "main",
                        "cluster": "backend",
                    },
                }]}],
            }],
            "clusters": [{
                "name": "backend",
                "type": "STATIC",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": 100_000,
                    "max_pending_requests": 100_000,
                }]},
                "load_assignment": {
                    "cluster_name": "backend",
                    "endpoints": [{"lb_endpoints": endpoints}],
                },
            }],
        },
    })
}

/// The plain HTTP route, with the listener filters of intercepted connections or without.
pub(super) fn http(address: SocketAddr, backend: SocketAddr, is_intercepted: bool) -> Value {
    let mut config = bootstrap(Protocol::Http1, Chain::Plain, address, backend);
    if is_intercepted {
        let filter = |name: &str, message: &str| {
            json!({
                "name": format!("envoy.filters.listener.{name}"),
                "typed_config": {
                    "@type": format!("{TYPES}.filters.listener.{name}.v3.{message}"),
                },
            })
        };
        config["static_resources"]["listeners"][0]["listener_filters"] = json!([
            filter("original_dst", "OriginalDst"),
            filter("http_inspector", "HttpInspector"),
        ]);
    }
    config
}
