//! Findings name file, line, object and path.

use super::*;

fn findings(text: &str) -> Vec<String> {
    parse_file("m.yaml", text)
        .findings
        .iter()
        .map(ToString::to_string)
        .collect()
}

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
";

#[test]
fn a_good_file_has_no_findings() {
    let parsed = parse_file(
        "m.yaml",
        &format!("---\n{ROUTE}  - backendRefs: [{{name: a, port: 80}}]\n---\n"),
    );
    assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
    assert_eq!(
        parsed.objects[0].object.reference().to_string(),
        "HTTPRoute/shop/r"
    );
}

#[test]
fn broken_yaml_is_reported_with_line_and_column() {
    assert_eq!(
        findings("apiVersion: v1\nkind: [Service\nmetadata: {}\n"),
        ["m.yaml:3:9: error: YAML: did not find expected ',' or ']'"]
    );
}

#[test]
fn unknown_kinds_and_versions_are_errors() {
    assert_eq!(
        findings("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"),
        [
            "m.yaml:2:1: error: kind: Deployment is not supported; supported are Service, \
          EndpointSlice, ServiceAddresses, HTTPRoute, ReferenceGrant, TrafficPolicy, Bulkhead, \
          RateLimitPolicy, FaultPolicy"
        ]
    );
    assert_eq!(
        findings("apiVersion: v2\nkind: Service\nmetadata: {name: web}\n"),
        [
            "m.yaml:1:1: error: Service/default/web: apiVersion: v2 of Service is not supported, use v1"
        ]
    );
    assert_eq!(
        findings("kind: Service\n"),
        ["m.yaml:1:1: error: missing field `apiVersion`"]
    );
    assert_eq!(
        findings("- a\n"),
        ["m.yaml:1:1: error: invalid type: sequence, expected struct Header"]
    );
}

#[test]
fn every_unknown_field_is_found_with_its_line() {
    let text = format!(
        "# first\n---\n{ROUTE}  - backendRefs:\n    - name: a\n      port: 80\n      wieght: 1\n    \
         mathces: []\n    timeouts: {{requset: 1s}}\n"
    );
    assert_eq!(
        findings(&text),
        [
            "m.yaml:12:7: error: HTTPRoute/shop/r: spec.rules[0].backendRefs[0].wieght: unknown field",
            "m.yaml:13:5: error: HTTPRoute/shop/r: spec.rules[0].mathces: unknown field",
            "m.yaml:14:16: error: HTTPRoute/shop/r: spec.rules[0].timeouts.requset: unknown field",
        ]
    );
}

#[test]
fn wrong_types_are_found_with_their_path() {
    let text = format!("{ROUTE}  - backendRefs: [{{name: a, port: http}}]\n");
    let found = findings(&text);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with(
            "m.yaml:7:29: error: HTTPRoute/shop/r: spec.rules[0].backendRefs[0].port: invalid type"
        ),
        "{found:?}"
    );
}

#[test]
fn values_that_the_api_server_would_refuse_are_errors() {
    for (rule, expected) in [
        (
            "backendRefs: [{name: a}]",
            "spec.rules[0].backendRefs[0].port: a reference to a Service needs a port",
        ),
        (
            "backendRefs: [{name: a, port: 80, weight: -1}]",
            "spec.rules[0].backendRefs[0].weight: -1 is not in 0..1000000",
        ),
        (
            "backendRefs: [{name: a, port: 70000}]",
            "spec.rules[0].backendRefs[0].port: 70000 is not in 1..65535",
        ),
        (
            "matches: [{path: {type: Exact, value: shop}}]",
            "spec.rules[0].matches[0].path.value: 'shop' must start with '/'",
        ),
        (
            "matches: [{path: {value: /a//b}}]",
            "spec.rules[0].matches[0].path.value: '/a//b' must not contain '//'",
        ),
        (
            "matches: [{headers: [{name: 'a b', value: x}]}]",
            "spec.rules[0].matches[0].headers[0].name: 'a b' is not a valid name",
        ),
        (
            "timeouts: {request: 5}",
            "spec.rules[0].timeouts.request: invalid type: integer `5`, expected a string",
        ),
        (
            "timeouts: {request: 5x}",
            "spec.rules[0].timeouts.request: '5x' is not a duration such as 1m30s or 250ms",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            "spec.rules[0].timeouts.backendRequest: cannot be longer than timeouts.request",
        ),
        (
            "filters: [{type: RequestRedirect}]",
            "spec.rules[0].filters[0].requestRedirect: missing for type RequestRedirect",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {}, cors: {}}]",
            "spec.rules[0].filters[0].cors: does not belong to type URLRewrite",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]",
            "spec.rules[0].filters[0].requestRedirect.statusCode: 304 is not one of 301, 302, 303, 307, 308",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]}",
            "spec.rules[0].backendRefs: a rule with RequestRedirect cannot have backends",
        ),
        (
            "{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: \
             {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}",
            "spec.rules[0].filters: ReplacePrefixMatch needs exactly one match, of type PathPrefix",
        ),
    ] {
        let found = findings(&format!("{ROUTE}  - {rule}\n"));
        assert!(
            found
                .iter()
                .any(|f| f.contains("error")
                    && f.ends_with(&format!("HTTPRoute/shop/r: {expected}"))),
            "{rule}: {found:#?}"
        );
    }
    for (pattern, reason) in [
        ("/(a", "unclosed group"),
        // What the library would take and RE2 has not.
        ("/x{1001}", "invalid repetition size: {1001}"),
    ] {
        let found = findings(&format!(
            "{ROUTE}  - matches: [{{path: {{type: RegularExpression, value: '{pattern}'}}}}]\n"
        ));
        let expected = format!("'{pattern}' is not a valid regular expression: {reason}");
        assert!(found[0].contains(&expected), "{found:?}");
    }
}

#[test]
fn services_and_addresses_are_checked() {
    for (text, expected) in [
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 0}]}}",
            "Service/default/a: spec.ports[0].port: 0 is not in 1..65535",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}, {port: 2, name: b}]}}",
            "Service/default/a: spec.ports[0].name: needed when there are several ports",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: A_b}, spec: {ports: [{port: 1}]}}",
            "metadata.name: 'A_b' is not valid: use lower case letters, digits, '-' and '.'",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: web.shop}, spec: {ports: [{port: 1}]}}",
            "metadata.name: 'web.shop' is not a valid name of a Service: use at most 63 lower case letters, digits and '-'",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b.c}, spec: {ports: [{port: 1}]}}",
            "metadata.namespace: 'b.c' is not a valid namespace name",
        ),
        (
            "{apiVersion: outrigger.dev/v1alpha1, kind: ServiceAddresses, metadata: {name: a}, spec: {addresses: [localhost:80]}}",
            "spec.addresses[0]: 'localhost:80' is not an IP address with a port, such as 10.0.0.7:8080",
        ),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, addressType: IPv4, endpoints: []}",
            "metadata.labels: the label kubernetes.io/service-name is missing",
        ),
    ] {
        let found = findings(text);
        assert!(
            found.iter().any(|finding| finding.ends_with(expected)),
            "{text}: {found:#?}"
        );
    }
}

#[test]
fn what_has_no_effect_draws_a_warning_and_is_used() {
    let parsed = parse_file(
        "m.yaml",
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {sessionAffinity: ClientIP, ports: [{port: 1}]}}",
    );
    assert!(parsed.is_valid());
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.findings[0].severity, Severity::Warning);
    assert_eq!(parsed.findings[0].path, "spec.sessionAffinity");
}

fn service(name: &str, port: u16) -> ParsedFile {
    parse_file(
        "unused",
        &format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: {port}}}]}}}}"
        ),
    )
}

fn in_force(files: &FileSet) -> Vec<String> {
    files
        .origins()
        .iter()
        .map(|(object, file)| format!("{} from {file}", object.id.name))
        .collect()
}

#[test]
fn a_broken_file_keeps_its_last_good_objects_until_it_heals_or_goes() {
    let mut files = FileSet::default();
    files.update([("a.yaml".to_owned(), Some(service("one", 1)))]);
    files.update([
        ("a.yaml".to_owned(), Some(parse_file("a.yaml", "kind: ["))),
        ("b.yaml".to_owned(), Some(service("two", 2))),
    ]);
    assert_eq!(in_force(&files), ["one from a.yaml", "two from b.yaml"]);
    assert!(files.files()["a.yaml"].is_stale());
    assert_eq!(files.findings().count(), 1);
    files.update([("a.yaml".to_owned(), Some(service("three", 3)))]);
    assert_eq!(in_force(&files), ["three from a.yaml", "two from b.yaml"]);
    assert_eq!(files.findings().count(), 0);
    files.update([("a.yaml".to_owned(), None)]);
    assert_eq!(in_force(&files), ["two from b.yaml"]);
}

#[test]
fn the_same_object_in_two_files_is_an_error_of_the_newcomer() {
    let mut files = FileSet::default();
    files.update([("b.yaml".to_owned(), Some(service("one", 1)))]);
    files.update([("a.yaml".to_owned(), Some(service("one", 2)))]);
    assert_eq!(in_force(&files), ["one from b.yaml"]);
    let found: Vec<_> = files.findings().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["a.yaml: error: Service/default/one: metadata.name: already defined in b.yaml"]
    );
    // It moves when the other gives it up.
    files.update([("b.yaml".to_owned(), Some(service("two", 1)))]);
    assert_eq!(in_force(&files), ["one from a.yaml", "two from b.yaml"]);
}

#[test]
fn an_object_that_a_broken_file_still_holds_stays_there() {
    let mut files = FileSet::default();
    files.update([
        ("a.yaml".to_owned(), Some(service("one", 1))),
        ("b.yaml".to_owned(), Some(service("two", 1))),
    ]);
    // `two` moves to a.yaml, but b.yaml breaks in the same moment and keeps it.
    files.update([
        ("a.yaml".to_owned(), Some(service("two", 1))),
        ("b.yaml".to_owned(), Some(parse_file("b.yaml", "kind: ["))),
    ]);
    assert_eq!(in_force(&files), ["one from a.yaml", "two from b.yaml"]);
    files.update([("b.yaml".to_owned(), None)]);
    assert_eq!(in_force(&files), ["two from a.yaml"]);
}
