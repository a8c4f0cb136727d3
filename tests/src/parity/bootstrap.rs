//! The bootstrap of a case: written out, or built from the parts that the case names.

use serde_json::{Map, Value, json};

use super::case::{Case, Chain, Places};
use super::upstreams::TCP_HOSTS;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The default log line: everything that does not vary between runs.
const LOG: &str = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% cluster=%UPSTREAM_CLUSTER% \
    host=%UPSTREAM_HOST% route=%ROUTE_NAME% authority=%REQ(:AUTHORITY)%\n";

/// The same for connections.
const TCP_LOG: &str = "%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
    %CONNECTION_TERMINATION_DETAILS% in=%BYTES_RECEIVED% out=%BYTES_SENT% \
    cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% sni=%REQUESTED_SERVER_NAME% \
    failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\n";

/// The YAML (in fact JSON) to start a proxy with.
pub(super) fn build(case: &Case, places: &Places) -> String {
    let mut bootstrap = match &case.bootstrap {
        Some(whole) => whole.clone(),
        None => json!({"static_resources": {
            "listeners": listeners(case, places),
            "clusters": clusters(case, places),
        }}),
    };
    let root = bootstrap.as_object_mut();
    if let Some(root) = root {
        root.entry("admin")
            .or_insert_with(|| json!({"address": socket("127.0.0.1", "0")}));
        extend(root, &case.bootstrap_extra);
    }
    bootstrap.to_string()
}

fn listeners(case: &Case, places: &Places) -> Vec<Value> {
    let more = case.more_listeners.iter().map(|more| {
        let mut fields = Map::from_iter([
            ("name".to_owned(), more.name.clone().into()),
            ("address".to_owned(), socket("127.0.0.1", "0")),
        ]);
        add_chains(&mut fields, &more.chains, case, places);
        extend(&mut fields, &more.fields);
        Value::Object(fields)
    });
    std::iter::once(listener(case, places))
        .chain(more)
        .collect()
}

/// Chains in short form, written out.
fn add_chains(fields: &mut Map<String, Value>, chains: &[Chain], case: &Case, places: &Places) {
    let mut list = Vec::new();
    for chain in chains {
        let filter = match &chain.tcp {
            None => json!({
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": connection_manager(case, places),
            }),
            Some(more) => json!({
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": tcp_proxy(more, case, places),
            }),
        };
        let mut written = json!({"name": chain.name, "filters": [filter]});
        if let Some(matches) = &chain.matches {
            written["filter_chain_match"] = matches.clone();
        }
        if chain.default {
            fields.insert("default_filter_chain".to_owned(), written);
        } else {
            list.push(written);
        }
    }
    fields.insert("filter_chains".to_owned(), list.into());
}

fn tcp_proxy(more: &Map<String, Value>, case: &Case, places: &Places) -> Value {
    let mut proxy = json!({
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "t",
        "access_log": [access_log(case, places)],
    });
    if !more.contains_key("weighted_clusters") {
        proxy["cluster"] = "ta".into();
    }
    if let Some(fields) = proxy.as_object_mut() {
        extend(fields, more);
    }
    proxy
}

fn listener(case: &Case, places: &Places) -> Value {
    let mut listener = json!({
        "name": "main",
        "address": socket("127.0.0.1", "0"),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": connection_manager(case, places),
        }]}],
    });
    if let Some(fields) = listener.as_object_mut() {
        if !case.chains.is_empty() {
            add_chains(fields, &case.chains, case, places);
        }
        extend(fields, &case.listener);
    }
    listener
}

fn connection_manager(case: &Case, places: &Places) -> Value {
    let hosts = case.virtual_hosts.clone().unwrap_or_else(|| {
        let all = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
        let routes = case.routes.clone().unwrap_or(all);
        json!([{"name": "all", "domains": ["*"], "routes": routes}])
    });
    let mut routes = json!({"name": "main", "virtual_hosts": hosts});
    if let Some(fields) = routes.as_object_mut() {
        extend(fields, &case.route_config);
    }
    let mut manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "main",
        "route_config": routes,
        "access_log": [access_log(case, places)],
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
        }],
    });
    if let Some(fields) = manager.as_object_mut() {
        extend(fields, &case.hcm);
    }
    manager
}

fn access_log(case: &Case, places: &Places) -> Value {
    let format = match (&case.log, &case.log_json) {
        (_, Some(json)) => json!({"json_format": json}),
        (Some(text), None) => json!({"text_format_source": {"inline_string": text}}),
        (None, None) if !case.chains.is_empty() => {
            json!({"text_format_source": {"inline_string": TCP_LOG}})
        }
        (None, None) => json!({"text_format_source": {"inline_string": LOG}}),
    };
    let folder = places.get("tmp").map(String::as_str).unwrap_or_default();
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
            "path": format!("{folder}/access.log"),
            "log_format": format,
        },
    })
}

/// `a`, `b` and `c`, each with its upstream, and the case's own.
fn clusters(case: &Case, places: &Places) -> Vec<Value> {
    let tcp = TCP_HOSTS.iter().map(|(name, _)| *name);
    let names = ["a", "b", "c"].into_iter().chain(tcp);
    let known = names.filter(|name| places.contains_key(*name));
    let standard = known.map(|name| {
        let port = places.get(name).map(String::as_str).unwrap_or_default();
        json!({
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": socket("127.0.0.1", port)}},
                ]}],
            },
        })
    });
    standard.chain(case.clusters.iter().cloned()).collect()
}

fn socket(address: &str, port: &str) -> Value {
    let port: u16 = port.parse().unwrap_or(0);
    json!({"socket_address": {"address": address, "port_value": port}})
}

/// Replaces or adds fields; a null removes one.
fn extend(fields: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, value) in more {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
}
