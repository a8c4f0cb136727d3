use std::sync::Arc;

use super::*;
use crate::{
    parse,
    translate::{Resource, ResourceMap, Translator},
};

const MESH: &str = "\
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{name: PORT, port: 90}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: ServiceAddresses
metadata: {name: a, namespace: shop}
spec: {addresses: [\"10.1.0.5:8080\"]}
---
apiVersion: outrigger.dev/v1alpha1
kind: ServiceAddresses
metadata: {name: b, namespace: shop}
spec: {addresses: [\"10.1.0.5:8080\", \"10.1.0.6:8080\"]}
";

fn model(text: &str) -> Arc<Model> {
    let parsed = parse::parse_file("mesh.yaml", text);
    assert!(parsed.is_valid(), "{:#?}", parsed.findings);
    let objects = parsed.objects.into_iter().map(|located| located.object);
    Arc::new(Model::build(1, objects))
}

fn node(addresses: &str) -> Node {
    let mut node = Node {
        id: "pod".to_owned(),
        cluster: String::new(),
        metadata: crate::scope::NodeMetadata {
            namespace: "shop".to_owned(),
            ..Default::default()
        },
    };
    let interception = serde_json::json!({ "addresses": addresses });
    node.metadata.interception = serde_json::from_value(interception).ok();
    node
}

fn served(text: &str) -> BTreeMap<u16, Served> {
    let node = node("10.1.0.5");
    let translator = Translator::new(model(text), None);
    translator.own(&node).served
}

#[test]
fn services_that_disagree_leave_a_port_open() {
    for (other, expected) in [
        ("http-b", AppProtocol::Http1),
        ("grpc", AppProtocol::Http1),
        ("web", AppProtocol::Auto),
        ("tcp", AppProtocol::Auto),
    ] {
        let served = served(&MESH.replace("PORT", other));
        let port = &served[&8080];
        assert_eq!(port.protocol, expected, "{other}");
        assert_eq!(port.services.len(), 2, "{other}");
        assert_eq!(port.addresses.len(), 1, "{other}");
    }
}

#[test]
fn only_listeners_of_what_changed_are_made_anew() {
    let profile = Profile::of(&node("10.1.0.5"));
    let scope = node("10.1.0.5").scope();
    let first = Translator::new(model(&MESH.replace("PORT", "http")), None);
    let before = first.frontends(&scope, &profile, None);
    let second = Translator::new(model(&MESH.replace("PORT", "tcp")), Some(&first));
    let after = second.frontends(&scope, &profile, Some((&first, &before)));
    let is_kept = |name: &str| {
        let body = |map: &ResourceMap| map.get(name).map(|Resource { body, .. }| Arc::clone(body));
        match (body(&before), body(&after)) {
            (Some(before), Some(after)) => Arc::ptr_eq(&before, &after),
            _ => false,
        }
    };
    assert!(is_kept("10.96.0.1_80"));
    assert!(!is_kept("10.96.0.2_90"));
    // What is taken over is what would be made.
    assert_eq!(after, second.frontends(&scope, &profile, None));
}

#[test]
fn a_pod_has_its_own_ports_and_not_those_of_others() {
    let node = node("10.1.0.6,fd00::6");
    let translator = Translator::new(model(&MESH.replace("PORT", "tcp")), None);
    let resources = translator.translate(&node);
    let names: Vec<&str> = resources.listeners.keys().map(|name| &**name).collect();
    assert_eq!(
        names,
        [
            "10.1.0.6_8080",
            "10.96.0.1_80",
            "10.96.0.2_90",
            "virtualInbound",
            "virtualInbound6",
            "virtualOutbound",
            "virtualOutbound6",
        ]
    );
    assert!(resources.clusters.contains_key("inbound|8080||"));
    // No requests arrive at a port that is declared not to be HTTP.
    assert!(!resources.routes.contains_key("inbound|8080"));
}
