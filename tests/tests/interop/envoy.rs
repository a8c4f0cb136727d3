//! Envoy and `outrigger-proxy` under our control plane at the same time: the same mesh, the same
//! answers, from both forms of xDS.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::{Request, Response};
use outrigger_tests::mesh::{ControlPlane, Sidecar, objects};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::Upstream;
use serde_json::Value;

use crate::check;

#[test]
fn mesh_steers_both_state_of_the_world() {
    check(Kind::Envoy, false, || compare(false));
}

#[test]
fn mesh_steers_both_delta() {
    check(Kind::Envoy, true, || compare(true));
}

/// Rules of the service `web`; `a` and `b` answer, `missing` is not there. A route has at most 16.
const RULES: &str = r#"
  - matches: [{path: {value: /weights}}]
    backendRefs:
    - {name: a, port: 80, weight: 3}
    - {name: b, port: 80, weight: 1}
  - matches: [{path: {value: /none-to-a}}]
    backendRefs:
    - {name: a, port: 80, weight: 0}
    - {name: b, port: 80, weight: 7}
  - matches: [{path: {value: /partly-invalid}}]
    backendRefs:
    - {name: a, port: 80, weight: 1}
    - {name: missing, port: 80, weight: 1}
  - matches: [{path: {value: /invalid}}]
    backendRefs: [{name: missing, port: 80}]
  - matches: [{path: {value: /no-backends}}]
  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {type: RegularExpression, value: "/regex/[0-9]+"}}]
    backendRefs: [{name: b, port: 80}]
  - matches:
    - path: {value: /conditions}
      method: POST
      headers: [{name: x-tier, value: gold}]
      queryParams: [{name: page, value: "1"}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {value: /conditions}, headers: [{name: x-tier, type: RegularExpression, value: "g.*"}]}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-set, value: "100%"}]
        add: [{name: x-add, value: added}]
        remove: [x-gone]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: cache-control, value: no-store}]
        add: [{name: x-rule, value: rule}]
        remove: [x-secret]
    backendRefs:
    - name: a
      port: 80
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: {set: [{name: x-set, value: backend}]}
      - type: ResponseHeaderModifier
        responseHeaderModifier: {add: [{name: x-backend, value: a}]}
"#;

/// More of them, in a second route.
const MORE_RULES: &str = r#"
  - matches: [{path: {value: /redirect}}]
    filters:
    - type: RequestRedirect
      requestRedirect:
        scheme: https
        hostname: example.com
        port: 8443
        path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}
        statusCode: 301
  - matches: [{path: {value: /moved}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /there}}
  - matches: [{path: {value: /rewrite}}]
    filters:
    - type: URLRewrite
      urlRewrite:
        hostname: inner.example.com
        path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {value: /strip}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {type: Exact, value: /full}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /slow}}]
    backendRefs: [{name: a, port: 80}]
    timeouts: {request: 200ms}
  - matches: [{path: {value: /unlimited}}]
    backendRefs: [{name: a, port: 80}]
    timeouts: {request: 0s}
"#;

/// Requests whose answers do not depend on chance: name, request.
fn requests() -> Vec<Request> {
    let web = |method: &str, path: &str| Request {
        authority: "web".to_owned(),
        ..Request::new(method, path)
    };
    let get = |path: &str| web("GET", path);
    let script = |path: &str, script: &str| get(path).header("x-upstream-script", script);
    let at = |authority: &str| Request {
        authority: authority.to_owned(),
        ..Request::new("GET", "/exact")
    };
    vec![
        get("/none-to-a"),
        get("/invalid"),
        get("/no-backends"),
        get("/nothing-matches"),
        get("/exact"),
        get("/exact/"),
        get("/exact?query=1"),
        get("/regex/42"),
        get("/regex/4x"),
        web("POST", "/conditions?page=1").header("x-tier", "gold"),
        web("POST", "/conditions?page=2").header("x-tier", "gold"),
        get("/conditions").header("x-tier", "green"),
        get("/conditions").header("x-tier", "silver"),
        get("/headers")
            .header("x-gone", "1")
            .header("x-add", "mine")
            .header("x-set", "mine"),
        script(
            "/headers",
            r#"{"headers": [["x-secret", "1"], ["x-rule", "own"]]}"#,
        ),
        get("/redirect/page?x=1"),
        get("/redirect"),
        get("/moved/away"),
        get("/rewrite/it?x=1"),
        get("/rewrite"),
        get("/strip/this"),
        get("/strip"),
        get("/full"),
        script("/slow", r#"{"delay_ms": 2000}"#),
        script("/slow", r#"{"status": 418}"#),
        script("/unlimited", r#"{"delay_ms": 300}"#),
        at("web.shop"),
        at("web.shop.svc.cluster.local"),
        at("web:80"),
        at("WEB.shop.svc"),
        at("web:81"),
        at("unknown.example"),
        at("a"),
        at("empty"),
    ]
}

async fn compare(delta: bool) -> Result<()> {
    let (a, b) = (Upstream::start("a").await?, Upstream::start("b").await?);
    let services = [
        objects::front("web"),
        objects::front("empty"),
        objects::service("a", &[a.address()]),
        objects::service("b", &[b.address()]),
    ];
    let control_plane = ControlPlane::start(&[
        ("services.yaml", services.concat()),
        (
            "routes.yaml",
            objects::route("web", RULES.trim_start_matches('\n')),
        ),
        (
            "more.yaml",
            objects::named_route("more", "web", MORE_RULES.trim_start_matches('\n')),
        ),
    ])
    .await?;
    let findings = &control_plane.api("status").await?["findings"];
    ensure!(
        findings.as_array().is_some_and(Vec::is_empty),
        "{findings:#}"
    );
    let mut envoy = Sidecar::new(Kind::Envoy, delta, "envoy").outbound();
    let mut ours = Sidecar::new(Kind::Outrigger, delta, "ours").outbound();
    envoy.start(&control_plane).await?;
    ours.start(&control_plane).await?;
    control_plane.in_sync(2).await?;
    let envoy_address = envoy.outbound_address().await?;
    let our_address = ours.outbound_address().await?;

    let mut differences = Vec::new();
    for request in requests() {
        let what = format!("{} {}{}", request.method, request.authority, request.path);
        let expected = outcome(request.clone().send_h1(envoy_address).await?);
        let found = outcome(request.send_h1(our_address).await?);
        if expected != found {
            differences.push(format!(
                "{what}\n  envoy: {expected:#?}\n  ours: {found:#?}"
            ));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));

    for address in [envoy_address, our_address] {
        near(
            shares(address, "/weights").await?,
            &[("200 a", 0.75), ("200 b", 0.25)],
        )?;
        near(
            shares(address, "/partly-invalid").await?,
            &[("200 a", 0.5), ("500 ", 0.5)],
        )?;
    }
    status(&control_plane, &envoy, &ours, delta).await
}

/// The status API: both took everything, and each is told apart.
async fn status(
    control_plane: &ControlPlane,
    envoy: &Sidecar,
    ours: &Sidecar,
    delta: bool,
) -> Result<()> {
    let status = control_plane.api("status").await?;
    ensure!(status["totals"]["nacks"] == 0, "{status:#}");
    ensure!(status["in_sync"] == 2, "{status:#}");
    for (sidecar, agent) in [(envoy, "envoy 1.40"), (ours, "outrigger")] {
        let proxy = control_plane.proxy(sidecar.id(), |_| true).await?;
        let is = proxy["agent"].as_str().unwrap_or_default();
        ensure!(is.starts_with(agent), "{proxy:#}");
        ensure!(
            proxy["form"] == if delta { "delta" } else { "sotw" },
            "{proxy:#}"
        );
        let types = proxy["types"].as_array().context("types")?;
        let kinds: Vec<&str> = types
            .iter()
            .filter_map(|entry| entry["type"].as_str())
            .collect();
        ensure!(kinds == ["CDS", "EDS", "LDS", "RDS"], "{proxy:#}");
        for entry in types {
            ensure!(entry["version_sent"] == entry["version_acked"], "{proxy:#}");
            ensure!(entry["rejection"].is_null(), "{proxy:#}");
        }
    }
    Ok(())
}

/// What of an answer must be the same: status, headers, body, and what the upstream received.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: u16,
    headers: Vec<(String, String)>,
    body: Value,
}

fn outcome(reply: Response) -> Outcome {
    let body = serde_json::from_slice::<Value>(&reply.body);
    let mut body = body.unwrap_or_else(|_| reply.text().into());
    if let Some(received) = body.get_mut("headers") {
        let pairs = serde_json::from_value(received.take()).unwrap_or_default();
        *received = serde_json::to_value(comparable(pairs)).unwrap_or_default();
    }
    Outcome {
        status: reply.status,
        headers: comparable(reply.headers),
        body,
    }
}

/// Sorted, without values that differ between any two requests.
fn comparable(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.retain(|(name, _)| name != "x-outrigger-reason");
    for (name, value) in &mut headers {
        if [
            "date",
            "content-length",
            "x-request-id",
            "x-envoy-upstream-service-time",
        ]
        .contains(&name.as_str())
        {
            value.clear();
        }
    }
    headers.sort();
    headers
}

/// How 400 requests to a path are answered: shares by status and upstream.
async fn shares(address: SocketAddr, path: &str) -> Result<BTreeMap<String, f64>> {
    let mut connection = outrigger_tests::client::Http1::connect(address).await?;
    let mut shares = BTreeMap::new();
    for _ in 0..400 {
        let request = Request {
            authority: "web".to_owned(),
            ..Request::new("GET", path)
        };
        let reply = connection.send(request).await?;
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let upstream = body["upstream"].as_str().unwrap_or_default();
        *shares
            .entry(format!("{} {upstream}", reply.status))
            .or_default() += 1.0 / 400.0;
    }
    Ok(shares)
}

fn near(shares: BTreeMap<String, f64>, expected: &[(&str, f64)]) -> Result<()> {
    ensure!(
        shares.len() == expected.len(),
        "{shares:?} instead of {expected:?}"
    );
    for (answer, expected) in expected {
        let share = shares.get(*answer).copied().unwrap_or_default();
        // Six standard deviations.
        let tolerance = 6.0 * (expected * (1.0 - expected) / 400.0).sqrt();
        ensure!(
            (share - expected).abs() <= tolerance,
            "{shares:?}: {answer} is not {expected}"
        );
    }
    Ok(())
}
