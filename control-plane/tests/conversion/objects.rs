//! Policies and routes with values from everywhere in and around what is allowed: those that pass our
//! checks are accepted by our proxy.

use std::sync::Arc;

use outrigger_mesh::{Model, Translator, parse};
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use serde_json::{Map, Value, json};

const NODE: &str = "
id: reviews-1
cluster: reviews
user_agent_name: outrigger
metadata:
  outrigger:
    namespace: shop
    service: reviews
    outbound: 127.0.0.1:15001
    inbound:
    - {listen: \"127.0.0.1:9081\", app: \"127.0.0.1:8080\"}
";
const GATEWAY: &str = "gateway.networking.k8s.io";

type Values = BoxedStrategy<Value>;

fn one_of(values: Value) -> Values {
    select(values.as_array().unwrap().clone()).boxed()
}

fn span() -> Values {
    one_of(json!([
        "0s", "1ms", "25ms", "49ms", "50ms", "250ms", "1s", "1s500ms", "10s", "29s", "30s", "31s",
        "5m", "301s", "1h", "8760h"
    ]))
}

fn number() -> Values {
    one_of(json!([
        0,
        1,
        2,
        3,
        5,
        16,
        17,
        50,
        99,
        100,
        101,
        200,
        429,
        503,
        599,
        600,
        1000,
        4096,
        65_536,
        65_537,
        8_388_608,
        4_294_967_295_u32
    ]))
}

fn percent() -> Values {
    one_of(json!([0, 0.000_001, 0.5, 1, 33.3, 99.999_99, 100]))
}

fn fraction() -> Values {
    one_of(json!([0, 0.001, 0.5, 1, 1.9, 99.5, 100, 1000]))
}

fn flag() -> Values {
    one_of(json!([true, false]))
}

/// Of headers, cookies and parameters.
fn name() -> Values {
    one_of(json!([
        "x-user",
        "X-User",
        "a",
        "a b",
        "",
        "é",
        "host",
        ":path",
        "content-length",
        "connection",
        "x-envoy-retry-on",
        "x_y",
        "x:y",
        "x".repeat(300)
    ]))
}

fn text() -> Values {
    one_of(json!([
        "a",
        "",
        "a b",
        " a",
        "é",
        "100%",
        "%REQ(X)%",
        "a\tb",
        "a\nb",
        ",",
        "*",
        "v".repeat(5000)
    ]))
}

fn pattern() -> Values {
    one_of(json!([
        ".*", "", "[a-z]+", "a{1000}", "(a|b)*c", "(", "\\d+", "(?i)x", "(?=x)", "\\bé", "^/a$"
    ]))
}

/// Each field is there or not.
fn fields(all: Vec<(&'static str, Values)>) -> Values {
    let (names, values): (Vec<_>, Vec<_>) = all
        .into_iter()
        .map(|(name, value)| (name, prop::option::weighted(0.4, value)))
        .unzip();
    values
        .prop_map(move |values| {
            let all = names.iter().zip(values);
            let set = all.filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            Value::Object(set.collect())
        })
        .boxed()
}

/// Each field is there.
fn whole(all: Vec<(&'static str, Values)>) -> Values {
    let (names, values): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    values
        .prop_map(move |values| {
            let all = names.iter().zip(values);
            Value::Object(
                all.map(|(name, value)| ((*name).to_owned(), value))
                    .collect(),
            )
        })
        .boxed()
}

fn both(first: Values, second: Values) -> Values {
    (first, second)
        .prop_map(|(first, second)| {
            let mut all = Map::new();
            for part in [first, second] {
                all.extend(part.as_object().unwrap().clone());
            }
            Value::Object(all)
        })
        .boxed()
}

fn list(value: Values) -> Values {
    prop::collection::vec(value, 1..3)
        .prop_map(Value::Array)
        .boxed()
}

fn service() -> Value {
    json!({"group": "", "kind": "Service", "name": "reviews"})
}

fn rule() -> Value {
    json!({"group": GATEWAY, "kind": "HTTPRoute", "name": "reviews", "sectionName": "split"})
}

/// A policy of a Service or of a rule, with one part or two.
fn policy(kind: &'static str, target: Value, spec: Values) -> Values {
    spec.prop_map(move |mut spec| {
        spec["targetRefs"] = json!([target]);
        json!({
            "apiVersion": "outrigger.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": spec,
        })
    })
    .boxed()
}

fn route(rule: Values) -> Values {
    rule.prop_map(|rule| {
        json!({
            "apiVersion": format!("{GATEWAY}/v1"),
            "kind": "HTTPRoute",
            "metadata": {"name": "drawn", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "reviews-v1"}],
                "rules": [rule],
            },
        })
    })
    .boxed()
}

/// Checks, translates and converts what is drawn; at least one of so many is worth something.
fn check(objects: &Values, one_in: u32) {
    let config = Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    };
    let cases = config.cases;
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let valid = std::cell::Cell::new(0);
    let node = crate::node(NODE);
    runner
        .run(objects, |object| {
            let service = |name: &str| {
                json!({"apiVersion": "v1", "kind": "Service",
                    "metadata": {"name": name, "namespace": "shop"},
                    "spec": {"ports": [{"name": "http", "port": 9080}]}})
            };
            let route = json!({
                "apiVersion": format!("{GATEWAY}/v1"), "kind": "HTTPRoute",
                "metadata": {"name": "reviews", "namespace": "shop"},
                "spec": {
                    "parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}],
                    "rules": [{"name": "split", "backendRefs": [
                        {"name": "reviews-v1", "port": 9080, "weight": 9},
                        {"name": "reviews", "port": 9080},
                    ]}],
                },
            });
            let all = [service("reviews"), service("reviews-v1"), route, object];
            let all = all.map(|object| object.to_string()).join("\n---\n");
            let parsed = parse::parse_file("mesh.yaml", &all);
            if !parsed.is_valid() {
                return Ok(());
            }
            valid.set(valid.get() + 1);
            let objects = parsed.objects.into_iter().map(|located| located.object);
            let model = Arc::new(Model::build(1, objects));
            let resources = Translator::new(model, None).translate(&node);
            let refused = crate::refused(&resources);
            prop_assert!(refused.is_empty(), "{}", refused.join("\n"));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(
        valid.get() * one_in >= cases,
        "only {} of {cases} are valid",
        valid.get()
    );
}

fn hash_on() -> Values {
    let cookie = both(
        whole(vec![("name", name())]),
        fields(vec![
            ("ttl", span()),
            ("path", one_of(json!(["/", "/a", "a", "/a b", "/é", ""]))),
        ]),
    );
    let one = prop_oneof![
        whole(vec![("header", name())]),
        whole(vec![("cookie", cookie)]),
        whole(vec![("sourceIp", flag())]),
        whole(vec![(
            "queryParameter",
            prop_oneof![name(), text()].boxed()
        )]),
    ];
    list(both(one.boxed(), fields(vec![("terminal", flag())])))
}

fn in_part(part: &'static str, values: Values) -> Values {
    whole(vec![(part, values)])
}

#[test]
fn connections_and_breakers() {
    let keepalive = fields(vec![
        ("probes", number()),
        ("time", span()),
        ("interval", span()),
    ]);
    let connection = fields(vec![
        ("maxConnections", number()),
        ("maxConnectionsPerHost", number()),
        ("connectTimeout", span()),
        ("idleTimeout", span()),
        ("maxRequestsPerConnection", number()),
        ("tcpKeepalive", keepalive),
    ]);
    let breaker = fields(vec![
        ("maxPendingRequests", number()),
        ("maxRequests", number()),
        ("maxRetries", number()),
        ("maxConnectionPools", number()),
    ]);
    let spec = both(
        in_part("connection", connection),
        in_part("circuitBreaker", breaker),
    );
    check(&policy("TrafficPolicy", service(), spec), 4);
}

#[test]
fn outlier_detection() {
    let success = fields(vec![
        ("minimumHosts", number()),
        ("requestVolume", number()),
        ("standardDeviations", fraction()),
    ]);
    let failure = fields(vec![
        ("threshold", number()),
        ("minimumHosts", number()),
        ("requestVolume", number()),
    ]);
    let outlier = fields(vec![
        ("consecutive5xx", number()),
        ("consecutiveGatewayFailures", number()),
        ("consecutiveLocalOriginFailures", number()),
        ("splitLocalOriginErrors", flag()),
        ("successRate", success),
        ("failurePercentage", failure),
        ("interval", span()),
        ("baseEjectionTime", span()),
        ("maxEjectionTime", span()),
        ("maxEjectionTimeJitter", span()),
        ("maxEjectionPercent", number()),
        ("alwaysEjectOneHost", flag()),
    ]);
    let spec = in_part("outlierDetection", outlier);
    check(&policy("TrafficPolicy", service(), spec), 10);
}

#[test]
fn load_balancers() {
    let hash = both(
        whole(vec![("on", hash_on())]),
        fields(vec![
            ("minimumRingSize", number()),
            ("maximumRingSize", number()),
            ("tableSize", one_of(json!([2, 3, 65_537, 5_000_011]))),
            ("balanceFactor", number()),
        ]),
    );
    let hashes = whole(vec![
        ("type", one_of(json!(["ringHash", "maglev"]))),
        ("consistentHash", hash),
    ]);
    let slow_start = both(
        whole(vec![("window", span())]),
        fields(vec![("aggression", fraction()), ("minWeight", percent())]),
    );
    let types = json!(["peakEwma", "roundRobin", "leastRequest", "random"]);
    let others = both(
        whole(vec![("type", one_of(types))]),
        fields(vec![
            ("choices", number()),
            ("decay", span()),
            ("slowStart", slow_start),
        ]),
    );
    for (values, one_in) in [(hashes, 20), (others, 6)] {
        let spec = in_part("loadBalancer", values);
        check(&policy("TrafficPolicy", service(), spec), one_in);
    }
}

#[test]
fn timeouts_retries_and_stickiness() {
    let timeouts = fields(vec![
        ("request", span()),
        ("idle", span()),
        ("maxStreamDuration", span()),
    ]);
    let backoff = both(
        whole(vec![("base", span())]),
        fields(vec![("max", span()), ("honorRetryAfter", flag())]),
    );
    let budget = fields(vec![
        ("percent", percent()),
        ("minConcurrency", number()),
        ("interval", span()),
    ]);
    let on = one_of(json!([
        "5xx",
        "gateway-error",
        "reset",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "cancelled",
        "unavailable",
        "400",
        "599",
        "600",
        "no-such"
    ]));
    let retries = fields(vec![
        ("attempts", one_of(json!([0, 1, 20, 21]))),
        ("on", list(on)),
        ("perTryTimeout", span()),
        ("perTryIdleTimeout", span()),
        ("backoff", backoff),
        ("budget", budget),
    ]);
    let spec = both(
        whole(vec![("timeouts", timeouts), ("retries", retries)]),
        fields(vec![("stickiness", whole(vec![("on", hash_on())]))]),
    );
    check(&policy("TrafficPolicy", service(), spec.clone()), 10);
    check(&policy("TrafficPolicy", rule(), spec), 20);
}

#[test]
fn bulkheads() {
    let caller = both(
        prop_oneof![
            whole(vec![("header", name())]),
            whole(vec![("sourceAddress", flag())]),
        ]
        .boxed(),
        fields(vec![("maxConcurrent", number()), ("maxTracked", number())]),
    );
    let lanes = (text(), one_of(json!([0, 1, 7, 8]))).prop_map(|(value, lane)| {
        let lanes = [(value.as_str().unwrap().to_owned(), lane)];
        Value::Object(lanes.into_iter().collect())
    });
    let priority = both(
        whole(vec![("header", name()), ("lanes", lanes.boxed())]),
        fields(vec![("defaultLane", one_of(json!([0, 7, 8])))]),
    );
    let spec = both(
        whole(vec![("maxConcurrent", number())]),
        fields(vec![
            ("maxQueued", number()),
            ("queueTimeout", span()),
            ("perCaller", caller),
            ("priority", priority),
            ("side", one_of(json!(["client", "server", "both"]))),
        ]),
    );
    check(&policy("Bulkhead", service(), spec.clone()), 6);
    check(&policy("Bulkhead", rule(), spec), 12);
}

#[test]
fn rate_limits() {
    let headers = list(whole(vec![("name", name()), ("value", text())]));
    let response = fields(vec![
        ("status", one_of(json!([399, 400, 429, 599, 600]))),
        ("headers", headers),
        ("rateLimitHeaders", flag()),
    ]);
    let spec = both(
        whole(vec![("requests", number()), ("per", span())]),
        fields(vec![
            ("burst", number()),
            ("response", response),
            ("side", one_of(json!(["client", "server", "both"]))),
        ]),
    );
    check(&policy("RateLimitPolicy", service(), spec.clone()), 10);
    check(&policy("RateLimitPolicy", rule(), spec), 12);
}

#[test]
fn faults() {
    let delay = whole(vec![("duration", span()), ("percent", percent())]);
    let abort = both(
        whole(vec![("percent", percent())]),
        prop_oneof![
            whole(vec![(
                "httpStatus",
                one_of(json!([199, 200, 503, 599, 600]))
            )]),
            whole(vec![("grpcStatus", one_of(json!([0, 1, 14, 16, 17])))]),
        ]
        .boxed(),
    );
    let header = both(
        whole(vec![("name", name())]),
        prop_oneof![
            whole(vec![]),
            whole(vec![("value", text())]),
            whole(vec![("regex", pattern())]),
        ]
        .boxed(),
    );
    let spec = both(
        whole(vec![("ttl", span()), ("delay", delay)]),
        fields(vec![
            ("abort", abort),
            ("headers", list(header)),
            ("maxActive", number()),
        ]),
    );
    check(&policy("FaultPolicy", service(), spec.clone()), 10);
    check(&policy("FaultPolicy", rule(), spec), 10);
}

fn matches() -> Values {
    let path = prop_oneof![
        whole(vec![
            ("type", one_of(json!(["Exact", "PathPrefix"]))),
            (
                "value",
                one_of(json!([
                    "/", "/a", "/a/", "/a%20b", "/a;b", "a", "/a//b", "/é", "/*", "/a?b"
                ]))
            ),
        ]),
        whole(vec![
            ("type", one_of(json!(["RegularExpression"]))),
            ("value", pattern()),
        ]),
    ];
    let compared = || {
        prop_oneof![
            whole(vec![("name", name()), ("value", text())]),
            whole(vec![
                ("name", name()),
                ("type", one_of(json!(["RegularExpression"]))),
                ("value", pattern()),
            ]),
        ]
        .boxed()
    };
    list(fields(vec![
        ("path", path.boxed()),
        ("method", one_of(json!(["GET", "CONNECT", "OPTIONS"]))),
        ("headers", list(compared())),
        ("queryParams", list(compared())),
    ]))
}

fn filter() -> Values {
    let header = || whole(vec![("name", name()), ("value", text())]);
    let changes = || {
        fields(vec![
            ("set", list(header())),
            ("add", list(header())),
            ("remove", list(name())),
        ])
    };
    let typed = |kind: &'static str, field: &'static str, values: Values| {
        whole(vec![("type", one_of(json!([kind]))), (field, values)])
    };
    let hosts = || one_of(json!(["a.example", "A.example", "*.a", "a_b", ""]));
    let path = || {
        let values = || one_of(json!(["/", "/a", "a", "/a b", "/é", "/a?b", ""]));
        prop_oneof![
            whole(vec![
                ("type", one_of(json!(["ReplaceFullPath"]))),
                ("replaceFullPath", values()),
            ]),
            whole(vec![
                ("type", one_of(json!(["ReplacePrefixMatch"]))),
                ("replacePrefixMatch", values()),
            ]),
        ]
        .boxed()
    };
    let mirror = both(
        whole(vec![(
            "backendRef",
            one_of(json!([{"name": "reviews-v1", "port": 9080}, {"name": "none", "port": 1}])),
        )]),
        fields(vec![("percent", one_of(json!([0, 1, 100, 101])))]),
    );
    let origins = json!([
        "*",
        "https://a.example",
        "http://*.a.example:8080",
        "https://*",
        "x"
    ]);
    let tokens = || list(one_of(json!(["GET", "*", "x-a", "a b", ""])));
    let cors = fields(vec![
        ("allowOrigins", list(one_of(origins))),
        ("allowMethods", tokens()),
        ("allowHeaders", tokens()),
        ("exposeHeaders", tokens()),
        ("allowCredentials", flag()),
        ("maxAge", one_of(json!([0, 1, 2_147_483_647]))),
    ]);
    prop_oneof![
        typed("RequestHeaderModifier", "requestHeaderModifier", changes()),
        typed(
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            changes()
        ),
        typed(
            "URLRewrite",
            "urlRewrite",
            fields(vec![("hostname", hosts()), ("path", path())])
        ),
        typed("RequestMirror", "requestMirror", mirror),
        typed("CORS", "cors", cors),
    ]
    .boxed()
}

#[test]
fn routes() {
    let timeouts = fields(vec![("request", span()), ("backendRequest", span())]);
    let retry = fields(vec![
        ("codes", list(one_of(json!([399, 400, 503, 599, 600])))),
        ("attempts", one_of(json!([0, 1, 20, 21]))),
        ("backoff", span()),
    ]);
    let backends = json!([[{"name": "reviews", "port": 9080}], [
        {"name": "reviews", "port": 9080, "weight": 0},
        {"name": "reviews-v1", "port": 9080, "weight": 1_000_000},
    ]]);
    let backends = whole(vec![("backendRefs", one_of(backends))]);
    let with = |part: Values| route(both(backends.clone(), part));
    check(&with(fields(vec![("matches", matches())])), 10);
    check(&with(whole(vec![("filters", list(filter()))])), 20);
    check(
        &with(fields(vec![("timeouts", timeouts), ("retry", retry)])),
        4,
    );
    let redirect = fields(vec![
        ("scheme", one_of(json!(["http", "https"]))),
        ("hostname", one_of(json!(["a.example", "*.a"]))),
        ("port", one_of(json!([1, 443, 65_535, 65_536]))),
        ("statusCode", one_of(json!([301, 302]))),
    ]);
    let filter = whole(vec![
        ("type", one_of(json!(["RequestRedirect"]))),
        ("requestRedirect", redirect),
    ]);
    check(&route(whole(vec![("filters", list(filter))])), 10);
}
