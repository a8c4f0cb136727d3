//! Real Envoy, configured by our control plane over ADS in both forms, routes as the Gateway API
//! says. Skipped, and said so, where Envoy is not installed under `target/venv`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

mod kit;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use axum::{
    Router,
    http::{HeaderMap, Uri},
};
use kit::{Kit, request};
use outrigger_mesh::{
    bootstrap::{OTLP_CLUSTER, Sidecar},
    scope::{Inbound, InboundProtocol, Interception, Mode, NodeMetadata, OutboundPolicy, Tracing},
};

/// Ends Envoy with the test.
struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn envoy_binary() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/lib");
    std::fs::read_dir(venv).ok()?.flatten().find_map(|entry| {
        let binary = entry.path().join("site-packages/envoy/_bin/envoy");
        binary.is_file().then_some(binary)
    })
}

/// A workload that tells who it is and what it got.
async fn workload(name: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(move |uri: Uri, headers: HeaderMap| async move {
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or("-")
                .to_owned()
        };
        if uri.path().ends_with("/slow") {
            tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        }
        format!(
            "{name} {} host={} x-set={}",
            uri,
            header("host"),
            header("x-set")
        )
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A port that no other test of this program is given: Envoy shares ports with whoever else asks
/// for them.
async fn free_port() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address.port()) {
            return address;
        }
    }
}

fn mesh(v1: SocketAddr, v2: SocketAddr, weights: (u32, u32)) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: shop}}
spec: {{ports: [{{port: 9080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: v1, namespace: shop}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: v2, namespace: shop}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: outrigger.dev/v1alpha1
kind: ServiceAddresses
metadata: {{name: v1, namespace: shop}}
spec: {{addresses: ["{v1}"]}}
---
apiVersion: outrigger.dev/v1alpha1
kind: ServiceAddresses
metadata: {{name: v2, namespace: shop}}
spec: {{addresses: ["{v2}"]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: reviews, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: reviews}}]
  rules:
  - matches: [{{path: {{value: /split}}}}]
    backendRefs: [{{name: v1, port: 80, weight: {}}}, {{name: v2, port: 80, weight: {}}}]
  - matches: [{{path: {{value: /half}}}}]
    backendRefs: [{{name: v1, port: 80}}, {{name: missing, port: 80}}]
  - matches: [{{path: {{value: /none}}}}]
    backendRefs: [{{name: missing, port: 80}}]
  - matches: [{{path: {{value: /strip}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{hostname: inner.example, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}]
    backendRefs: [{{name: v1, port: 80}}]
  - matches: [{{path: {{value: /prefix}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}}}]
    backendRefs: [{{name: v1, port: 80}}]
  - matches: [{{path: {{type: Exact, value: /full}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: /one}}}}}}]
    backendRefs: [{{name: v1, port: 80}}]
  - matches: [{{path: {{value: /away}}}}]
    filters: [{{type: RequestRedirect, requestRedirect: {{scheme: https, hostname: example.com, statusCode: 301, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}}}]
  - matches: [{{path: {{value: /headers}}}}]
    filters:
    - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: X-Set, value: "rule 100%"}}]}}}}
    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: X-Rule, value: "yes"}}]}}}}
    backendRefs:
    - name: v1
      port: 80
      filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: X-Set, value: "backend 100%"}}]}}}}]
  - matches: [{{path: {{value: /limit}}}}]
    backendRefs: [{{name: v1, port: 80}}]
    timeouts: {{request: 200ms}}
  - matches:
    - path: {{type: RegularExpression, value: "/item/[0-9]+"}}
      method: GET
      headers: [{{name: X-Tier, type: RegularExpression, value: "g.*"}}]
      queryParams: [{{name: page, value: "1"}}]
    backendRefs: [{{name: v2, port: 80}}]
"#,
        weights.0, weights.1
    )
}

struct Sidecars {
    outbound: SocketAddr,
    inbound: SocketAddr,
    _envoy: Envoy,
}

async fn start_envoy(kit: &Kit, binary: &Path, app: SocketAddr, delta: bool) -> Sidecars {
    let (outbound, inbound) = (free_port().await, free_port().await);
    let metadata = NodeMetadata {
        service: "client".to_owned(),
        outbound: Some(outbound),
        inbound: vec![Inbound {
            listen: inbound,
            app,
            protocol: InboundProtocol::Auto,
        }],
        ..NodeMetadata::default()
    };
    Sidecars {
        outbound,
        inbound,
        _envoy: envoy(kit, binary, metadata, delta),
    }
}

/// Starts Envoy as a proxy of the namespace `shop`, with spans and an access log.
fn envoy(kit: &Kit, binary: &Path, metadata: NodeMetadata, delta: bool) -> Envoy {
    let log = kit.directory.path().join("access.log");
    let sidecar = Sidecar {
        id: "envoy".to_owned(),
        cluster: "client".to_owned(),
        metadata: NodeMetadata {
            namespace: "shop".to_owned(),
            tracing: Some(Tracing {
                cluster: OTLP_CLUSTER.to_owned(),
                sampling: 100,
            }),
            access_log: Some(log.display().to_string()),
            ..metadata
        },
        admin: "127.0.0.1:0".parse().unwrap(),
        xds: kit.addresses.xds,
        otlp: Some(kit.addresses.otlp_grpc),
        delta,
    };
    let file = kit.directory.path().join("envoy.yaml");
    std::fs::write(&file, sidecar.to_yaml()).unwrap();
    let log = std::fs::File::create(kit.directory.path().join("envoy.log")).unwrap();
    let child = Command::new(binary)
        .arg("-c")
        .arg(&file)
        .args([
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "-l",
            "warning",
        ])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Envoy(child)
}

async fn ask(kit: &Kit, address: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    match request(address, "reviews:9080", path, headers).await {
        Ok(answer) => answer,
        Err(error) => {
            let log = std::fs::read_to_string(kit.directory.path().join("envoy.log"));
            panic!("{path}: {error}\n{}", log.unwrap_or_default());
        }
    }
}

async fn split(
    kit: &Kit,
    address: SocketAddr,
    path: &str,
    requests: usize,
) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let (status, _, body) = ask(kit, address, path, "").await;
        let who = if status == 200 {
            body.split(' ').next().unwrap().to_owned()
        } else {
            status.to_string()
        };
        *counts.entry(who).or_default() += 1;
    }
    counts
}

async fn envoy_routes_as_the_gateway_api_says(delta: bool) {
    let Some(binary) = envoy_binary() else {
        println!("skipped: no Envoy under target/venv");
        return;
    };
    let (v1, v2, app) = (
        workload("v1").await,
        workload("v2").await,
        workload("app").await,
    );
    let kit = Kit::start(&[("mesh.yaml", &mesh(v1, v2, (100, 0)))]).await;
    let Sidecars {
        outbound,
        inbound,
        _envoy,
    } = start_envoy(&kit, &binary, app, delta).await;
    let status = kit
        .api_until("/api/v1/status", |status| {
            let types = status["proxies"][0]["types"].as_array().map_or(0, Vec::len);
            let rejected = status["totals"]["nacks"] != 0;
            rejected || (status["in_sync"] == 1 && types == 4)
        })
        .await;
    assert_eq!(status["totals"]["nacks"], 0, "{status:#}");
    let form = if delta { "delta" } else { "sotw" };
    assert_eq!(status["proxies"][0]["form"], form);

    assert_eq!(
        split(&kit, outbound, "/split", 20).await,
        [("v1".to_owned(), 20)].into()
    );
    let half = split(&kit, outbound, "/half", 60).await;
    assert_eq!(half["v1"] + half["500"], 60, "{half:?}");
    assert!(half["v1"] > 10 && half["500"] > 10, "{half:?}");

    for (path, headers, expected) in [
        (
            "/none",
            "",
            (500, "", "no valid backend: no Service/shop/missing"),
        ),
        ("/nowhere", "", (404, "", "")),
        ("/splitter", "", (404, "", "")),
        (
            "/strip/a/b?c=d",
            "",
            (200, "", "v1 /a/b?c=d host=inner.example x-set=-"),
        ),
        ("/strip", "", (200, "", "v1 / host=inner.example x-set=-")),
        (
            "/prefix/a",
            "",
            (200, "", "v1 /new/a host=reviews:9080 x-set=-"),
        ),
        (
            "/prefix",
            "",
            (200, "", "v1 /new host=reviews:9080 x-set=-"),
        ),
        (
            "/full?q=1",
            "",
            (200, "", "v1 /one?q=1 host=reviews:9080 x-set=-"),
        ),
        (
            "/away/x?q=1",
            "",
            (301, "location: https://example.com/new/x?q=1", ""),
        ),
        (
            "/headers",
            "",
            (
                200,
                "x-rule: yes",
                "v1 /headers host=reviews:9080 x-set=backend 100%",
            ),
        ),
        ("/limit/slow", "", (504, "", "upstream request timeout")),
        (
            "/item/42?page=1",
            "x-tier: gold\r\n",
            (200, "", "v2 /item/42?page=1 host=reviews:9080 x-set=-"),
        ),
        ("/item/42?page=2", "x-tier: gold\r\n", (404, "", "")),
        ("/item/42?page=1", "x-tier: silver\r\n", (404, "", "")),
        ("/item/42/x?page=1", "x-tier: gold\r\n", (404, "", "")),
    ] {
        let (status, head, body) = ask(&kit, outbound, path, headers).await;
        let (expected_status, header, expected_body) = expected;
        assert_eq!(
            (status, body.as_str()),
            (expected_status, expected_body),
            "{path}"
        );
        assert!(head.contains(header), "{path}: {head}");
    }
    let (status, _, body) = ask(&kit, inbound, "/in", "").await;
    assert_eq!(
        (status, body.as_str()),
        (200, "app /in host=reviews:9080 x-set=-")
    );

    kit.write("mesh.yaml", &mesh(v1, v2, (0, 100)));
    kit.api_until("/api/v1/changes", |c| {
        c["changes"][0]["version"] == 2 && c["changes"][0]["acked"] == 1
    })
    .await;
    // Envoy says so when its main thread has it; its worker follows at once, but later.
    let deadline = std::time::Instant::now() + kit::PATIENCE;
    while split(&kit, outbound, "/split", 1).await != [("v2".to_owned(), 1)].into() {
        assert!(std::time::Instant::now() < deadline);
    }
    assert_eq!(
        split(&kit, outbound, "/split", 20).await,
        [("v2".to_owned(), 20)].into()
    );
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_routes_as_the_gateway_api_says_in_state_of_the_world() {
    envoy_routes_as_the_gateway_api_says(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_routes_as_the_gateway_api_says_in_delta() {
    envoy_routes_as_the_gateway_api_says(true).await;
}

/// Everything that policies can say, on the mesh of the other tests.
const POLICIES: &str = r#"
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: v1, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: v1}]
  connection:
    maxConnections: 100
    maxConnectionsPerHost: 50
    connectTimeout: 1s
    idleTimeout: 5m
    maxRequestsPerConnection: 1000
    tcpKeepalive: {probes: 3, time: 60s, interval: 10s}
  circuitBreaker: {maxPendingRequests: 50, maxRequests: 200, maxConnectionPools: 40}
  outlierDetection:
    consecutive5xx: 50
    consecutiveGatewayFailures: 50
    splitLocalOriginErrors: true
    consecutiveLocalOriginFailures: 50
    successRate: {standardDeviations: 1.9}
    failurePercentage: {threshold: 99}
    maxEjectionTimeJitter: 1s
  loadBalancer: {type: peakEwma, decay: 5s, choices: 3, slowStart: {window: 30s, aggression: 2, minWeight: 5}}
  retries: {attempts: 3, on: [5xx, reset, "429"], backoff: {base: 5ms, honorRetryAfter: true}, budget: {percent: 30, interval: 10s}}
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: v2, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: v2}]
  loadBalancer: {type: maglev, consistentHash: {on: [{header: x-user}], tableSize: 257, balanceFactor: 150}}
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: reviews, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: reviews}]
  timeouts: {request: 5s, idle: 60s, maxStreamDuration: 1h}
  stickiness: {on: [{header: x-user, terminal: true}, {cookie: {name: user, ttl: 1h, path: /}}, {queryParameter: user}]}
  loadBalancer: {type: ringHash, consistentHash: {on: [{sourceIp: true}], minimumRingSize: 128}}
---
apiVersion: outrigger.dev/v1alpha1
kind: Bulkhead
metadata: {name: reviews, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: reviews}, {group: "", kind: Service, name: v1}]
  side: both
  maxConcurrent: 100
  maxQueued: 5
  perCaller: {header: x-caller, maxConcurrent: 10}
---
apiVersion: outrigger.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: few, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: more, sectionName: few}]
  requests: 2
  per: 1h
  response: {status: 503, headers: [{name: x-why, value: "100% used"}], rateLimitHeaders: true}
---
apiVersion: outrigger.dev/v1alpha1
kind: FaultPolicy
metadata: {name: broken, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: more, sectionName: broken}]
  ttl: 1h
  abort: {httpStatus: 418, percent: 100}
  headers: [{name: x-test, regex: "b.*"}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: more, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews}]
  rules:
  - name: few
    matches: [{path: {value: /few}}]
    backendRefs: [{name: v1, port: 80}]
  - name: broken
    matches: [{path: {value: /broken}}]
    backendRefs: [{name: v1, port: 80}]
  - name: shared
    matches: [{path: {value: /shared}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 50}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}
    - type: CORS
      cors: {allowOrigins: ["https://*.example.com"], allowMethods: [GET], maxAge: 60}
    retry: {codes: [503], attempts: 2, backoff: 5ms}
    backendRefs: [{name: v1, port: 80}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn envoy_takes_every_policy() {
    let Some(binary) = envoy_binary() else {
        println!("skipped: no Envoy under target/venv");
        return;
    };
    let (v1, v2, app) = (
        workload("v1").await,
        workload("v2").await,
        workload("app").await,
    );
    let mesh = mesh(v1, v2, (50, 50));
    let kit = Kit::start(&[("mesh.yaml", &mesh), ("policies.yaml", POLICIES)]).await;
    let sidecars = start_envoy(&kit, &binary, app, true).await;
    let status = kit
        .api_until("/api/v1/status", |status| {
            let types = status["proxies"][0]["types"].as_array().map_or(0, Vec::len);
            status["totals"]["nacks"] != 0 || (status["in_sync"] == 1 && types == 4)
        })
        .await;
    assert_eq!(status["totals"]["nacks"], 0, "{status:#}");
    assert_eq!(status["findings"], serde_json::json!([]), "{status:#}");
    let outbound = sidecars.outbound;

    // Sticky: the same user always gets the same version, and not everybody the same.
    let version_of = async |user: usize| {
        let (_, _, body) = ask(&kit, outbound, "/split", &format!("x-user: {user}\r\n")).await;
        body.split(' ').next().unwrap().to_owned()
    };
    let mut versions = BTreeSet::new();
    for user in 0..20 {
        let version = version_of(user).await;
        assert_eq!(version, version_of(user).await);
        versions.insert(version);
    }
    assert_eq!(versions.len(), 2, "{versions:?}");

    for expected in [200, 200, 503] {
        let (status, head, _) = ask(&kit, outbound, "/few", "").await;
        assert_eq!(status, expected, "{head}");
        assert_eq!(head.contains("x-why: 100% used"), expected == 503, "{head}");
    }
    let (status, _, _) = ask(&kit, outbound, "/broken", "x-test: b1\r\n").await;
    assert_eq!(status, 418);
    let (status, _, _) = ask(&kit, outbound, "/broken", "").await;
    assert_eq!(status, 200);
    for (origin, allowed) in [
        ("https://a.example.com", true),
        ("https://example.org", false),
    ] {
        let (_, head, _) = ask(&kit, outbound, "/shared", &format!("origin: {origin}\r\n")).await;
        let header = format!("access-control-allow-origin: {origin}");
        assert_eq!(head.contains(&header), allowed, "{head}");
    }
    let (status, _, _) = ask(&kit, sidecars.inbound, "/in", "").await;
    assert_eq!(status, 200);

    // What Envoy does not do is told.
    let objects = kit.api("/api/v1/objects").await;
    let told = |name: &str| {
        let objects = objects["objects"].as_array().unwrap();
        let object = objects.iter().find(|o| o["object"] == name).unwrap();
        let conditions = object["parents"][0]["conditions"].as_array().unwrap();
        let programmed = conditions
            .iter()
            .find(|c| c["type"] == "Programmed")
            .unwrap();
        programmed["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        told("Bulkhead/shop/reviews"),
        "1 of 1 proxies, 1 of them Envoy, which has no bulkheads and leaves it out"
    );
    assert_eq!(
        told("TrafficPolicy/shop/v1"),
        "1 of 1 proxies, 1 of them Envoy, which balances by least request in place of peakEwma"
    );
    assert_eq!(told("RateLimitPolicy/shop/few"), "1 of 1 proxies");
    kit.stop().await;
}

/// Every kind of virtual listener, cluster and route table.
const INTERCEPTED: &str = include_str!("../mesh/tests/golden/intercepted/mesh.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn envoy_takes_the_configuration_of_an_intercepted_pod() {
    let Some(binary) = envoy_binary() else {
        println!("skipped: no Envoy under target/venv");
        return;
    };
    let kit = Kit::start(&[("mesh.yaml", INTERCEPTED)]).await;
    let metadata = NodeMetadata {
        service: "web".to_owned(),
        interception: Some(Interception {
            addresses: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            outbound: free_port().await.port(),
            inbound: free_port().await.port(),
            mode: Mode::Redirect,
            outbound_policy: OutboundPolicy::RegistryOnly,
        }),
        ..NodeMetadata::default()
    };
    let _envoy = envoy(&kit, &binary, metadata, true);
    let status = kit
        .api_until("/api/v1/status", |status| {
            status["totals"]["nacks"] != 0 || status["in_sync"] == 1
        })
        .await;
    assert_eq!(status["totals"]["nacks"], 0, "{status:#}");
    let listeners = status["proxies"][0]["types"]
        .as_array()
        .and_then(|types| types.iter().find(|one| one["type"] == "LDS"))
        .and_then(|one| one["resources"].as_u64());
    assert!(listeners > Some(15), "{status:#}");
    kit.stop().await;
}
