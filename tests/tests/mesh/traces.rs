//! Spans: from two sidecars and an application that knows only tracing headers to one trace in the
//! control plane's store.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::Request;
use outrigger_tests::mesh::{
    ControlPlane, DEADLINE, Service, Sidecar, listening, objects, outrigger, ports,
};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::Upstream;
use outrigger_tests::wait;
use serde_json::{Value, json};

use crate::run;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

#[test]
fn two_sidecars_make_one_trace() {
    run(one_trace(Kind::Outrigger, Kind::Outrigger));
}

#[test]
fn envoy_and_outrigger_make_one_trace() {
    run(one_trace(Kind::Envoy, Kind::Outrigger));
}

async fn one_trace(caller: Kind, callee: Kind) -> Result<()> {
    let outbound = ports::reserve()?;
    let (web_in, back_in) = (ports::reserve()?, ports::reserve()?);
    let back = Service::start("back").await?;
    let web = Service::calling("web", &["back"], Some(outbound)).await?;
    let services = [
        objects::service("web", &[web_in]),
        objects::service("back", &[back_in]),
    ];
    let control_plane = ControlPlane::start(&[("mesh.yaml", services.concat())]).await?;
    let mut web_sidecar = Sidecar::new(caller, true, "web")
        .outbound_at(outbound)
        .inbound(web_in, web.address())
        .traced();
    let mut back_sidecar = Sidecar::new(callee, false, "back")
        .inbound(back_in, back.address())
        .traced();
    web_sidecar.start(&control_plane).await?;
    back_sidecar.start(&control_plane).await?;
    control_plane.in_sync(2).await?;
    for address in [outbound, web_in, back_in] {
        listening(address).await?;
    }

    let request = Request {
        authority: "web".to_owned(),
        ..Request::new("GET", "/page")
    };
    let request = request.header("traceparent", &format!("00-{TRACE}-{CALLER}-01"));
    let reply = request.send_h1(web_in).await?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.text());

    let trace = control_plane.trace(TRACE, 3).await?;
    let spans = trace["spans"].as_array().context("spans")?;
    ensure!(spans.len() == 3, "{trace:#}");
    let mut parent = CALLER.to_owned();
    for (service, kind) in [
        ("web.shop", "server"),
        ("web.shop", "client"),
        ("back.shop", "server"),
    ] {
        let next = spans
            .iter()
            .find(|span| span["references"][0]["spanID"] == parent.as_str());
        let span = next.with_context(|| format!("no child of {parent} in {trace:#}"))?;
        ensure!(span["references"][0]["traceID"] == TRACE, "{span:#}");
        let process = span["processID"].as_str().context("processID")?;
        ensure!(
            trace["processes"][process]["serviceName"] == service,
            "{trace:#}"
        );
        let tags = tags(span)?;
        ensure!(
            tags.get("span.kind").is_some_and(|value| **value == kind),
            "{span:#}"
        );
        let status = tags
            .get("http.response.status_code")
            .or_else(|| tags.get("http.status_code"));
        ensure!(
            status.is_some_and(|value| **value == "200" || **value == 200),
            "{span:#}"
        );
        parent = span["spanID"].as_str().context("spanID")?.to_owned();
    }
    queries(&control_plane).await
}

/// The same trace by the other ways of asking.
async fn queries(control_plane: &ControlPlane) -> Result<()> {
    let services = control_plane.jaeger("services").await?;
    ensure!(services == json!(["back.shop", "web.shop"]), "{services}");
    let found = control_plane
        .jaeger("traces?service=back.shop&limit=5")
        .await?;
    ensure!(found.as_array().map(Vec::len) == Some(1), "{found:#}");
    ensure!(found[0]["traceID"] == TRACE, "{found:#}");
    let operations = control_plane.jaeger("services/web.shop/operations").await?;
    ensure!(
        operations.as_array().is_some_and(|all| !all.is_empty()),
        "{operations}"
    );
    let server = format!("http://{}", control_plane.address("jaeger"));
    for args in [
        vec!["traces", "--server", &server],
        vec!["traces", TRACE, "--server", &server],
    ] {
        let (code, said) = outrigger(&args).await?;
        ensure!(code == 0, "{args:?}: exit code {code}:\n{said}");
        ensure!(said.contains("web.shop"), "{args:?}:\n{said}");
    }
    Ok(())
}

fn tags(span: &Value) -> Result<BTreeMap<&str, &Value>> {
    let list = span["tags"].as_array().context("tags")?;
    Ok(list
        .iter()
        .filter_map(|tag| Some((tag["key"].as_str()?, &tag["value"])))
        .collect())
}

#[test]
fn envoy_exports_over_http() {
    run(export(Kind::Envoy));
}

#[test]
fn outrigger_exports_over_http() {
    run(export(Kind::Outrigger));
}

/// The exporter that posts to `/v1/traces`.
async fn export(kind: Kind) -> Result<()> {
    let app = Upstream::start("app").await?;
    let control_plane = ControlPlane::start(&[]).await?;
    let bootstrap = bootstrap(&app, &control_plane);
    let proxy = Proxy::start(kind, &bootstrap.to_string()).await?;
    let address = proxy.listener("main").await?;
    let request = Request::new("GET", "/");
    let request = request.header("traceparent", &format!("00-{TRACE}-{CALLER}-01"));
    let reply = request.send_h1(address).await?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    let trace = control_plane.trace(TRACE, 1).await?;
    ensure!(
        trace["spans"][0]["references"][0]["spanID"] == CALLER,
        "{trace:#}"
    );
    wait::until("the service", DEADLINE, async || {
        let services = control_plane.jaeger("services").await?;
        ensure!(services == json!(["over-http"]), "{services}");
        Ok(())
    })
    .await
}

fn bootstrap(app: &Upstream, control_plane: &ControlPlane) -> Value {
    let types = "type.googleapis.com/envoy";
    let collector = control_plane.address("otlp-http");
    let clusters: Vec<Value> = [("app", app.address()), ("collector", collector)]
        .into_iter()
        .map(|(name, to)| {
            let address = json!({"address": to.ip(), "port_value": to.port()});
            let endpoint = json!({"endpoint": {"address": {"socket_address": address}}});
            json!({
                "name": name,
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [endpoint]}],
                },
            })
        })
        .collect();
    let exporter = json!({
        "@type": format!("{types}.config.trace.v3.OpenTelemetryConfig"),
        "service_name": "over-http",
        "http_service": {"http_uri": {
            "uri": format!("http://{collector}/v1/traces"),
            "cluster": "collector",
            "timeout": "2s",
        }},
    });
    let filters = format!("{types}.extensions.filters");
    let manager = json!({
        "@type": format!("{filters}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "main",
        "tracing": {"provider": {"name": "envoy.tracers.opentelemetry", "typed_config": exporter}},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "app"}},
        ]}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{filters}.http.router.v3.Router")},
        }],
    });
    let loopback = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    json!({
        "admin": {"address": loopback},
        "static_resources": {
            "clusters": clusters,
            "listeners": [{
                "name": "main",
                "address": loopback,
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": manager,
                }]}],
            }],
        },
    })
}
