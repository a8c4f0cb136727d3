//! The bad-input corpus: broken configurations and xDS resources, and what the proxy must say.
//!
//! A file of `tests/bad` is a list of entries. In a bootstrap file, each entry changes a good
//! bootstrap (or is a whole text) and `--mode validate` must exit with 1 and name the paths. In an
//! xDS file, each entry is pushed to one running proxy, which must reject it by name and keep
//! serving what it had.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ads::AdsServer;
use crate::client;
use crate::proxy::{self, Kind, Proxy};
use crate::resources;
use crate::upstream::Upstream;
use crate::wait;

/// Where the corpus is.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bad")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The good bootstrap that the entries change.
    base: Option<Value>,
    #[serde(default)]
    bootstraps: Vec<Bootstrap>,
    #[serde(default)]
    pushes: Vec<Push>,
}

/// One broken bootstrap.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bootstrap {
    name: String,
    /// Values by JSON pointer; a pointer's last step may be new, and `-` appends to a list.
    #[serde(default)]
    set: Map<String, Value>,
    /// The whole text instead.
    text: Option<String>,
    /// Every one of these must be printed.
    says: Vec<String>,
}

/// One broken resource.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Push {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    /// Resources, by name, beside the good ones.
    resources: Map<String, Value>,
    says: Vec<String>,
}

/// Runs one file of the corpus.
pub async fn run(name: &str) -> Result<()> {
    let file = read(&corpus().join(format!("{name}.yaml")))?;
    let mut failures = Vec::new();
    for entry in &file.bootstraps {
        let base = file.base.as_ref().context("bootstraps need a base")?;
        if let Err(error) = check_bootstrap(base, entry).await {
            failures.push(format!("{}: {error:#}", entry.name));
        }
    }
    if !file.pushes.is_empty() {
        for delta in [false, true] {
            let form = if delta { "delta" } else { "state of the world" };
            check_pushes(&file.pushes, delta, &mut failures)
                .await
                .context(form)?;
        }
    }
    ensure!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}

/// How many entries the corpus has.
pub fn count() -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(corpus())? {
        let file = read(&entry?.path())?;
        count += file.bootstraps.len() + file.pushes.len();
    }
    Ok(count)
}

/// The base of a bootstrap file must itself be good, or its entries prove nothing.
pub async fn check_base(name: &str) -> Result<()> {
    let file = read(&corpus().join(format!("{name}.yaml")))?;
    let Some(base) = file.base else { return Ok(()) };
    let (code, output) = proxy::validate(Kind::Outrigger, &base.to_string()).await?;
    ensure!(
        code == 0,
        "the base is refused (exit code {code}):\n{output}"
    );
    Ok(())
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let value: Value = serde_norway::from_str(&text).with_context(|| path.display().to_string())?;
    serde_path_to_error::deserialize(value).with_context(|| path.display().to_string())
}

async fn check_bootstrap(base: &Value, entry: &Bootstrap) -> Result<()> {
    let text = match &entry.text {
        Some(text) => text.clone(),
        None => {
            let mut changed = base.clone();
            for (pointer, value) in &entry.set {
                put(&mut changed, pointer, value.clone())?;
            }
            changed.to_string()
        }
    };
    let (code, output) = proxy::validate(Kind::Outrigger, &text).await?;
    ensure!(code == 1, "exit code {code} instead of 1:\n{output}");
    for wanted in &entry.says {
        ensure!(
            output.contains(wanted.as_str()),
            "{wanted:?} is not in:\n{output}"
        );
    }
    Ok(())
}

/// Sets a value by JSON pointer; a null takes the field away.
fn put(root: &mut Value, pointer: &str, value: Value) -> Result<()> {
    let (parent, last) = pointer
        .rsplit_once('/')
        .context("a pointer starts with a slash")?;
    let last = last.replace("~1", "/");
    match root
        .pointer_mut(parent)
        .with_context(|| format!("no {parent}"))?
    {
        Value::Object(fields) if value.is_null() => {
            fields.remove(&last);
        }
        Value::Object(fields) => {
            fields.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let index: usize = last.parse()?;
            *items
                .get_mut(index)
                .with_context(|| format!("no {pointer}"))? = value;
        }
        _ => bail!("{parent} has no fields"),
    }
    Ok(())
}

/// Pushes each broken resource to one proxy: it must reject each and serve on.
async fn check_pushes(pushes: &[Push], delta: bool, failures: &mut Vec<String>) -> Result<()> {
    let upstream = Upstream::start("a").await?;
    let ads = AdsServer::start().await?;
    let good = Good {
        port: upstream.address().port(),
    };
    for type_name in [
        "Cluster",
        "ClusterLoadAssignment",
        "Listener",
        "RouteConfiguration",
    ] {
        ads.set(type_name, good.resources(type_name)?);
    }
    let proxy = Proxy::start(Kind::Outrigger, &bootstrap(&ads, delta)).await?;
    let listener = proxy.listener("main").await?;
    wait::until(
        "the good configuration",
        std::time::Duration::from_secs(10),
        async || {
            let reply = client::get(listener, "/").await?;
            ensure!(reply.status == 200, "status {}", reply.status);
            Ok(())
        },
    )
    .await?;
    for push in pushes {
        let mut resources = good.resources(&push.type_name)?;
        for (name, json) in &push.resources {
            let broken = resources::from_json(&push.type_name, json)
                .with_context(|| format!("{}: not even a message", push.name))?;
            resources.retain(|(other, _)| other != name);
            resources.push((name.clone(), broken));
        }
        let nonce = ads.set(&push.type_name, resources);
        let error = ads
            .answer(&nonce)
            .await
            .with_context(|| push.name.clone())?;
        let error = error.unwrap_or_else(|| "(accepted)".to_owned());
        for wanted in &push.says {
            if !error.contains(wanted.as_str()) {
                failures.push(format!(
                    "{} (delta: {delta}): {wanted:?} not in {error:?}",
                    push.name
                ));
            }
        }
        let reply = client::get(listener, "/")
            .await
            .context(push.name.clone())?;
        ensure!(
            reply.status == 200,
            "{}: status {} afterwards",
            push.name,
            reply.status
        );
    }
    for type_name in [
        "Cluster",
        "ClusterLoadAssignment",
        "Listener",
        "RouteConfiguration",
    ] {
        let nonce = ads.set(type_name, good.resources(type_name)?);
        let error = ads.answer(&nonce).await?;
        ensure!(
            error.is_none(),
            "good {type_name}s are rejected afterwards: {error:?}"
        );
    }
    ensure!(
        client::get(listener, "/").await?.status == 200,
        "not serving at the end"
    );
    Ok(())
}

/// The good resources.
struct Good {
    port: u16,
}

impl Good {
    fn resources(&self, type_name: &str) -> Result<Vec<(String, resources::Any)>> {
        let (name, json) = match type_name {
            "Cluster" => ("good", cluster()),
            "ClusterLoadAssignment" => ("good", self.endpoints()),
            "Listener" => ("main", listener()),
            "RouteConfiguration" => ("routes", routes()),
            other => bail!("no good {other}"),
        };
        Ok(vec![(
            name.to_owned(),
            resources::from_json(type_name, &json)?,
        )])
    }

    fn endpoints(&self) -> Value {
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": self.port}});
        json!({
            "cluster_name": "good",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        })
    }
}

fn cluster() -> Value {
    json!({"name": "good", "type": "EDS", "eds_cluster_config": {"eds_config": ads_source()}})
}

fn ads_source() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

fn listener() -> Value {
    let types = "type.googleapis.com/envoy.extensions.filters";
    json!({
        "name": "main",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": format!(
                    "{types}.network.http_connection_manager.v3.HttpConnectionManager"
                ),
                "stat_prefix": "main",
                "rds": {"route_config_name": "routes", "config_source": ads_source()},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": format!("{types}.http.router.v3.Router")},
                }],
            },
        }]}],
    })
}

fn routes() -> Value {
    json!({
        "name": "routes",
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "good"}}],
        }],
    })
}

/// A bootstrap that takes everything over one aggregated stream.
pub fn bootstrap(ads: &AdsServer, delta: bool) -> String {
    let address = ads.address();
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    let endpoint = json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    }});
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": if delta { "DELTA_GRPC" } else { "GRPC" },
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "lds_config": ads_source(),
            "cds_config": ads_source(),
        },
        "static_resources": {"clusters": [{
            "name": "xds",
            "type": "STATIC",
            "typed_extension_protocol_options": http2,
            "load_assignment": {
                "cluster_name": "xds",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
            },
        }]},
    })
    .to_string()
}
