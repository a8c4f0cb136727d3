//! Whatever the weights, each backend keeps its share of the rule.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

use std::sync::Arc;

use outrigger_mesh::{Model, Translator, parse, scope::Scope};
use outrigger_proto::envoy::config::route::v3::{
    RouteConfiguration, route::Action, route_action::ClusterSpecifier,
};
use proptest::prelude::*;
use prost::Message;

/// The share of a cluster that is named, and of everything that answers 500.
fn shares(weights: &[(u32, bool)]) -> (Vec<(String, f64)>, f64) {
    let mut text = String::from(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}\n",
    );
    let mut backends = String::new();
    for (index, (weight, exists)) in weights.iter().enumerate() {
        if *exists {
            text += &format!(
                "---\n{{apiVersion: v1, kind: Service, metadata: {{name: b{index}}}, \
                 spec: {{ports: [{{port: 80}}]}}}}\n"
            );
        }
        backends += &format!("  - {{name: b{index}, port: 80, weight: {weight}}}\n");
    }
    text += &format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n\
         \x20 - backendRefs:\n{}",
        backends.replace("  -", "    -")
    );
    let parsed = parse::parse_file("mesh.yaml", &text);
    assert!(parsed.is_valid(), "{:?}\n{text}", parsed.findings);
    let model = Model::build(1, parsed.objects.into_iter().map(|located| located.object));
    let resources = Translator::new(Arc::new(model), None).scope(&Scope::all("default"));
    let routes = resources.routes.values().next().unwrap();
    let routes = RouteConfiguration::decode(&*routes.body).unwrap();
    let host = routes
        .virtual_hosts
        .iter()
        .find(|host| host.name.starts_with("web."))
        .unwrap();
    let [route] = host.routes.as_slice() else {
        panic!("one rule, one route")
    };
    let exists = |name: &str| resources.clusters.contains_key(name);
    match route.action.as_ref().unwrap() {
        Action::DirectResponse(response) => {
            assert_eq!(response.status, 500);
            (Vec::new(), 1.0)
        }
        Action::Route(action) => match action.cluster_specifier.as_ref().unwrap() {
            ClusterSpecifier::Cluster(name) => {
                assert!(exists(name), "{name}");
                (vec![(name.clone(), 1.0)], 0.0)
            }
            ClusterSpecifier::WeightedClusters(weighted) => {
                let weight = |cluster: &outrigger_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight| {
                    f64::from(cluster.weight.unwrap().value)
                };
                let total: f64 = weighted.clusters.iter().map(weight).sum();
                let (good, bad): (Vec<_>, Vec<_>) = weighted
                    .clusters
                    .iter()
                    .partition(|cluster| exists(&cluster.name));
                let failing = bad.iter().map(|cluster| weight(cluster)).sum::<f64>() / total;
                if failing > 0.0 {
                    assert_eq!(action.cluster_not_found_response_code, 2, "500");
                }
                let good = good
                    .iter()
                    .map(|c| (c.name.clone(), weight(c) / total))
                    .collect::<Vec<_>>();
                (good, failing)
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn shares_are_those_of_the_weights(
        weights in prop::collection::vec((0u32..=1_000_000, prop::bool::weighted(0.8)), 1..=16)
    ) {
        let (good, failing) = shares(&weights);
        let total: f64 = weights.iter().map(|(weight, _)| f64::from(*weight)).sum();
        let mut expected_failing = if total == 0.0 { 1.0 } else { 0.0 };
        for (index, (weight, exists)) in weights.iter().enumerate() {
            let share = if total == 0.0 { 0.0 } else { f64::from(*weight) / total };
            let name = format!("outbound|80||b{index}.default.svc.cluster.local");
            let actual =
                good.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, share)| *share);
            if *exists {
                prop_assert!((actual - share).abs() < 1e-9, "{name}: {actual} is not {share}");
            } else {
                expected_failing += share;
            }
        }
        prop_assert!((failing - expected_failing).abs() < 1e-9, "{failing} {expected_failing}");
    }
}
