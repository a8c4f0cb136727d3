//! How long a change takes to reach many proxies, and what a large mesh costs. Ignored by default:
//! these measure. Run with optimised code:
//!
//! `cargo test -p outrigger-control-plane --profile quick --test scale -- --ignored --nocapture`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

mod kit;

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use kit::{Kit, proxy::Proxy};
use outrigger_mesh::{Model, Translator, parse, scope::Scope};
use outrigger_xds::Form;
use serde_json::Value;

/// `services` services with `endpoints` addresses each, and one route.
fn mesh(services: usize, endpoints: usize) -> String {
    let mut text = String::new();
    for service in 0..services {
        let addresses: Vec<_> = (0..endpoints)
            .map(|n| format!("'10.{}.{}.{}:8080'", service / 250, service % 250, n + 1))
            .collect();
        write!(
            text,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{service}, namespace: shop}}, \
             spec: {{ports: [{{port: 80}}]}}}}\n---\n\
             {{apiVersion: outrigger.dev/v1alpha1, kind: ServiceAddresses, \
             metadata: {{name: s{service}, namespace: shop}}, spec: {{addresses: [{}]}}}}\n",
            addresses.join(", ")
        )
        .unwrap();
    }
    text
}

fn route(weight: usize) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, \
         metadata: {{name: r, namespace: shop}}, spec: {{parentRefs: [{{group: '', kind: Service, \
         name: s0}}], rules: [{{backendRefs: [{{name: s1, port: 80, weight: {weight}}}, \
         {{name: s2, port: 80, weight: {}}}]}}]}}}}",
        100 - weight
    )
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

async fn edits(form: Form, proxies: usize, services: usize, endpoints: usize) -> Vec<f64> {
    let kit = Kit::start(&[
        ("mesh.yaml", &mesh(services, endpoints)),
        ("route.yaml", &route(0)),
    ])
    .await;
    let start = Instant::now();
    let connected: Vec<_> = (0..proxies)
        .map(|n| Proxy::connect(&format!("p{n}"), "shop", kit.addresses.xds, form))
        .collect();
    let in_sync = |status: &Value| {
        status["in_sync"] == proxies
            && status["proxies"]
                .as_array()
                .unwrap()
                .iter()
                .all(|p| p["types"].as_array().unwrap().len() == 4)
    };
    // The answer is large: asking seldom leaves the machine to the work.
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if in_sync(&kit.api("/api/v1/status").await) {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "proxies do not get in sync"
        );
    }
    println!(
        "{form}: {proxies} proxies, {services} services: in sync after {:?}",
        start.elapsed()
    );
    let mut took = Vec::new();
    for edit in 1..=5 {
        kit.write("route.yaml", &route(edit * 10));
        let version = edit + 1;
        let changes = kit
            .api_until("/api/v1/changes", |changes| {
                let change = &changes["changes"][0];
                change["version"] == version && !change["ack_ms"].is_null()
            })
            .await;
        assert_eq!(changes["changes"][0]["acked"], proxies);
        took.push(changes["changes"][0]["ack_ms"].as_f64().unwrap());
    }
    println!(
        "{form}: edit to last ACK, ms: {took:.0?}; RSS with clients {:.0} MiB",
        resident_mib()
    );
    drop(connected);
    kit.stop().await;
    took
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn a_weight_change_reaches_500_proxies_within_a_second() {
    for form in [Form::Delta, Form::Sotw] {
        let took = edits(form, 500, 20, 3).await;
        assert!(took.iter().all(|ms| *ms < 1000.0), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn a_weight_change_in_a_mesh_of_1000_services() {
    edits(Form::Delta, 50, 1000, 10).await;
}

#[test]
#[ignore = "measures"]
fn a_mesh_of_1000_services_is_translated_in_reasonable_time_and_memory() {
    let before = resident_mib();
    let text = mesh(1000, 10);
    let timed = |what: &str, start: Instant| println!("{what}: {:?}", start.elapsed());
    let start = Instant::now();
    let parsed = parse::parse_file("mesh.yaml", &text);
    timed("parse 1000 services x 10 endpoints", start);
    let objects: Vec<_> = parsed
        .objects
        .into_iter()
        .map(|located| located.object)
        .collect();
    let start = Instant::now();
    let model = Arc::new(Model::build(1, objects.iter().cloned()));
    timed("build the model", start);
    let start = Instant::now();
    let translator = Translator::new(model, None);
    timed("translate clusters and endpoints", start);
    let start = Instant::now();
    let resources = translator.scope(&Scope::all("shop"));
    timed("translate routes of one scope", start);
    let start = Instant::now();
    let model = Arc::new(Model::build(2, objects));
    let next = Translator::new(model, Some(&translator));
    drop(next.scope(&Scope::all("shop")));
    timed(
        "the next version, with what did not change taken over",
        start,
    );
    let bytes: usize = [&resources.clusters, &resources.endpoints, &resources.routes]
        .into_iter()
        .flat_map(|map| map.values())
        .map(|resource| resource.body.len())
        .sum();
    assert_eq!(resources.endpoints.len(), 1000);
    println!(
        "resources: {:.1} MiB; RSS {before:.0} → {:.0} MiB",
        bytes as f64 / f64::from(1 << 20),
        resident_mib()
    );
}
