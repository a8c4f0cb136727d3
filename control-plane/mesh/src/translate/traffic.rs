//! `TrafficPolicy` and the mesh's defaults, on clusters: connections, circuit breakers, outlier
//! detection and load balancing.

use std::{sync::Arc, time::Duration};

use outrigger_proto::{
    envoy::{
        config::{
            cluster::v3::{
                self as api, CircuitBreakers, LoadBalancingPolicy, circuit_breakers::Thresholds,
                load_balancing_policy,
            },
            core::v3 as core,
        },
        extensions::{
            load_balancing_policies::{
                common::v3::{ConsistentHashingLbConfig, SlowStartConfig},
                least_request::v3::LeastRequest,
                maglev::v3::Maglev,
                random::v3::Random,
                ring_hash::v3::RingHash,
                round_robin::v3::RoundRobin,
            },
            upstreams::http::v3::HttpProtocolOptions,
        },
        r#type::v3::Percent,
    },
    google::protobuf::{Any, UInt64Value},
    outrigger::extensions::load_balancing_policies::peak_ewma::v1alpha1::PeakEwma,
};

use super::wire;
use crate::{
    model::{
        Model,
        policy::{
            CircuitBreaker, Connection, ConsistentHash, FailurePercentage, LoadBalancer,
            LoadBalancerType, OutlierDetection, Policy, RetryBudget, SlowStart, SuccessRate,
            TcpKeepalive, TrafficSpec,
        },
    },
    resolve::ServiceAddress,
};

/// Within one data centre a connection that takes longer is better tried elsewhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Our own load balancer.
const PEAK_EWMA: &str = "outrigger.load_balancing_policies.peak_ewma";
/// Retries among 100 requests in progress, unless a policy says otherwise.
const BUDGET_PERCENT: f64 = 20.0;
/// So many retries are always allowed, unless a policy says otherwise.
const BUDGET_MIN_CONCURRENCY: u32 = 10;
/// What the budget is a share of, unless a policy says otherwise: what began within it.
const BUDGET_INTERVAL: Duration = Duration::from_secs(10);

/// What policies say about the hosts of one port of a service, each part of the closest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HostsPolicy {
    /// The policy that sets limits, else the closest, such as `TrafficPolicy/shop/reviews`.
    origin: Option<String>,
    connection: Option<Connection>,
    circuit_breaker: Option<CircuitBreaker>,
    outlier_detection: Option<OutlierDetection>,
    load_balancer: Option<LoadBalancer>,
    budget: Option<RetryBudget>,
}

impl HostsPolicy {
    pub(super) fn of(model: &Model, port: &ServiceAddress) -> Self {
        let policies: Vec<&Arc<Policy<TrafficSpec>>> =
            model.policies().traffic.of_port(port).collect();
        let limits = |policy: &&Arc<Policy<TrafficSpec>>| {
            let spec = &policy.spec;
            spec.circuit_breaker.is_some() || spec.connection.is_some()
        };
        let origin = policies
            .iter()
            .copied()
            .find(limits)
            .or_else(|| policies.first().copied());
        let specs = || policies.iter().map(|policy| &policy.spec);
        Self {
            origin: origin.map(|policy| policy.reference().to_string()),
            connection: specs().find_map(|spec| spec.connection.clone()),
            circuit_breaker: specs().find_map(|spec| spec.circuit_breaker.clone()),
            outlier_detection: specs().find_map(|spec| spec.outlier_detection.clone()),
            load_balancer: specs().find_map(|spec| spec.load_balancer.clone()),
            budget: specs().find_map(|spec| spec.retries.as_ref().and_then(|r| r.budget)),
        }
    }

    /// Fills in everything of a cluster that policies decide.
    pub(super) fn apply(&self, cluster: &mut api::Cluster) {
        let Self {
            origin,
            connection,
            circuit_breaker,
            outlier_detection,
            load_balancer,
            budget,
        } = self;
        cluster.metadata = origin.as_deref().map(wire::origin);
        let connect_timeout = connection
            .as_ref()
            .and_then(|connection| connection.connect_timeout)
            .map_or(CONNECT_TIMEOUT, |timeout| timeout.0);
        cluster.connect_timeout = Some(wire::duration(connect_timeout));
        let keepalive = connection.as_ref().and_then(|c| c.tcp_keepalive.as_ref());
        cluster.upstream_connection_options =
            keepalive.map(|keepalive| api::UpstreamConnectionOptions {
                tcp_keepalive: Some(tcp_keepalive(keepalive)),
                ..Default::default()
            });
        let breaker = circuit_breaker.as_ref();
        cluster.circuit_breakers = Some(circuit_breakers(connection.as_ref(), breaker, *budget));
        cluster.outlier_detection = outlier_detection.as_ref().map(self::outlier_detection);
        let balancer = load_balancer.clone().unwrap_or_default();
        cluster.load_balancing_policy = Some(policy_list(&balancer));
    }

    /// Fills in what policies say of connections at the level of HTTP.
    pub(super) fn http_options(&self) -> HttpProtocolOptions {
        let connection = self.connection.as_ref();
        let idle_timeout = connection.and_then(|connection| connection.idle_timeout);
        let max_requests = connection.and_then(|connection| connection.max_requests_per_connection);
        let common = core::HttpProtocolOptions {
            idle_timeout: idle_timeout.map(|timeout| wire::duration(timeout.0)),
            max_requests_per_connection: max_requests.map(wire::number),
            ..Default::default()
        };
        HttpProtocolOptions {
            common_http_protocol_options: (common != core::HttpProtocolOptions::default())
                .then_some(common),
            ..Default::default()
        }
    }
}

fn tcp_keepalive(keepalive: &TcpKeepalive) -> core::TcpKeepalive {
    let TcpKeepalive {
        probes,
        time,
        interval,
    } = keepalive;
    let seconds = |span: &crate::model::policy::Span| {
        wire::number(u32::try_from(span.0.as_secs()).unwrap_or(u32::MAX))
    };
    core::TcpKeepalive {
        keepalive_probes: probes.map(wire::number),
        keepalive_time: time.as_ref().map(seconds),
        keepalive_interval: interval.as_ref().map(seconds),
    }
}

/// What is left of each limit is always shown. Retries have a budget unless there is a fixed limit.
fn circuit_breakers(
    connection: Option<&Connection>,
    breaker: Option<&CircuitBreaker>,
    budget: Option<RetryBudget>,
) -> CircuitBreakers {
    let default = CircuitBreaker::default();
    let CircuitBreaker {
        max_pending_requests,
        max_requests,
        max_retries,
        max_connection_pools,
    } = breaker.unwrap_or(&default);
    let RetryBudget {
        percent,
        min_concurrency,
        interval,
    } = budget.unwrap_or_default();
    let retry_budget = api::circuit_breakers::thresholds::RetryBudget {
        budget_percent: Some(Percent {
            value: percent.map_or(BUDGET_PERCENT, |percent| percent.0),
        }),
        budget_interval: Some(wire::duration(
            interval.map_or(BUDGET_INTERVAL, |interval| interval.0),
        )),
        min_retry_concurrency: Some(wire::number(
            min_concurrency.unwrap_or(BUDGET_MIN_CONCURRENCY),
        )),
    };
    let thresholds = Thresholds {
        max_connections: connection
            .and_then(|connection| connection.max_connections)
            .map(wire::number),
        max_pending_requests: max_pending_requests.map(wire::number),
        max_requests: max_requests.map(wire::number),
        max_retries: max_retries.map(wire::number),
        retry_budget: max_retries.is_none().then_some(retry_budget),
        track_remaining: true,
        max_connection_pools: max_connection_pools.map(wire::number),
        ..Default::default()
    };
    let per_host = connection
        .and_then(|connection| connection.max_connections_per_host)
        .map(|limit| Thresholds {
            max_connections: Some(wire::number(limit)),
            ..Default::default()
        });
    CircuitBreakers {
        thresholds: vec![thresholds],
        per_host_thresholds: per_host.into_iter().collect(),
    }
}

/// A detector that is named is enforced, and no other; none named means the one for 5xx. Envoy
/// enforces some by default and others not.
fn outlier_detection(outlier: &OutlierDetection) -> api::OutlierDetection {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_failures,
        consecutive_local_origin_failures,
        split_local_origin_errors,
        success_rate,
        failure_percentage,
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejection_time_jitter,
        max_ejection_percent,
        always_eject_one_host,
    } = outlier;
    let split = *split_local_origin_errors == Some(true);
    let enforced = |is: bool| Some(wire::number(if is { 100 } else { 0 }));
    // 0 in a row switches a detector off; Envoy would eject at once.
    let in_a_row = |limit: &Option<u32>| limit.filter(|limit| *limit > 0);
    let none_named = consecutive_5xx.is_none()
        && consecutive_gateway_failures.is_none()
        && consecutive_local_origin_failures.is_none()
        && success_rate.is_none()
        && failure_percentage.is_none();
    let success = success_rate.clone().unwrap_or_default();
    let SuccessRate {
        minimum_hosts,
        request_volume,
        standard_deviations,
    } = success;
    let failure = failure_percentage.clone().unwrap_or_default();
    let FailurePercentage {
        threshold,
        minimum_hosts: failure_minimum_hosts,
        request_volume: failure_request_volume,
    } = failure;
    let duration = |span: &Option<crate::model::policy::Span>| span.map(|s| wire::duration(s.0));
    let number = |number: Option<u32>| number.map(wire::number);
    api::OutlierDetection {
        consecutive_5xx: number(in_a_row(consecutive_5xx)),
        enforcing_consecutive_5xx: enforced(in_a_row(consecutive_5xx).is_some() || none_named),
        consecutive_gateway_failure: number(in_a_row(consecutive_gateway_failures)),
        enforcing_consecutive_gateway_failure: enforced(
            in_a_row(consecutive_gateway_failures).is_some(),
        ),
        split_external_local_origin_errors: split,
        consecutive_local_origin_failure: number(in_a_row(consecutive_local_origin_failures)),
        enforcing_consecutive_local_origin_failure: enforced(
            in_a_row(consecutive_local_origin_failures).is_some(),
        ),
        enforcing_success_rate: enforced(success_rate.is_some()),
        enforcing_local_origin_success_rate: enforced(success_rate.is_some() && split),
        success_rate_minimum_hosts: number(minimum_hosts),
        success_rate_request_volume: number(request_volume),
        success_rate_stdev_factor: standard_deviations.map(thousandths),
        failure_percentage_threshold: number(threshold),
        enforcing_failure_percentage: enforced(failure_percentage.is_some()),
        enforcing_failure_percentage_local_origin: enforced(failure_percentage.is_some() && split),
        failure_percentage_minimum_hosts: number(failure_minimum_hosts),
        failure_percentage_request_volume: number(failure_request_volume),
        interval: duration(interval),
        base_ejection_time: duration(base_ejection_time),
        max_ejection_time: duration(max_ejection_time),
        max_ejection_time_jitter: duration(max_ejection_time_jitter),
        max_ejection_percent: number(*max_ejection_percent),
        // Of three hosts one can be ejected, though that is more than 10 %.
        always_eject_one_host: Some(wire::boolean(always_eject_one_host.unwrap_or(true))),
        ..Default::default()
    }
}

fn thousandths(value: f64) -> outrigger_proto::google::protobuf::UInt32Value {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in 0..1000 where it was read"
    )]
    let factor = (value * 1000.0).round() as u32;
    wire::number(factor)
}

/// A list, of which a proxy takes the first that it knows: Envoy does not know peak-EWMA, and gRPC
/// not even the next one.
fn policy_list(balancer: &LoadBalancer) -> LoadBalancingPolicy {
    let LoadBalancer {
        kind,
        choices,
        decay,
        consistent_hash,
        slow_start,
    } = balancer;
    let slow_start = slow_start.as_ref().map(self::slow_start);
    let hash = consistent_hash.clone().unwrap_or_default();
    let least_request = || {
        envoys(
            "least_request",
            wire::any(&LeastRequest {
                choice_count: choices.map(wire::number),
                slow_start_config: slow_start.clone(),
                ..Default::default()
            }),
        )
    };
    let round_robin = || {
        envoys(
            "round_robin",
            wire::any(&RoundRobin {
                slow_start_config: slow_start.clone(),
                ..Default::default()
            }),
        )
    };
    let policies = match kind {
        LoadBalancerType::PeakEwma => {
            let config = PeakEwma {
                decay_time: decay.map(|decay| wire::duration(decay.0)),
                choice_count: choices.map(wire::number),
                slow_start_config: slow_start.clone(),
                ..Default::default()
            };
            vec![
                policy(PEAK_EWMA.to_owned(), wire::any(&config)),
                least_request(),
                round_robin(),
            ]
        }
        LoadBalancerType::LeastRequest => vec![least_request(), round_robin()],
        LoadBalancerType::RoundRobin => vec![round_robin()],
        LoadBalancerType::Random => vec![envoys("random", wire::any(&Random::default()))],
        LoadBalancerType::RingHash => vec![envoys("ring_hash", wire::any(&ring_hash(&hash)))],
        LoadBalancerType::Maglev => vec![envoys("maglev", wire::any(&maglev(&hash)))],
    };
    LoadBalancingPolicy { policies }
}

fn envoys(name: &str, config: Any) -> load_balancing_policy::Policy {
    policy(format!("envoy.load_balancing_policies.{name}"), config)
}

fn policy(name: String, config: Any) -> load_balancing_policy::Policy {
    load_balancing_policy::Policy {
        typed_extension_config: Some(core::TypedExtensionConfig {
            name,
            typed_config: Some(config),
        }),
    }
}

fn slow_start(slow_start: &SlowStart) -> SlowStartConfig {
    let SlowStart {
        window,
        aggression,
        min_weight,
    } = slow_start;
    SlowStartConfig {
        slow_start_window: Some(wire::duration(window.0)),
        aggression: aggression.map(|value| core::RuntimeDouble {
            default_value: value,
            // Envoy wants a name though nobody overrides it.
            runtime_key: "outrigger.slow_start.aggression".to_owned(),
        }),
        min_weight_percent: min_weight.map(|percent| Percent { value: percent.0 }),
    }
}

fn ring_hash(hash: &ConsistentHash) -> RingHash {
    let size = |size: Option<u64>| size.map(|value| UInt64Value { value });
    RingHash {
        // The only one that is not told by a deprecated field.
        hash_function: 1,
        minimum_ring_size: size(hash.minimum_ring_size),
        maximum_ring_size: size(hash.maximum_ring_size),
        consistent_hashing_lb_config: balance(hash),
        ..Default::default()
    }
}

fn maglev(hash: &ConsistentHash) -> Maglev {
    Maglev {
        table_size: hash.table_size.map(|value| UInt64Value { value }),
        consistent_hashing_lb_config: balance(hash),
        ..Default::default()
    }
}

fn balance(hash: &ConsistentHash) -> Option<ConsistentHashingLbConfig> {
    hash.balance_factor.map(|factor| ConsistentHashingLbConfig {
        hash_balance_factor: Some(wire::number(factor)),
        ..Default::default()
    })
}
