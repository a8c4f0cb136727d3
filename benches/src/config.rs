//! What the proxies are given to do: one YAML (here JSON) for Envoy and Outrigger.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use crate::load::Protocol;

/// How many virtual hosts a sidecar's chain has.
pub const HOSTS: usize = 20;
/// How many routes each of them has.
pub const ROUTES: usize = 10;

/// Where the types of Envoy's extensions are.
pub(crate) const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// How much a proxy does with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Chain {
    /// One route to one cluster, and nothing else.
    Plain,
    /// What a sidecar of a mesh does: 20 virtual hosts of 10 routes with header matches, weighted
    /// clusters, header changes, retries; access log, RBAC with 5 policies, a fault at 0 %, a local
    /// rate limit, circuit breakers, outlier detection.
    Sidecar,
    /// The plain route behind an RBAC filter that has nothing to check.
    Rbac,
    /// The plain route behind a fault filter without a fault.
    Fault,
    /// The plain route behind a rate limit that is switched on by no route.
    RateLimit,
    /// The plain route behind a CORS filter without a policy.
    Cors,
    /// The plain route behind a header filter that changes nothing.
    HeaderMutation,
    /// The plain route behind a health-check filter that waits for another path.
    HealthCheck,
    /// The plain route behind a bulkhead that no route switches on; ours only.
    Bulkhead,
}

impl Chain {
    /// Chains of one filter that has nothing to do.
    pub const IDLE: [Self; 7] = [
        Self::Rbac,
        Self::Fault,
        Self::RateLimit,
        Self::Cors,
        Self::HeaderMutation,
        Self::HealthCheck,
        Self::Bulkhead,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sidecar => "sidecar",
            Self::Rbac => "rbac",
            Self::Fault => "fault",
            Self::RateLimit => "rate-limit",
            Self::Cors => "cors",
            Self::HeaderMutation => "header-mutation",
            Self::HealthCheck => "health-check",
            Self::Bulkhead => "bulkhead",
        }
    }

    /// Whether it has what only Outrigger knows.
    pub fn is_ours(self) -> bool {
        self == Self::Bulkhead
    }

    /// The `host` and path of request number `turn`.
    pub fn target(self, turn: usize) -> (String, String) {
        match self {
            Self::Sidecar => {
                let (host, route) = (turn % HOSTS, turn / HOSTS % ROUTES);
                (
                    format!("svc{host}.shop.svc.cluster.local"),
                    format!("/api/r{route}/items?page=1"),
                )
            }
            _ => ("bench.local".to_owned(), "/api/items?page=1".to_owned()),
        }
    }

    fn filters(self) -> Vec<Value> {
        match self {
            Self::Plain => Vec::new(),
            Self::Sidecar => vec![
                rbac(json!({"rules": {"action": "ALLOW", "policies": policies()}})),
                fault(),
                rate_limit(json!({
                    "token_bucket": {
                        "max_tokens": 100_000_000,
                        "tokens_per_fill": 100_000_000,
                        "fill_interval": "1s",
                    },
                    "filter_enabled": all_requests(),
                    "filter_enforced": all_requests(),
                })),
            ],
            Self::Rbac => vec![rbac(json!({}))],
            Self::Fault => vec![fault()],
            Self::RateLimit => vec![rate_limit(json!({}))],
            Self::Cors => vec![filter("cors", "cors.v3.Cors", json!({}))],
            Self::HeaderMutation => vec![filter(
                "header_mutation",
                "header_mutation.v3.HeaderMutation",
                json!({"mutations": {}}),
            )],
            Self::HealthCheck => vec![filter(
                "health_check",
                "health_check.v3.HealthCheck",
                json!({
                    "pass_through_mode": false,
                    "headers": [{"name": ":path", "string_match": {"exact": "/healthz"}}],
                }),
            )],
            Self::Bulkhead => vec![json!({
                "name": "outrigger.filters.http.bulkhead",
                "typed_config": {
                    "@type": "type.googleapis.com/\
                        outrigger.extensions.filters.http.bulkhead.v1alpha1.Bulkhead",
                    "stat_prefix": "bench",
                    "cluster": "another",
                    "max_concurrent": 100,
                },
            })],
        }
    }
}

/// The whole bootstrap.
pub fn bootstrap(
    protocol: Protocol,
    chain: Chain,
    address: SocketAddr,
    backend: SocketAddr,
) -> Value {
    let mut manager = manager(chain, chain.filters());
    if chain == Chain::Sidecar {
        manager["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
                "path": "/dev/null",
            },
        }]);
    }
    let clusters: Vec<Value> = cluster_names(chain)
        .iter()
        .map(|name| cluster(protocol, chain, name, &[backend]))
        .collect();
    whole(address, &manager, &clusters)
}

/// A bulkhead of 100 with a queue of 50 in front of one backend; callers are told apart by `x-caller`.
pub(crate) fn bulkhead(
    address: SocketAddr,
    backend: SocketAddr,
    limit: u32,
    queue: u32,
    timeout: Duration,
) -> Value {
    let mut filter = Chain::Bulkhead.filters().remove(0);
    let config = &mut filter["typed_config"];
    config["cluster"] = json!("");
    config["max_concurrent"] = json!(limit);
    config["max_queued"] = json!(queue);
    config["queue_timeout"] = json!(format!("{}s", timeout.as_secs_f64()));
    config["caller_header"] = json!("x-caller");
    let mut cluster = cluster(Protocol::Http1, Chain::Plain, "backend", &[backend]);
    // The bulkhead is to be the only limit.
    cluster["circuit_breakers"] = json!({"thresholds": [{
        "max_connections": 100_000,
        "max_pending_requests": 100_000,
        "max_requests": 100_000,
    }]});
    whole(address, &manager(Chain::Plain, vec![filter]), &[cluster])
}

/// Several backends under one load-balancing policy.
pub(crate) fn balanced(address: SocketAddr, backends: &[SocketAddr], policy: &Value) -> Value {
    let mut cluster = cluster(Protocol::Http1, Chain::Plain, "backend", backends);
    cluster["load_balancing_policy"] = json!({"policies": [{"typed_extension_config": policy}]});
    whole(address, &manager(Chain::Plain, Vec::new()), &[cluster])
}

fn whole(address: SocketAddr, manager: &Value, clusters: &[Value]) -> Value {
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [{
                "name": "main",
                "address": socket(address),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": manager,
                }]}],
            }],
            "clusters": clusters,
        },
    })
}

fn manager(chain: Chain, mut filters: Vec<Value>) -> Value {
    filters.push(filter("router", "router.v3.Router", json!({})));
    json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "main",
        "route_config": {"name": "main", "virtual_hosts": virtual_hosts(chain)},
        "http_filters": filters,
    })
}

fn virtual_hosts(chain: Chain) -> Vec<Value> {
    if chain != Chain::Sidecar {
        return vec![json!({
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}],
        })];
    }
    let host = |host: usize| {
        let name = format!("svc{host}");
        json!({
            "name": name,
            "domains": [
                name,
                format!("{name}.shop"),
                format!("{name}.shop.svc.cluster.local"),
                format!("{name}.shop.svc.cluster.local:80"),
            ],
            "response_headers_to_add": [
                {"header": {"key": "x-served-by", "value": name}},
            ],
            "routes": (0..ROUTES).map(route).collect::<Vec<_>>(),
        })
    };
    (0..HOSTS).map(host).collect()
}

fn route(index: usize) -> Value {
    json!({
        "name": format!("r{index}"),
        "match": {
            "prefix": format!("/api/r{index}/"),
            "headers": [{"name": "x-tier", "string_match": {"exact": "gold"}}],
        },
        "route": {
            "weighted_clusters": {"clusters": [
                {
                    "name": "stable",
                    "weight": 90,
                    "request_headers_to_add": [
                        {"header": {"key": "x-version", "value": "stable"}},
                    ],
                },
                {"name": "canary", "weight": 10},
            ]},
            "timeout": "5s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,unavailable,retriable-status-codes",
                "retriable_status_codes": [503],
                "num_retries": 2,
            },
        },
        "request_headers_to_add": [{"header": {"key": "x-route", "value": format!("r{index}")}}],
        "request_headers_to_remove": ["x-internal-debug"],
        "response_headers_to_remove": ["x-powered-by"],
    })
}

fn cluster_names(chain: Chain) -> &'static [&'static str] {
    match chain {
        Chain::Sidecar => &["stable", "canary"],
        _ => &["backend"],
    }
}

fn cluster(protocol: Protocol, chain: Chain, name: &str, backends: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = backends
        .iter()
        .map(|backend| json!({"endpoint": {"address": socket(*backend)}}))
        .collect();
    let explicit = match protocol {
        Protocol::Http1 => json!({"http_protocol_options": {}}),
        Protocol::Http2 => json!({"http2_protocol_options": {}}),
    };
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": explicit,
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    });
    if chain == Chain::Sidecar {
        cluster["circuit_breakers"] = json!({"thresholds": [{
            "max_connections": 1000,
            "max_pending_requests": 1000,
            "max_requests": 1000,
            "max_retries": 10,
            "track_remaining": true,
        }]});
        cluster["outlier_detection"] = json!({
            "consecutive_5xx": 5,
            "interval": "10s",
            "base_ejection_time": "30s",
            "max_ejection_percent": 50,
        });
        cluster["lb_policy"] = json!("LEAST_REQUEST");
    }
    cluster
}

pub(crate) fn socket(address: SocketAddr) -> Value {
    let (ip, port) = (address.ip().to_string(), address.port());
    json!({"socket_address": {"address": ip, "port_value": port}})
}

/// An HTTP filter of Envoy's.
fn filter(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("{TYPES}.filters.http.{message}"));
    json!({"name": format!("envoy.filters.http.{name}"), "typed_config": config})
}

fn rbac(config: Value) -> Value {
    filter("rbac", "rbac.v3.RBAC", config)
}

fn fault() -> Value {
    let none = json!({"numerator": 0, "denominator": "HUNDRED"});
    let config = json!({"abort": {"http_status": 503, "percentage": none}});
    filter("fault", "fault.v3.HTTPFault", config)
}

fn rate_limit(mut config: Value) -> Value {
    config["stat_prefix"] = json!("bench");
    filter(
        "local_ratelimit",
        "local_ratelimit.v3.LocalRateLimit",
        config,
    )
}

fn all_requests() -> Value {
    json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}})
}

/// Five policies of which the last one lets the load through: all are looked at.
fn policies() -> Value {
    let any = json!([{"any": true}]);
    json!({
        "a-admins": {
            "permissions": any,
            "principals": [{"header": {"name": "x-role", "string_match": {"exact": "admin"}}}],
        },
        "b-cluster": {
            "permissions": any,
            "principals": [{"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}],
        },
        "c-health": {
            "permissions": [{"url_path": {"path": {"prefix": "/healthz"}}}],
            "principals": any,
        },
        "d-writers": {
            "permissions": [{"and_rules": {"rules": [
                {"header": {"name": ":method", "string_match": {"exact": "DELETE"}}},
                {"url_path": {"path": {"prefix": "/api/"}}},
            ]}}],
            "principals": [{"header": {"name": "x-role", "string_match": {"exact": "writer"}}}],
        },
        "e-shop": {
            "permissions": [{"url_path": {"path": {"prefix": "/api/"}}}],
            "principals": [{"header": {"name": "x-tier", "string_match": {"exact": "gold"}}}],
        },
    })
}
