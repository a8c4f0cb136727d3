//! One case of what is accepted: a small bootstrap, built from the parts that the case changes.

use serde_json::{Map, Value, json};

/// A case of `cases.yaml`.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bootstrap: Value,
    /// Whether Envoy accepts it.
    pub(crate) envoy_accepts: bool,
    /// What Outrigger says, by the beginnings of its lines; nothing: it accepts.
    pub(crate) says: Vec<String>,
}

/// All cases of a parsed `cases.yaml`. `file` is a file that holds no resources.
pub(crate) fn read(cases: &Value, file: &str) -> Vec<Case> {
    let cases = cases.as_array().expect("a list of cases");
    cases.iter().map(|case| read_one(case, file)).collect()
}

fn read_one(case: &Value, file: &str) -> Case {
    let part = |name: &str| case.get(name).and_then(Value::as_object);
    let text = |name: &str| case.get(name).and_then(Value::as_str);
    let name = text("name").expect("a case has a name").to_owned();
    let envoy_accepts = match text("envoy") {
        Some("accepts") => true,
        Some("refuses") => false,
        other => panic!("{name}: envoy: {other:?}"),
    };
    let says = match case.get("says") {
        None => Vec::new(),
        Some(says) => serde_json::from_value::<Vec<String>>(says.clone()).expect("lines of text"),
    };
    assert_eq!(
        envoy_accepts != says.is_empty(),
        text("why").is_some(),
        "{name}: where Outrigger differs from Envoy, and only there, `why` says it"
    );
    let whole = case.get("whole").cloned();
    Case {
        bootstrap: whole.unwrap_or_else(|| bootstrap(&part, file)),
        name,
        envoy_accepts,
        says,
    }
}

/// The bootstrap that every case changes, with the changes of this one, from the inside out.
fn bootstrap<'a>(part: &impl Fn(&str) -> Option<&'a Map<String, Value>>, file: &str) -> Value {
    let changed = |base: Value, name: &str| change(base, part(name));
    let extension = "type.googleapis.com/envoy.extensions.filters";
    let endpoint = json!({
        "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}}
    });
    let router = json!({
        "name": "router", "typed_config": {"@type": format!("{extension}.http.router.v3.Router")}
    });
    let route = changed(
        json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}}),
        "route",
    );
    let host = changed(
        json!({"name": "v", "domains": ["*"], "routes": [route]}),
        "virtual_host",
    );
    let routes = changed(
        json!({"name": "r", "virtual_hosts": [host]}),
        "route_config",
    );
    let manager = changed(
        json!({
            "@type": format!("{extension}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "s", "route_config": routes, "http_filters": [router],
        }),
        "hcm",
    );
    let filter = json!({"name": "hcm", "typed_config": manager});
    let chain = json!({"filters": [filter]});
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    let listener = changed(
        json!({"name": "l", "address": address, "filter_chains": [chain]}),
        "listener",
    );
    let assignment = json!({"cluster_name": "a", "endpoints": [{"lb_endpoints": [endpoint]}]});
    let cluster = changed(
        json!({"name": "a", "load_assignment": assignment}),
        "cluster",
    );
    let whole = changed(
        json!({"static_resources": {"listeners": [listener], "clusters": [cluster, {"name": "b"}]}}),
        "bootstrap",
    );
    let words = [
        ("$chain", chain),
        ("$hcm", filter),
        ("$cluster", cluster),
        ("$endpoint", endpoint),
        ("$router", router),
        ("$file", Value::from(file)),
    ];
    replace(whole, &words)
}

/// Sets fields; `null` takes one away.
fn change(base: Value, changes: Option<&Map<String, Value>>) -> Value {
    let Value::Object(mut base) = base else {
        return base;
    };
    for (field, value) in changes.into_iter().flatten() {
        if value.is_null() {
            base.remove(field);
        } else {
            base.insert(field.clone(), value.clone());
        }
    }
    Value::Object(base)
}

/// Puts parts in the place of the words that stand for them.
fn replace(value: Value, words: &[(&str, Value)]) -> Value {
    match value {
        Value::String(text) => match words.iter().find(|(word, _)| *word == text) {
            Some((_, part)) => replace(part.clone(), words),
            None => Value::String(text),
        },
        Value::Array(items) => items.into_iter().map(|item| replace(item, words)).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, replace(value, words)))
            .collect(),
        other => other,
    }
}
