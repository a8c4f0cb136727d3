//! The mesh's files, as a user would write them. All objects are in the namespace `shop`.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// A Service with port 80, and its addresses.
pub fn service(name: &str, addresses: &[SocketAddr]) -> String {
    let list: Vec<String> = addresses
        .iter()
        .map(|address| format!("\"{address}\""))
        .collect();
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: outrigger.dev/v1alpha1
kind: ServiceAddresses
metadata: {{name: {name}, namespace: shop}}
spec: {{addresses: [{}]}}
",
        list.join(", ")
    )
}

/// A Service without addresses, whose requests go where routes send them.
pub fn front(name: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{name: http, port: 80}}]}}
"
    )
}

/// An HTTPRoute of the service `name` that splits all requests by weights.
pub fn split(name: &str, weights: &[(&str, u32)]) -> String {
    let mut text = route(name, "");
    text.push_str("  - backendRefs:\n");
    for (backend, weight) in weights {
        // Writing to a String does not fail.
        _ = writeln!(
            text,
            "    - {{name: {backend}, port: 80, weight: {weight}}}"
        );
    }
    text
}

/// An HTTPRoute of the service `name` with those rules, indented as `spec.rules` needs it.
pub fn route(name: &str, rules: &str) -> String {
    named_route(name, name, rules)
}

/// The same under another name, since a service may have several.
pub fn named_route(name: &str, service: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs:
  - {{group: \"\", kind: Service, name: {service}}}
  rules:
{rules}"
    )
}
