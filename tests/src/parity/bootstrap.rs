//! The bootstrap of a case: written out, or built from the parts that the case names.

use serde_json::{Map, Value, json};

use super::case::{Case, Places};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The default log line: everything that does not vary between runs.
const LOG: &str = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% cluster=%UPSTREAM_CLUSTER% \
    host=%UPSTREAM_HOST% route=%ROUTE_NAME% authority=%REQ(:AUTHORITY)%\n";

/// The YAML (in fact JSON) to start a proxy with.
pub(super) fn build(case: &Case, places: &Places) -> String {
    let mut bootstrap = match &case.bootstrap {
        Some(whole) => whole.clone(),
        None => json!({"static_resources": {
            "listeners": [listener(case, places)],
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
    let standard = ["a", "b", "c"].map(|name| {
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
    standard
        .into_iter()
        .chain(case.clusters.iter().cloned())
        .collect()
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
