//! `TrafficPolicy`.

use std::time::Duration;

use super::{Check, at_least_one, bounded, has_target, header_name, positive, within};
use crate::{
    model::policy::{
        Backoff, CircuitBreaker, Connection, ConsistentHash, CookieHash, FailurePercentage, HashOn,
        LoadBalancer, LoadBalancerType, OutlierDetection, Retries, RetryBudget, SlowStart,
        Stickiness, SuccessRate, TargetKind, TcpKeepalive, Timeouts, TrafficSpec,
    },
    parse::Checks,
};

/// Envoy's conditions of `retry_on` and `retry_grpc_on`.
const CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
/// Those of them that cannot be used here, and why.
const UNUSABLE: [(&str, &str); 3] = [
    (
        "retriable-status-codes",
        "write the status codes themselves",
    ),
    ("retriable-headers", "write a condition or a status code"),
    ("http3-post-connect-failure", "there is no HTTP/3 here"),
];

/// The longest interval of a budget.
const LONGEST_BUDGET: Duration = Duration::from_hours(1);
/// Envoy's default.
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);

impl Check for TrafficSpec {
    fn check(&self, checks: &mut Checks) {
        let Self {
            target_refs: _,
            connection,
            circuit_breaker,
            outlier_detection,
            load_balancer,
            timeouts,
            retries,
            stickiness,
        } = self;
        if has_target(self, TargetKind::HttpRoute) {
            for (set, field) in [
                (connection.is_some(), "connection"),
                (circuit_breaker.is_some(), "circuitBreaker"),
                (outlier_detection.is_some(), "outlierDetection"),
                (load_balancer.is_some(), "loadBalancer"),
            ] {
                if set {
                    checks.error(
                        format!("spec.{field}"),
                        "is of a Service's hosts: it cannot be set for an HTTPRoute",
                    );
                }
            }
            if retries
                .as_ref()
                .is_some_and(|retries| retries.budget.is_some())
            {
                checks.error(
                    "spec.retries.budget",
                    "is kept per Service: it cannot be set for an HTTPRoute",
                );
            }
        }
        if let Some(connection) = connection {
            check_connection(connection, checks);
        }
        if let Some(circuit_breaker) = circuit_breaker {
            check_circuit_breaker(circuit_breaker, checks);
            let budget = retries.as_ref().and_then(|retries| retries.budget);
            if circuit_breaker.max_retries.is_some() && budget.is_some() {
                checks.error(
                    "spec.circuitBreaker.maxRetries",
                    "excludes spec.retries.budget: a budget takes its place",
                );
            }
        }
        if let Some(outlier_detection) = outlier_detection {
            check_outlier_detection(outlier_detection, checks);
        }
        if let Some(load_balancer) = load_balancer {
            check_load_balancer(load_balancer, checks);
        }
        if let Some(timeouts) = timeouts {
            check_timeouts(timeouts, checks);
        }
        if let Some(retries) = retries {
            check_retries(retries, checks);
        }
        if let Some(Stickiness { on }) = stickiness {
            check_hash(on, "spec.stickiness.on", checks);
        }
    }
}

fn check_connection(connection: &Connection, checks: &mut Checks) {
    let Connection {
        max_connections,
        max_connections_per_host,
        connect_timeout,
        idle_timeout,
        max_requests_per_connection,
        tcp_keepalive,
    } = connection;
    at_least_one(*max_connections, "spec.connection.maxConnections", checks);
    at_least_one(
        *max_connections_per_host,
        "spec.connection.maxConnectionsPerHost",
        checks,
    );
    at_least_one(
        *max_requests_per_connection,
        "spec.connection.maxRequestsPerConnection",
        checks,
    );
    positive(*connect_timeout, "spec.connection.connectTimeout", checks);
    bounded(*idle_timeout, "spec.connection.idleTimeout", checks);
    if let Some(TcpKeepalive {
        probes,
        time,
        interval,
    }) = tcp_keepalive
    {
        at_least_one(*probes, "spec.connection.tcpKeepalive.probes", checks);
        for (span, field) in [(time, "time"), (interval, "interval")] {
            // The kernel counts whole seconds.
            if span.is_some_and(|span| span.0.as_secs() == 0 || span.0.subsec_nanos() != 0) {
                checks.error(
                    format!("spec.connection.tcpKeepalive.{field}"),
                    "must be whole seconds, at least 1s",
                );
            }
            bounded(
                *span,
                &format!("spec.connection.tcpKeepalive.{field}"),
                checks,
            );
        }
    }
}

fn check_circuit_breaker(breaker: &CircuitBreaker, checks: &mut Checks) {
    // 0 is a meaning of its own for each: nothing may wait, nothing may pass.
    let CircuitBreaker {
        max_pending_requests: _,
        max_requests: _,
        max_retries: _,
        max_connection_pools,
    } = breaker;
    at_least_one(
        *max_connection_pools,
        "spec.circuitBreaker.maxConnectionPools",
        checks,
    );
}

fn check_outlier_detection(outlier: &OutlierDetection, checks: &mut Checks) {
    let OutlierDetection {
        // 0 switches a detector off.
        consecutive_5xx: _,
        consecutive_gateway_failures: _,
        consecutive_local_origin_failures,
        split_local_origin_errors,
        success_rate,
        failure_percentage,
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejection_time_jitter,
        max_ejection_percent,
        always_eject_one_host: _,
    } = outlier;
    let at = |field: &str| format!("spec.outlierDetection.{field}");
    if consecutive_local_origin_failures.is_some() && *split_local_origin_errors != Some(true) {
        checks.error(
            at("consecutiveLocalOriginFailures"),
            "needs splitLocalOriginErrors: true",
        );
    }
    positive(*interval, &at("interval"), checks);
    positive(*base_ejection_time, &at("baseEjectionTime"), checks);
    positive(*max_ejection_time, &at("maxEjectionTime"), checks);
    bounded(
        *max_ejection_time_jitter,
        &at("maxEjectionTimeJitter"),
        checks,
    );
    within(
        *max_ejection_percent,
        (0, 100),
        &at("maxEjectionPercent"),
        checks,
    );
    let base = base_ejection_time.map_or(BASE_EJECTION_TIME, |base| base.0);
    if max_ejection_time.is_some_and(|max| max.0 < base) {
        let message = match base_ejection_time {
            Some(_) => "shorter than baseEjectionTime",
            None => "shorter than baseEjectionTime, which is 30s unless set",
        };
        checks.error(at("maxEjectionTime"), message);
    }
    if let Some(SuccessRate {
        minimum_hosts: _,
        request_volume: _,
        standard_deviations,
    }) = success_rate
    {
        within(
            *standard_deviations,
            (0.0, 1000.0),
            &at("successRate.standardDeviations"),
            checks,
        );
    }
    if let Some(FailurePercentage {
        threshold,
        minimum_hosts: _,
        request_volume: _,
    }) = failure_percentage
    {
        within(
            *threshold,
            (0, 100),
            &at("failurePercentage.threshold"),
            checks,
        );
    }
}

fn check_load_balancer(balancer: &LoadBalancer, checks: &mut Checks) {
    let LoadBalancer {
        kind,
        choices,
        decay,
        consistent_hash,
        slow_start,
    } = balancer;
    let at = |field: &str| format!("spec.loadBalancer.{field}");
    let of_type = |field: &str| format!("{field} does not belong to this type");
    use LoadBalancerType::{LeastRequest, Maglev, PeakEwma, Random, RingHash, RoundRobin};
    if choices.is_some() && !matches!(kind, PeakEwma | LeastRequest) {
        checks.error(at("choices"), of_type("choices"));
    }
    within(*choices, (2, 100), &at("choices"), checks);
    if decay.is_some() && *kind != PeakEwma {
        checks.error(at("decay"), of_type("decay"));
    }
    positive(*decay, &at("decay"), checks);
    if let Some(SlowStart {
        window,
        aggression,
        min_weight: _,
    }) = slow_start
    {
        if !matches!(kind, PeakEwma | LeastRequest | RoundRobin) {
            checks.error(at("slowStart"), of_type("slowStart"));
        }
        positive(Some(*window), &at("slowStart.window"), checks);
        if aggression.is_some_and(|value| !(value > 0.0 && value <= 100.0)) {
            checks.error(
                at("slowStart.aggression"),
                "must be more than 0, at most 100",
            );
        }
    }
    match (kind, consistent_hash) {
        (RingHash | Maglev, None) => {
            checks.error(at("consistentHash"), "missing for this type");
        }
        (RingHash | Maglev, Some(hash)) => check_consistent_hash(*kind, hash, checks),
        (PeakEwma | RoundRobin | LeastRequest | Random, Some(_)) => {
            checks.error(at("consistentHash"), of_type("consistentHash"));
        }
        _ => {}
    }
}

fn check_consistent_hash(kind: LoadBalancerType, hash: &ConsistentHash, checks: &mut Checks) {
    let ConsistentHash {
        on,
        minimum_ring_size,
        maximum_ring_size,
        table_size,
        balance_factor,
    } = hash;
    let at = |field: &str| format!("spec.loadBalancer.consistentHash.{field}");
    check_hash(on, &at("on"), checks);
    let is_ring = kind == LoadBalancerType::RingHash;
    for (set, field, belongs) in [
        (minimum_ring_size.is_some(), "minimumRingSize", is_ring),
        (maximum_ring_size.is_some(), "maximumRingSize", is_ring),
        (table_size.is_some(), "tableSize", !is_ring),
    ] {
        if set && !belongs {
            checks.error(at(field), "does not belong to this type");
        }
    }
    within(
        *minimum_ring_size,
        (1, 8_388_608),
        &at("minimumRingSize"),
        checks,
    );
    within(
        *maximum_ring_size,
        (1, 8_388_608),
        &at("maximumRingSize"),
        checks,
    );
    if minimum_ring_size.unwrap_or(1024) > maximum_ring_size.unwrap_or(8_388_608) {
        checks.error(at("maximumRingSize"), "smaller than minimumRingSize");
    }
    within(*table_size, (2, 5_000_011), &at("tableSize"), checks);
    if table_size.is_some_and(|size| !is_prime(size)) {
        checks.error(at("tableSize"), "must be a prime number, such as 65537");
    }
    if balance_factor.is_some_and(|factor| factor < 100) {
        checks.error(at("balanceFactor"), "must be at least 100");
    }
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

fn check_hash(on: &[HashOn], path: &str, checks: &mut Checks) {
    if on.is_empty() || on.len() > 8 {
        checks.error(path, format!("{} entries; there must be 1 to 8", on.len()));
    }
    for (index, one) in on.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let HashOn {
            header,
            cookie,
            source_ip,
            query_parameter,
            terminal: _,
        } = one;
        let set = [
            header.is_some(),
            cookie.is_some(),
            source_ip.is_some(),
            query_parameter.is_some(),
        ];
        if set.into_iter().filter(|set| *set).count() != 1 {
            checks.error(
                &path,
                "exactly one of header, cookie, sourceIp and queryParameter must be set",
            );
        }
        if let Some(header) = header {
            header_name(header, &format!("{path}.header"), checks);
        }
        if *source_ip == Some(false) {
            checks.error(
                format!("{path}.sourceIp"),
                "false means nothing: leave it out",
            );
        }
        if query_parameter.as_ref().is_some_and(String::is_empty) {
            checks.error(format!("{path}.queryParameter"), "must not be empty");
        }
        if let Some(CookieHash {
            name,
            ttl,
            path: cookie_path,
        }) = cookie
        {
            header_name(name, &format!("{path}.cookie.name"), checks);
            bounded(*ttl, &format!("{path}.cookie.ttl"), checks);
            if cookie_path
                .as_ref()
                .is_some_and(|path| !path.starts_with('/') || path.contains([';', ' ', '\t']))
            {
                checks.error(format!("{path}.cookie.path"), "must be a path such as /");
            }
        }
    }
}

fn check_timeouts(timeouts: &Timeouts, checks: &mut Checks) {
    let Timeouts {
        request,
        idle,
        max_stream_duration,
    } = timeouts;
    bounded(*request, "spec.timeouts.request", checks);
    bounded(*idle, "spec.timeouts.idle", checks);
    bounded(
        *max_stream_duration,
        "spec.timeouts.maxStreamDuration",
        checks,
    );
}

fn check_retries(retries: &Retries, checks: &mut Checks) {
    let Retries {
        attempts,
        on,
        per_try_timeout,
        per_try_idle_timeout,
        backoff,
        budget,
    } = retries;
    within(*attempts, (0, 20), "spec.retries.attempts", checks);
    bounded(*per_try_timeout, "spec.retries.perTryTimeout", checks);
    bounded(
        *per_try_idle_timeout,
        "spec.retries.perTryIdleTimeout",
        checks,
    );
    if on.as_ref().is_some_and(Vec::is_empty) {
        checks.error(
            "spec.retries.on",
            "must not be empty; attempts: 0 switches retries off",
        );
    }
    for (index, condition) in on.iter().flatten().enumerate() {
        let path = format!("spec.retries.on[{index}]");
        if let Ok(status) = condition.parse::<u16>() {
            within(Some(status), (400, 599), &path, checks);
        } else if let Some((_, why)) = UNUSABLE.iter().find(|(name, _)| name == condition) {
            checks.error(path, format!("'{condition}' cannot be used: {why}"));
        } else if !CONDITIONS.contains(&condition.as_str()) {
            let known: Vec<_> = CONDITIONS
                .into_iter()
                .filter(|name| UNUSABLE.iter().all(|(unusable, _)| unusable != name))
                .collect();
            let message = format!(
                "'{condition}' is neither a status code nor one of {}",
                known.join(", ")
            );
            checks.error(path, message);
        }
    }
    if let Some(Backoff {
        base,
        max,
        honor_retry_after: _,
    }) = backoff
    {
        positive(Some(*base), "spec.retries.backoff.base", checks);
        positive(*max, "spec.retries.backoff.max", checks);
        if max.is_some_and(|max| max < *base) {
            checks.error("spec.retries.backoff.max", "shorter than base");
        }
    }
    if let Some(RetryBudget {
        percent: _,
        min_concurrency: _,
        interval,
    }) = budget
    {
        // What the proxy counts in.
        if interval.is_some_and(|interval| interval.0 > LONGEST_BUDGET) {
            checks.error("spec.retries.budget.interval", "longer than 1h");
        }
    }
}
