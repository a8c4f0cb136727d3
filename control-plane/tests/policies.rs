//! Policies by way of the real control plane: a fault ends by itself, and a restart does not
//! prolong it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

mod kit;

use kit::{Kit, proxy::Proxy};
use outrigger_proto::envoy::config::route::v3::RouteConfiguration;
use outrigger_xds::{Form, TypeUrl};
use prost::Message;
use serde_json::Value;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {ports: [{port: 9080}]}
";

fn fault(ttl: &str) -> String {
    format!(
        "
apiVersion: outrigger.dev/v1alpha1
kind: FaultPolicy
metadata: {{name: slow, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: reviews}}]
  ttl: {ttl}
  delay: {{duration: 1s, percent: 100}}
"
    )
}

/// Which filters are switched on for the service.
fn filters(proxy: &Proxy) -> Vec<String> {
    let held = proxy.held();
    let Some(body) = held.get(&(TypeUrl::Route, "outbound".to_owned())) else {
        return Vec::new();
    };
    let routes = RouteConfiguration::decode(&**body).unwrap();
    let host = &routes.virtual_hosts[0];
    host.typed_per_filter_config.keys().cloned().collect()
}

fn conditions<'a>(objects: &'a Value, name: &str) -> &'a Value {
    let objects = objects["objects"].as_array().unwrap();
    let object = objects
        .iter()
        .find(|object| object["object"] == name)
        .unwrap();
    &object["parents"][0]["conditions"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_ends_by_itself_and_says_so() {
    let kit = Kit::start(&[("services.yaml", SERVICE), ("fault.yaml", &fault("3s"))]).await;
    let proxy = Proxy::connect("p1", "shop", kit.addresses.xds, Form::Delta);
    kit.api_until("/api/v1/status", |status| status["in_sync"] == 1)
        .await;
    assert_eq!(filters(&proxy), ["envoy.filters.http.fault"]);
    let objects = kit.api("/api/v1/objects").await;
    let accepted = &conditions(&objects, "FaultPolicy/shop/slow")[0];
    assert_eq!(accepted["status"], "True", "{accepted}");
    assert!(
        accepted["message"].as_str().unwrap().starts_with("until "),
        "{accepted}"
    );

    let expired =
        |objects: &Value| conditions(objects, "FaultPolicy/shop/slow")[0]["reason"] == "Expired";
    let objects = kit.api_until("/api/v1/objects", expired).await;
    let [accepted, programmed] = conditions(&objects, "FaultPolicy/shop/slow")
        .as_array()
        .unwrap()
        .as_slice()
    else {
        panic!("{objects:#}")
    };
    assert_eq!(accepted["status"], "False");
    assert_eq!(programmed["reason"], "NotAccepted");
    kit.api_until("/api/v1/status", |status| {
        status["version"] == 2 && status["in_sync"] == 1
    })
    .await;
    assert!(filters(&proxy).is_empty());
    // An edit elsewhere does not wake it up again; an edit that prolongs it does, from its beginning.
    kit.write("fault.yaml", &fault("1h"));
    kit.api_until("/api/v1/objects", |objects| !expired(objects))
        .await;
    kit.api_until("/api/v1/status", |status| {
        status["version"] == 3 && status["in_sync"] == 1
    })
    .await;
    assert_eq!(filters(&proxy), ["envoy.filters.http.fault"]);
    kit.stop().await;
}
