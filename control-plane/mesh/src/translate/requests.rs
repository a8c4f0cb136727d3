//! `TrafficPolicy` and the mesh's defaults, on routes: timeouts, retries and what is hashed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use outrigger_proto::envoy::{
    config::route::v3::{
        RetryPolicy,
        retry_policy::{RateLimitedRetryBackOff, ResetHeader, RetryBackOff, RetryHostPredicate},
        route_action::{
            HashPolicy, MaxStreamDuration,
            hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter},
        },
    },
    extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate,
};

use super::wire;
use crate::{
    model::{
        Model, NamespacedName, Retry, Rule,
        policy::{
            Backoff, CookieHash, HashOn, Policy, Retries, Span, Stickiness, Timeouts, TrafficSpec,
        },
    },
    resolve::ServiceAddress,
};

/// Retries of a service without any policy: only what did not reach the application, and what a
/// gRPC server says may be tried again.
const SAFE: [&str; 4] = [
    "connect-failure",
    "refused-stream",
    "reset-before-request",
    "unavailable",
];
/// What is retried for an HTTPRoute's `retry`, besides its codes: errors of connections.
const CONNECTION_ERRORS: [&str; 3] = ["connect-failure", "refused-stream", "reset"];
/// Tries after the first.
const ATTEMPTS: u32 = 2;
/// How often another host is looked for that has not failed this request yet.
const OTHER_HOST_ATTEMPTS: i64 = 3;

/// What policies say about requests, each part of the closest policy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestsPolicy<'a> {
    timeouts: Option<&'a Timeouts>,
    retries: Option<&'a Retries>,
    stickiness: Option<&'a Stickiness>,
}

impl<'a> RequestsPolicy<'a> {
    /// For requests to `parent`, by `rule` of a route or without any.
    pub(super) fn of(
        model: &'a Model,
        parent: &ServiceAddress,
        rule: Option<(&NamespacedName, &Rule)>,
    ) -> Self {
        let traffic = &model.policies().traffic;
        let of_rule = rule
            .into_iter()
            .flat_map(|(route, rule)| traffic.of_rule(route, rule));
        let policies: Vec<&Arc<Policy<TrafficSpec>>> =
            of_rule.chain(traffic.of_port(parent)).collect();
        let specs = || policies.iter().map(|policy| &policy.spec);
        Self {
            timeouts: specs().find_map(|spec| spec.timeouts.as_ref()),
            // A budget alone says nothing about what is retried.
            retries: specs()
                .filter_map(|spec| spec.retries.as_ref())
                .find(|retries| !is_budget_alone(retries)),
            stickiness: specs().find_map(|spec| spec.stickiness.as_ref()),
        }
    }

    /// The whole request, unless the rule says so itself. The mesh sets no limit that nobody asked
    /// for: Envoy's default of 15 s would cut streams.
    pub(super) fn request_timeout(&self, rule: Option<&Rule>) -> Duration {
        let of_rule = rule.and_then(|rule| rule.request_timeout);
        let of_policy = self.timeouts.and_then(|timeouts| timeouts.request);
        of_rule
            .or_else(|| of_policy.map(|timeout| timeout.0))
            .unwrap_or(Duration::ZERO)
    }

    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self.timeouts?.idle.map(|timeout| timeout.0)
    }

    pub(super) fn max_stream_duration(&self) -> Option<MaxStreamDuration> {
        let limit = self.timeouts?.max_stream_duration?;
        Some(MaxStreamDuration {
            max_stream_duration: Some(wire::duration(limit.0)),
            ..Default::default()
        })
    }

    /// What is tried again: as the rule says, else as policies say, else what is safe.
    pub(super) fn retry_policy(&self, rule: Option<&Rule>) -> Option<RetryPolicy> {
        let mut policy = match (rule.and_then(|rule| rule.retry.as_ref()), self.retries) {
            (Some(retry), _) => of_rule(retry)?,
            (None, Some(retries)) => of_policy(retries)?,
            (None, None) => of_policy(&Retries::default())?,
        };
        let per_try = rule
            .and_then(|rule| rule.backend_timeout)
            .filter(|timeout| !timeout.is_zero());
        if let Some(per_try) = per_try {
            policy.per_try_timeout = Some(wire::duration(per_try));
        }
        Some(policy)
    }

    /// Whether a user stays with a backend of a split.
    pub(super) fn is_sticky(&self) -> bool {
        self.stickiness.is_some()
    }

    /// What is hashed: for stickiness, else for the load balancer of the first backend that
    /// depends on it.
    pub(super) fn hash_policy<'b>(
        &self,
        model: &Model,
        backends: impl IntoIterator<Item = &'b ServiceAddress>,
    ) -> Vec<HashPolicy> {
        if let Some(Stickiness { on }) = self.stickiness {
            return on.iter().filter_map(hash_policy).collect();
        }
        backends
            .into_iter()
            .find_map(|backend| hash_of_balancer(model, backend))
            .unwrap_or_default()
    }
}

fn is_budget_alone(retries: &Retries) -> bool {
    let without = Retries {
        budget: None,
        ..retries.clone()
    };
    without == Retries::default() && retries.budget.is_some()
}

fn hash_of_balancer(model: &Model, backend: &ServiceAddress) -> Option<Vec<HashPolicy>> {
    let balancer = model
        .policies()
        .traffic
        .of_port(backend)
        .find_map(|policy| policy.spec.load_balancer.as_ref())?;
    let hash = balancer.consistent_hash.as_ref()?;
    Some(hash.on.iter().filter_map(hash_policy).collect())
}

fn hash_policy(on: &HashOn) -> Option<HashPolicy> {
    let HashOn {
        header,
        cookie,
        source_ip,
        query_parameter,
        terminal,
    } = on;
    let specifier = if let Some(header) = header {
        PolicySpecifier::Header(Header {
            header_name: header.clone(),
            ..Default::default()
        })
    } else if let Some(CookieHash { name, ttl, path }) = cookie {
        PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: ttl.map(|ttl| wire::duration(ttl.0)),
            path: path.clone().unwrap_or_default(),
            ..Default::default()
        })
    } else if let Some(parameter) = query_parameter {
        PolicySpecifier::QueryParameter(QueryParameter {
            name: parameter.clone(),
        })
    } else if *source_ip == Some(true) {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
    } else {
        return None;
    };
    Some(HashPolicy {
        policy_specifier: Some(specifier),
        terminal: *terminal,
    })
}

/// `retry` of an HTTPRoute's rule. None if it asks for no retries.
fn of_rule(retry: &Retry) -> Option<RetryPolicy> {
    let Retry {
        codes,
        attempts,
        backoff,
    } = retry;
    let mut on: Vec<&str> = CONNECTION_ERRORS.to_vec();
    if !codes.is_empty() {
        on.push("retriable-status-codes");
    }
    let backoff = backoff
        .filter(|backoff| !backoff.is_zero())
        .map(|base| Backoff {
            base: Span(base),
            ..Backoff::default()
        });
    retry_policy(
        attempts.unwrap_or(ATTEMPTS),
        &on,
        codes.iter().copied().map(u32::from).collect(),
        backoff.as_ref(),
    )
}

fn of_policy(retries: &Retries) -> Option<RetryPolicy> {
    let Retries {
        attempts,
        on,
        per_try_timeout,
        per_try_idle_timeout,
        backoff,
        budget: _,
    } = retries;
    let mut codes = BTreeSet::new();
    let mut conditions = Vec::new();
    for condition in on.iter().flatten() {
        match condition.parse::<u32>() {
            Ok(code) => {
                codes.insert(code);
            }
            Err(_) => conditions.push(condition.as_str()),
        }
    }
    if on.is_none() {
        conditions.extend(SAFE);
    }
    if !codes.is_empty() {
        conditions.push("retriable-status-codes");
    }
    let policy = retry_policy(
        attempts.unwrap_or(ATTEMPTS),
        &conditions,
        codes.into_iter().collect(),
        backoff.as_ref(),
    )?;
    let limit = |span: &Option<Span>| {
        span.filter(|span| !span.0.is_zero())
            .map(|span| wire::duration(span.0))
    };
    Some(RetryPolicy {
        per_try_timeout: limit(per_try_timeout),
        per_try_idle_timeout: limit(per_try_idle_timeout),
        ..policy
    })
}

fn retry_policy(
    attempts: u32,
    on: &[&str],
    codes: Vec<u32>,
    backoff: Option<&Backoff>,
) -> Option<RetryPolicy> {
    if attempts == 0 {
        return None;
    }
    let previous_hosts = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(
            outrigger_proto::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType::TypedConfig(
                wire::any(&PreviousHostsPredicate {}),
            ),
        ),
    };
    let retry_after = backoff.is_some_and(|backoff| backoff.honor_retry_after);
    Some(RetryPolicy {
        retry_on: on.join(","),
        num_retries: Some(wire::number(attempts)),
        retriable_status_codes: codes,
        retry_host_predicate: vec![previous_hosts],
        host_selection_retry_max_attempts: OTHER_HOST_ATTEMPTS,
        retry_back_off: backoff.map(|backoff| RetryBackOff {
            base_interval: Some(wire::duration(backoff.base.0)),
            max_interval: backoff.max.map(|max| wire::duration(max.0)),
        }),
        rate_limited_retry_back_off: retry_after.then(|| RateLimitedRetryBackOff {
            reset_headers: vec![ResetHeader {
                name: "retry-after".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    })
}
