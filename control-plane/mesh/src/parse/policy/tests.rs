//! Each wrong value is found at its path.

use crate::parse::parse_file;

fn findings(kind: &str, target: &str, spec: &str) -> Vec<String> {
    let target = match target {
        "route" => "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}",
        "service" => "{group: '', kind: Service, name: web}",
        other => other,
    };
    let text = format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\n\
         spec:\n  targetRefs: [{target}]\n  {}\n",
        spec.replace('\n', "\n  ")
    );
    let parsed = parse_file("m.yaml", &text);
    let findings: Vec<String> = parsed.findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        parsed.objects.len(),
        usize::from(findings.is_empty()),
        "{findings:#?}"
    );
    findings
}

fn assert_refused(kind: &str, target: &str, spec: &str, expected: &str) {
    let found = findings(kind, target, spec);
    let whole = format!("error: {kind}/shop/p: {expected}");
    assert!(
        found.iter().any(|finding| finding.ends_with(&whole)),
        "{spec}: {expected} is not among {found:#?}"
    );
    assert!(
        found.iter().all(|finding| finding.starts_with("m.yaml:")),
        "{found:#?}"
    );
}

#[test]
fn targets_are_services_and_routes() {
    let spec = "timeouts: {idle: 1s}";
    for (target, expected) in [
        (
            "{group: '', kind: Pod, name: web}",
            "spec.targetRefs[0].kind: Pod is not supported; use Service or HTTPRoute",
        ),
        (
            "{group: apps, kind: Service, name: web}",
            "spec.targetRefs[0].group: 'apps' is not the group of Service: write group: \"\"",
        ),
        (
            "{group: '', kind: HTTPRoute, name: web}",
            "spec.targetRefs[0].group: '' is not the group of HTTPRoute: write gateway.networking.k8s.io",
        ),
        (
            "{group: '', kind: Service, name: Web}",
            "spec.targetRefs[0].name: 'Web' is not a valid name",
        ),
        (
            "{group: '', kind: Service, name: web, namespace: bank}",
            "spec.targetRefs[0].namespace: unknown field",
        ),
        (
            "{group: '', kind: Service, name: web, sectionName: ''}",
            "spec.targetRefs[0].sectionName: must not be empty",
        ),
        (
            "{group: '', kind: Service, name: web}, {group: core, kind: Service, name: web}",
            "spec.targetRefs[1]: the same target twice",
        ),
        ("", "spec.targetRefs: 0 targets; there must be 1 to 16"),
    ] {
        assert_refused("TrafficPolicy", target, spec, expected);
    }
}

#[test]
fn traffic_policies_are_checked() {
    for (spec, expected) in [
        (
            "connection: {connectTimeout: 5}",
            "spec.connection.connectTimeout: invalid type: integer `5`, expected a duration such as 1m30s or 250ms",
        ),
        (
            "connection: {connectTimeout: 0s}",
            "spec.connection.connectTimeout: must be longer than 0s",
        ),
        (
            "connection: {maxConnections: 0}",
            "spec.connection.maxConnections: must be at least 1",
        ),
        (
            "connection: {tcpKeepalive: {time: 500ms}}",
            "spec.connection.tcpKeepalive.time: must be whole seconds, at least 1s",
        ),
        (
            "circuitBreaker: {maxRequest: 3}",
            "spec.circuitBreaker.maxRequest: unknown field",
        ),
        (
            "circuitBreaker: {maxRetries: 3}\nretries: {budget: {percent: 10}}",
            "spec.circuitBreaker.maxRetries: excludes spec.retries.budget: a budget takes its place",
        ),
        (
            "outlierDetection: {maxEjectionPercent: 101}",
            "spec.outlierDetection.maxEjectionPercent: 101 is not in 0..100",
        ),
        (
            "outlierDetection: {consecutiveLocalOriginFailures: 3}",
            "spec.outlierDetection.consecutiveLocalOriginFailures: needs splitLocalOriginErrors: true",
        ),
        (
            "outlierDetection: {baseEjectionTime: 10s, maxEjectionTime: 5s}",
            "spec.outlierDetection.maxEjectionTime: shorter than baseEjectionTime",
        ),
        (
            "outlierDetection: {maxEjectionTime: 29s}",
            "spec.outlierDetection.maxEjectionTime: shorter than baseEjectionTime, which is 30s unless set",
        ),
        (
            "loadBalancer: {type: roundRobin, choices: 3}",
            "spec.loadBalancer.choices: choices does not belong to this type",
        ),
        (
            "loadBalancer: {type: leastRequest, choices: 1}",
            "spec.loadBalancer.choices: 1 is not in 2..100",
        ),
        (
            "loadBalancer: {type: ringHash}",
            "spec.loadBalancer.consistentHash: missing for this type",
        ),
        (
            "loadBalancer: {type: maglev, consistentHash: {on: [{sourceIp: true}], tableSize: 1000}}",
            "spec.loadBalancer.consistentHash.tableSize: must be a prime number, such as 65537",
        ),
        (
            "loadBalancer: {type: maglev, consistentHash: {on: [{sourceIp: true}], minimumRingSize: 1000}}",
            "spec.loadBalancer.consistentHash.minimumRingSize: does not belong to this type",
        ),
        (
            "stickiness: {on: []}",
            "spec.stickiness.on: 0 entries; there must be 1 to 8",
        ),
        (
            "stickiness: {on: [{header: x-user, sourceIp: true}]}",
            "spec.stickiness.on[0]: exactly one of header, cookie, sourceIp and queryParameter must be set",
        ),
        (
            "retries: {on: [5xx, often]}",
            "spec.retries.on[1]: 'often' is neither a status code nor one of 5xx, gateway-error, reset, \
             reset-before-request, connect-failure, envoy-ratelimited, retriable-4xx, refused-stream, \
             cancelled, deadline-exceeded, internal, resource-exhausted, unavailable",
        ),
        (
            "retries: {on: ['200']}",
            "spec.retries.on[0]: 200 is not in 400..599",
        ),
        (
            "retries: {on: [retriable-status-codes]}",
            "spec.retries.on[0]: 'retriable-status-codes' cannot be used: write the status codes themselves",
        ),
        (
            "retries: {attempts: 21}",
            "spec.retries.attempts: 21 is not in 0..20",
        ),
        (
            "retries: {backoff: {base: 1s, max: 10ms}}",
            "spec.retries.backoff.max: shorter than base",
        ),
        (
            "retries: {budget: {interval: 61m}}",
            "spec.retries.budget.interval: longer than 1h",
        ),
        (
            "retries: {budget: {percent: 120}}",
            "spec.retries.budget.percent: 120 is not in 0..100",
        ),
        (
            "timeouts: {request: 9000h}",
            "spec.timeouts.request: longer than a year",
        ),
    ] {
        assert_refused("TrafficPolicy", "service", spec, expected);
    }
}

#[test]
fn what_belongs_to_hosts_is_refused_for_a_route() {
    for (spec, path) in [
        ("connection: {maxConnections: 1}", "spec.connection"),
        ("circuitBreaker: {maxRequests: 1}", "spec.circuitBreaker"),
        ("outlierDetection: {}", "spec.outlierDetection"),
        ("loadBalancer: {type: random}", "spec.loadBalancer"),
    ] {
        assert!(findings("TrafficPolicy", "service", spec).is_empty());
        let expected =
            format!("{path}: is of a Service's hosts: it cannot be set for an HTTPRoute");
        assert_refused("TrafficPolicy", "route", spec, &expected);
    }
    assert_refused(
        "TrafficPolicy",
        "route",
        "retries: {budget: {percent: 1}}",
        "spec.retries.budget: is kept per Service: it cannot be set for an HTTPRoute",
    );
    assert!(findings("TrafficPolicy", "route", "timeouts: {request: 1s}").is_empty());
}

#[test]
fn bulkheads_are_checked() {
    assert!(findings("Bulkhead", "service", "maxConcurrent: 10\nside: both").is_empty());
    for (target, spec, expected) in [
        (
            "service",
            "maxConcurrent: 0",
            "spec.maxConcurrent: must be at least 1",
        ),
        (
            "service",
            "maxConcurrent: 1\nqueueTimeout: 1s",
            "spec.queueTimeout: needs maxQueued: nothing waits",
        ),
        (
            "service",
            "maxConcurrent: 1\nside: everywhere",
            "spec.side: unknown variant `everywhere`, expected one of `client`, `server`, `both`",
        ),
        (
            "route",
            "maxConcurrent: 1\nside: server",
            "spec.side: an HTTPRoute is of the callers: only client is possible for it",
        ),
        (
            "service",
            "maxConcurrent: 1\nperCaller: {}",
            "spec.perCaller: exactly one of header, sourceAddress and identity must be set",
        ),
        (
            "service",
            "maxConcurrent: 5\nperCaller: {header: x-caller, maxConcurrent: 6}",
            "spec.perCaller.maxConcurrent: more than spec.maxConcurrent",
        ),
        (
            "service",
            "maxConcurrent: 5\nperCaller: {identity: true}",
            "spec.perCaller.identity: not supported yet: callers have no identity without mutual TLS",
        ),
        (
            "service",
            "maxConcurrent: 5\nmaxQueued: 65537",
            "spec.maxQueued: 65537 is not in 0..65536",
        ),
        (
            "service",
            "maxConcurrent: 5\nmaxQueued: 5\npriority: {header: x-lane, lanes: {gold: 8}}",
            "spec.priority.lanes.gold: 8 is not in 0..7",
        ),
    ] {
        assert_refused("Bulkhead", target, spec, expected);
    }
}

#[test]
fn rate_limits_are_checked() {
    assert!(findings("RateLimitPolicy", "route", "requests: 10\nper: 1s").is_empty());
    for (spec, expected) in [
        ("requests: 0\nper: 1s", "spec.requests: must be at least 1"),
        ("requests: 1\nper: 10ms", "spec.per: must be at least 50ms"),
        (
            "requests: 9\nper: 1s\nburst: 3",
            "spec.burst: less than spec.requests",
        ),
        (
            "requests: 9\nper: 1s\nresponse: {status: 302}",
            "spec.response.status: 302 is not in 400..599",
        ),
        (
            "requests: 9\nper: 1s\nresponse: {headers: [{name: 'a b', value: c}]}",
            "spec.response.headers[0].name: 'a b' is not a valid header name",
        ),
    ] {
        assert_refused("RateLimitPolicy", "service", spec, expected);
    }
}

#[test]
fn faults_need_a_time_to_live() {
    let delay = "delay: {duration: 1s, percent: 50}";
    assert!(findings("FaultPolicy", "route", &format!("ttl: 10m\n{delay}")).is_empty());
    for (spec, expected) in [
        (delay, "spec: missing field `ttl`"),
        (
            "ttl: 0s\nabort: {httpStatus: 503, percent: 1}",
            "spec.ttl: must be longer than 0s",
        ),
        (
            "ttl: 1m",
            "spec: at least one of delay and abort must be set",
        ),
        (
            "ttl: 1m\nabort: {httpStatus: 503, grpcStatus: 14, percent: 1}",
            "spec.abort: exactly one of httpStatus and grpcStatus must be set",
        ),
        (
            "ttl: 1m\nabort: {httpStatus: 99, percent: 1}",
            "spec.abort.httpStatus: 99 is not in 200..599",
        ),
        (
            "ttl: 1m\ndelay: {duration: 1s, percent: 101}",
            "spec.delay.percent: 101 is not in 0..100",
        ),
        (
            "ttl: 1m\ndelay: {duration: 1s, percent: 1}\nheaders: [{name: x, value: a, regex: b}]",
            "spec.headers[0].regex: excludes value",
        ),
    ] {
        assert_refused("FaultPolicy", "service", spec, expected);
    }
}
