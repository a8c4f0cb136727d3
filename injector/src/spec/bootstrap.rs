//! What the sidecar starts with, as its `--config-yaml`.
//!
//! Who the pod is, is not known before it is scheduled: Kubernetes itself puts that in, as `$(VARIABLE)` of
//! the container's environment. Names and addresses of pods have no character that JSON would escape.

use outrigger_mesh::{
    bootstrap::{OTLP_CLUSTER, XDS_CLUSTER},
    scope::METADATA_KEY,
};
use serde_json::{Map, Value, json};

use super::{ADMIN_PORT, METRICS_PORT, Options, READY_PORT, Redirect, Settings, literal, variable};

const ADMIN_CLUSTER: &str = "outrigger-admin";

/// What names the workload.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: String,
    pub(super) service: String,
    pub(super) version: Option<String>,
    /// The pod's, as far as they are known before it exists.
    pub(super) labels: Vec<(String, String)>,
}

/// The bootstrap as JSON text, which is YAML.
pub(super) fn text(workload: &Workload, settings: &Settings, options: &Options) -> String {
    // The pod is ready with its configuration and not before, however long that takes.
    let ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    let mut clusters = vec![
        admin_cluster(),
        grpc_cluster(XDS_CLUSTER, &settings.control_plane),
    ];
    clusters.extend(
        settings
            .otlp
            .as_ref()
            .map(|otlp| grpc_cluster(OTLP_CLUSTER, otlp)),
    );
    let namespace = variable("OUTRIGGER_POD_NAMESPACE");
    let bootstrap = json!({
        "node": {
            "id": format!("{}.{namespace}", variable("OUTRIGGER_POD_NAME")),
            "cluster": literal(&format!("{}.", workload.service)) + &namespace,
            "metadata": {
                METADATA_KEY: mesh_metadata(&namespace, workload, settings, options),
                "pod": {
                    "name": variable("OUTRIGGER_POD_NAME"),
                    "ip": variable("OUTRIGGER_POD_IP"),
                    "node": variable("OUTRIGGER_NODE_NAME"),
                    "serviceAccount": variable("OUTRIGGER_SERVICE_ACCOUNT"),
                },
            },
        },
        "admin": {"address": address("127.0.0.1", ADMIN_PORT)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
                "set_node_on_first_message_only": true,
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "listeners": [
                listener("outrigger-ready", READY_PORT, &[
                    page("/healthz/ready", "/ready"),
                    // It is answered as long as the main thread lives.
                    page("/healthz/live", "/hot_restart_version"),
                    pages("/app-health/"),
                    pages("/app-lifecycle/"),
                ]),
                listener("outrigger-metrics", METRICS_PORT, &[
                    page("/stats/prometheus", "/stats/prometheus/merged"),
                ]),
            ],
            "clusters": clusters,
        },
    });
    bootstrap.to_string()
}

fn mesh_metadata(
    namespace: &str,
    workload: &Workload,
    settings: &Settings,
    options: &Options,
) -> Map<String, Value> {
    let mut mesh = Map::new();
    mesh.insert("namespace".to_owned(), namespace.into());
    mesh.insert("workload".to_owned(), literal(&workload.name).into());
    mesh.insert("service".to_owned(), literal(&workload.service).into());
    if let Some(version) = &workload.version {
        mesh.insert("version".to_owned(), literal(version).into());
    }
    mesh.insert("pod".to_owned(), variable("OUTRIGGER_POD_NAME").into());
    let account = variable("OUTRIGGER_SERVICE_ACCOUNT");
    mesh.insert("serviceAccount".to_owned(), account.into());
    if !workload.labels.is_empty() {
        let labels = workload.labels.iter();
        let labels = labels.map(|(key, value)| (literal(key), literal(value).into()));
        mesh.insert("labels".to_owned(), labels.collect::<Map<_, _>>().into());
    }
    if let Redirect::Rules(mode) = options.redirect {
        let interception = json!({
            "addresses": variable("OUTRIGGER_POD_IPS"),
            "outbound": options.rules.outbound_port,
            "inbound": options.rules.inbound_port,
            "mode": mode.name(),
            "outboundPolicy": options.outbound_policy,
        });
        mesh.insert("interception".to_owned(), interception);
    }
    if settings.otlp.is_some() {
        let tracing = json!({"cluster": OTLP_CLUSTER, "sampling": options.sampling});
        mesh.insert("tracing".to_owned(), tracing);
    }
    mesh
}

/// One page of the admin interface by another name.
fn page(path: &str, page: &str) -> Value {
    json!({"match": {"path": path}, "route": to_admin(Some(page))})
}

/// All pages of the admin interface below a folder.
fn pages(folder: &str) -> Value {
    json!({"match": {"prefix": folder}, "route": to_admin(None)})
}

/// No time limit: pages that ask the application have their own, and a hook may take as long as the pod has.
fn to_admin(page: Option<&str>) -> Value {
    let mut route = json!({"cluster": ADMIN_CLUSTER, "timeout": "0s", "idle_timeout": "0s"});
    if let (Some(page), Some(route)) = (page, route.as_object_mut()) {
        route.insert("prefix_rewrite".to_owned(), page.into());
    }
    route
}

/// A listener that answers for the admin interface, which is on loopback, and for nothing else of it.
fn listener(name: &str, port: u16, routes: &[Value]) -> Value {
    json!({
        "name": name,
        // Pods have addresses of either family, or of both.
        "address": {"socket_address": {"address": "::", "ipv4_compat": true, "port_value": port}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "route_config": {
                    "name": name,
                    "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
                },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }]}],
    })
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn endpoints(name: &str, host: &str, port: u16) -> Value {
    json!({
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host, port)}}]}],
    })
}

fn admin_cluster() -> Value {
    json!({
        "name": ADMIN_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        // A connection for each: a kept one could end just as a probe goes out on it.
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"max_requests_per_connection": 1},
                "explicit_http_config": {"http_protocol_options": {}},
            },
        },
        "load_assignment": endpoints(ADMIN_CLUSTER, "127.0.0.1", ADMIN_PORT),
    })
}

fn grpc_cluster(name: &str, (host, port): &(String, u16)) -> Value {
    json!({
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {
                    "connection_keepalive": {"interval": "30s", "timeout": "5s"},
                }},
            },
        },
        "load_assignment": endpoints(name, host, *port),
    })
}
