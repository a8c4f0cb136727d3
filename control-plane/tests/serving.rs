//! Files in, xDS out, and the account of it, over real sockets.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

mod kit;

use kit::{Kit, proxy::Proxy};
use outrigger_proto::envoy::config::route::v3::{
    RouteConfiguration, route::Action, route_action::ClusterSpecifier,
};
use outrigger_xds::{Form, TypeUrl};
use prost::Message;
use serde_json::{Value, json};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {ports: [{port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: v1, namespace: shop}
spec: {ports: [{port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: v2, namespace: shop}
spec: {ports: [{port: 9080}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: ServiceAddresses
metadata: {name: v1, namespace: shop}
spec: {addresses: ['127.0.0.1:9081']}
";

fn route(v1: u32, v2: u32) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: reviews, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews}}]
  rules:
  - backendRefs:
    - {{name: v1, port: 9080, weight: {v1}}}
    - {{name: v2, port: 9080, weight: {v2}}}
"
    )
}

fn weights(proxy: &Proxy) -> Vec<u32> {
    let held = proxy.held();
    let Some(body) = held.get(&(TypeUrl::Route, "outbound".to_owned())) else {
        return Vec::new();
    };
    let routes = RouteConfiguration::decode(&**body).unwrap();
    let host = routes
        .virtual_hosts
        .iter()
        .find(|h| h.name.starts_with("reviews."))
        .unwrap();
    let Some(Action::Route(action)) = &host.routes[0].action else {
        return Vec::new();
    };
    match action.cluster_specifier.as_ref().unwrap() {
        ClusterSpecifier::WeightedClusters(weighted) => weighted
            .clusters
            .iter()
            .map(|cluster| cluster.weight.unwrap().value)
            .collect(),
        ClusterSpecifier::Cluster(name) if name.contains("|v1.") => vec![100, 0],
        ClusterSpecifier::Cluster(name) if name.contains("|v2.") => vec![0, 100],
        _ => Vec::new(),
    }
}

fn all_in_sync(status: &Value, proxies: u64) -> bool {
    status["connected"] == proxies
        && status["in_sync"] == proxies
        && status["proxies"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["types"].as_array().unwrap().len() == 4)
}

async fn an_edit_reaches_every_proxy(form: Form) {
    let kit = Kit::start(&[("services.yaml", SERVICES), ("route.yaml", &route(90, 10))]).await;
    let proxies: Vec<_> = (0..5)
        .map(|n| Proxy::connect(&format!("p{n}"), "shop", kit.addresses.xds, form))
        .collect();
    kit.api_until("/api/v1/status", |status| all_in_sync(status, 5))
        .await;
    for proxy in &proxies {
        assert_eq!(weights(proxy), [90, 10]);
        proxy.take_responses();
    }
    kit.write("route.yaml", &route(50, 50));
    let changes = kit
        .api_until("/api/v1/changes", |changes| {
            changes["changes"][0]["version"] == 2 && !changes["changes"][0]["ack_ms"].is_null()
        })
        .await;
    let change = &changes["changes"][0];
    assert_eq!(change["objects"], json!(["HTTPRoute/shop/reviews"]));
    assert_eq!(change["proxies"], 5);
    assert_eq!(change["acked"], 5);
    for proxy in &proxies {
        assert_eq!(weights(proxy), [50, 50]);
        // Only what changed moved.
        assert_eq!(proxy.take_responses(), [(TypeUrl::Route, 1)]);
    }
    let objects = kit.api("/api/v1/objects").await;
    let route = objects["objects"]
        .as_array()
        .unwrap()
        .iter()
        .find(|object| object["object"] == "HTTPRoute/shop/reviews")
        .unwrap();
    assert_eq!(route["file"], "route.yaml");
    assert_eq!(route["version"], 2);
    let conditions = route["parents"][0]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .all(|condition| condition["status"] == "True"),
        "{conditions:#?}"
    );
    assert_eq!(conditions[2]["message"], "5 of 5 proxies");
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_every_proxy_in_state_of_the_world() {
    an_edit_reaches_every_proxy(Form::Sotw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_every_proxy_in_delta() {
    an_edit_reaches_every_proxy(Form::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_keeps_the_last_good_state_and_heals() {
    let kit = Kit::start(&[("services.yaml", SERVICES), ("route.yaml", &route(90, 10))]).await;
    let proxy = Proxy::connect("p", "shop", kit.addresses.xds, Form::Delta);
    kit.api_until("/api/v1/status", |status| all_in_sync(status, 1))
        .await;
    kit.write(
        "route.yaml",
        &route(50, 50).replace("weight: 50", "wieght: 50"),
    );
    let status = kit
        .api_until("/api/v1/status", |s| {
            s["stale_files"] == json!(["route.yaml"])
        })
        .await;
    let finding = &status["findings"][0];
    assert_eq!(finding["file"], "route.yaml");
    assert_eq!(finding["line"], 9);
    assert_eq!(finding["object"], "HTTPRoute/shop/reviews");
    assert_eq!(finding["path"], "spec.rules[0].backendRefs[0].wieght");
    assert_eq!(status["version"], 1, "nothing changed for proxies");
    assert_eq!(weights(&proxy), [90, 10]);
    // The rest of the mesh still moves.
    kit.write("services.yaml", &SERVICES.replace("9081", "9082"));
    kit.api_until("/api/v1/changes", |c| {
        c["changes"][0]["version"] == 2 && c["changes"][0]["acked"] == 1
    })
    .await;
    kit.write("route.yaml", &route(0, 100));
    kit.api_until("/api/v1/changes", |c| {
        c["changes"][0]["version"] == 3 && c["changes"][0]["acked"] == 1
    })
    .await;
    assert_eq!(weights(&proxy), [0, 100]);
    assert_eq!(kit.api("/api/v1/status").await["findings"], json!([]));
    // A file that goes takes its objects with it: the service leads to its own endpoints.
    std::fs::remove_file(kit.path("route.yaml")).unwrap();
    kit.api_until("/api/v1/changes", |c| {
        c["changes"][0]["version"] == 4 && c["changes"][0]["acked"] == 1
    })
    .await;
    assert_eq!(weights(&proxy), [0; 0]);
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_with_its_reason_until_it_is_over() {
    let kit = Kit::start(&[("services.yaml", SERVICES), ("route.yaml", &route(90, 10))]).await;
    let good = Proxy::connect("good", "shop", kit.addresses.xds, Form::Sotw);
    let bad = Proxy::connect("bad", "shop", kit.addresses.xds, Form::Sotw);
    kit.api_until("/api/v1/status", |status| all_in_sync(status, 2))
        .await;
    let reason = "virtual_hosts[0].routes[0]: not in the mood";
    bad.state.lock().unwrap().refuse = Some((TypeUrl::Route, reason.to_owned()));
    kit.write("route.yaml", &route(50, 50));
    let changes = kit
        .api_until("/api/v1/changes", |c| {
            c["changes"][0]["rejected"] != json!([]) && c["changes"][0]["acked"] == 1
        })
        .await;
    let change = &changes["changes"][0];
    assert_eq!(
        change["rejected"],
        json!([{"proxy": "bad", "message": format!("RDS: {reason}")}])
    );
    assert!(change["ack_ms"].is_null());
    assert_eq!(weights(&good), [50, 50]);
    assert_eq!(weights(&bad), [90, 10]);
    let status = kit.api("/api/v1/status").await;
    assert_eq!(status["in_sync"], 1);
    assert_eq!(status["totals"]["nacks"], 1);
    assert_eq!(
        status["proxies"][0]["types"][3]["rejection"]["message"],
        reason
    );
    // Another change that does not touch routes does not wait for it.
    kit.write("services.yaml", &SERVICES.replace("9081", "9082"));
    kit.api_until("/api/v1/changes", |c| {
        c["changes"][0]["version"] == 3 && c["changes"][0]["pending"] == 0
    })
    .await;
    bad.state.lock().unwrap().refuse = None;
    kit.write("route.yaml", &route(0, 100));
    let changes = kit
        .api_until("/api/v1/changes", |c| {
            c["changes"][0]["version"] == 4 && c["changes"][0]["acked"] == 2
        })
        .await;
    assert_eq!(changes["changes"][0]["rejected"], json!([]));
    assert_eq!(weights(&bad), [0, 100]);
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_metrics_and_errors_are_plain() {
    let kit = Kit::start(&[("services.yaml", SERVICES)]).await;
    let (status, body) = kit::get(kit.addresses.metrics, "m", "/ready").await;
    assert_eq!((status, body.as_str()), (200, "ready\n"));
    let (_, metrics) = kit::get(kit.addresses.metrics, "m", "/metrics").await;
    assert!(
        metrics.contains("\noutrigger_control_plane_model_version 1\n"),
        "{metrics}"
    );
    let (status, body) = kit::get(kit.addresses.api, "a", "/api/v1/config?node=nobody").await;
    assert_eq!(status, 404);
    assert_eq!(
        body,
        r#"{"error":"no proxy with id 'nobody' is connected"}"#
    );
    let mut args = kit::args(kit.directory.path());
    args.data_dir = kit.directory.path().join("other");
    args.xds_port = kit.addresses.xds.port();
    let error = outrigger_control_plane::ControlPlane::start(&args)
        .await
        .unwrap_err();
    let port = args.xds_port;
    assert_eq!(
        format!("{error:#}"),
        format!(
            "--xds-port {port}: cannot listen on 127.0.0.1:{port}; choose another port, or 0 for \
             any free one: Address already in use (os error 98)"
        )
    );
    kit.stop().await;
}
