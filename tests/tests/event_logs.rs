//! The logs of outlier detection and of health checks, beside Envoy's: the same lines, but for clocks.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::block_on;
use outrigger_tests::client::{Http1, Request};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::Upstream;
use outrigger_tests::wait;
use serde_json::{Map, Value, json};

const DEADLINE: Duration = Duration::from_secs(30);
const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// What one proxy writes into both logs.
async fn lines(kind: Kind, host: SocketAddr) -> Result<[Vec<Value>; 2]> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let (outliers, checks) = (path("outliers.log"), path("checks.log"));
    let config = config(host, &outliers, &checks).to_string();
    let proxy = Proxy::start_in(kind, &config, folder, &[]).await?;
    let mut client = Http1::connect(proxy.listener("main").await?).await?;
    let failing = Request::new("GET", "/").header("x-upstream-script", r#"{"status": 500}"#);
    let reply = client.send(failing).await?;
    ensure!(reply.status == 500, "{reply:?}");
    Ok([read(&outliers, 1).await?, read(&checks, 2).await?])
}

/// The first `count` lines of a log, without what differs from run to run.
async fn read(path: &Path, count: usize) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    wait::until("lines of the log", DEADLINE, async || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        found = whole.lines().map(str::to_owned).collect();
        ensure!(found.len() >= count, "{}: {text}", path.display());
        Ok(())
    })
    .await?;
    found.iter().take(count).map(|line| event(line)).collect()
}

fn event(line: &str) -> Result<Value> {
    let mut event: Map<String, Value> =
        serde_json::from_str(line).with_context(|| line.to_owned())?;
    let time = event.insert("timestamp".to_owned(), json!("<time>"));
    let is_time = time.as_ref().and_then(Value::as_str);
    ensure!(is_time.is_some_and(|time| time.ends_with('Z')), "{line}");
    Ok(Value::Object(event))
}

/// One host that a failure ejects; another cluster's checks of it pass, a third one's fail.
fn config(host: SocketAddr, outliers: &Path, checks: &Path) -> Value {
    let cluster = |name: &str, more: Value| {
        let mut cluster = json!({
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{
                "endpoint": {"address": {"socket_address": {
                    "address": host.ip().to_string(), "port_value": host.port(),
                }}},
            }]}]},
        });
        if let (Some(cluster), Value::Object(more)) = (cluster.as_object_mut(), more) {
            cluster.extend(more);
        }
        cluster
    };
    let log = json!([{"name": "file", "typed_config": {
        "@type": format!("{TYPES}.health_check.event_sinks.file.v3.HealthCheckEventFileSink"),
        "event_log_path": checks,
    }}]);
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "cluster_manager": {"outlier_detection": {"event_log_path": outliers}},
        "static_resources": {
            "clusters": [
                cluster("ejecting", json!({"outlier_detection": {
                    "consecutive_5xx": 1, "interval": "100s", "base_ejection_time": "100s",
                    "max_ejection_percent": 100,
                }})),
                // Its second check fails: the host is healthy, then it is not.
                cluster("checked", json!({"health_checks": [{
                    "timeout": "5s", "interval": "0.1s", "no_traffic_interval": "0.1s",
                    "unhealthy_threshold": 1, "healthy_threshold": 1,
                    "event_logger": log,
                    "http_health_check": {"path": "/checked", "request_headers_to_add": [{"header": {
                        "key": "x-upstream-script", "value": r#"{"then": [{"status": 503}]}"#,
                    }}]},
                }]})),
            ],
            "listeners": [{
                "name": "main",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                    "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                    "stat_prefix": "main",
                    "route_config": {"virtual_hosts": [{
                        "name": "all", "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "ejecting"}}],
                    }]},
                    "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                        "@type": format!("{TYPES}.filters.http.router.v3.Router"),
                    }}],
                }}]}],
            }],
        },
    })
}

#[test]
fn event_logs_are_envoys() -> Result<()> {
    block_on(async {
        let mut logs = Vec::new();
        for kind in [Kind::Envoy, Kind::Outrigger] {
            let host = Upstream::start("host").await?;
            let text = serde_json::to_string_pretty(&lines(kind, host.address()).await?)?;
            logs.push(text.replace(&host.address().to_string(), "<host>").replace(
                &format!("\"port_value\": {}", host.address().port()),
                "\"port_value\": 0",
            ));
        }
        let [envoy, ours] = logs.as_slice() else {
            unreachable!("one log of each");
        };
        ensure!(envoy == ours, "envoy:\n{envoy}\nours:\n{ours}");
        Ok(())
    })
}
