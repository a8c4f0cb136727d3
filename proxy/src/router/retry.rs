//! Whether a request is tried again, and when: the policy, what headers ask for, and Envoy's rules.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request::Parts, uri::Scheme};
use smallvec::SmallVec;

use super::{
    failure::Ended,
    matcher::{View, header_matches, is_grpc},
    outcome::grpc_status,
    timeout::Expired,
};
use crate::{
    config::{
        retry::{RetryOn, RetryPolicy},
        route::{Forward, Priority},
    },
    upstream::{Cluster, Host, RetryPermit, pool::Failure},
};

static RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
static RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
static MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
static STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
static HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
static HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");
static TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
static RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// For requests that only their headers want tried again.
static NO_POLICY: LazyLock<Arc<RetryPolicy>> = LazyLock::new(|| {
    Arc::new(RetryPolicy {
        on: RetryOn::default(),
        num_retries: 1,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        retriable_status_codes: Box::default(),
        retriable_headers: Box::default(),
        retriable_request_headers: Box::default(),
        base_interval: Duration::from_millis(25),
        max_interval: Duration::from_millis(250),
        rate_limited: None,
        avoids_previous_hosts: false,
        host_selection_attempts: 1,
    })
});

/// The retries of one request.
pub(super) struct Retry {
    policy: Arc<RetryPolicy>,
    on: RetryOn,
    remaining: u32,
    /// From a request header.
    status_codes: SmallVec<[u16; 2]>,
    header_names: SmallVec<[HeaderName; 1]>,
    is_grpc: bool,
    next_interval: Duration,
    /// What the last response asked for.
    asked_interval: Option<Duration>,
    /// Held from the decision for a try to that on its outcome.
    permit: Option<RetryPermit>,
    tried: SmallVec<[u64; 4]>,
    /// A byte of it went to some host.
    is_started: bool,
}

/// What is done after a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try again after this time.
    Again(Duration),
    /// The outcome is final.
    Final,
    /// It would be tried again, but as often as it may be it was.
    Exhausted,
    /// It would be tried again, but there are too many retries.
    Overflow,
}

impl Retry {
    /// What the route's policy and the headers say; none if the request is never tried again. The
    /// headers are taken out (`has_controls`: there may be some).
    pub(super) fn new(
        route: &Forward,
        parts: &mut Parts,
        scheme: &Scheme,
        has_controls: bool,
    ) -> Option<Box<Self>> {
        if route.retry.is_none() && !has_controls {
            return None;
        }
        let policy = route.retry.as_ref().unwrap_or(&NO_POLICY);
        let mut retry = Box::new(Self {
            on: policy.on,
            remaining: policy.num_retries,
            status_codes: SmallVec::new(),
            header_names: SmallVec::new(),
            is_grpc: is_grpc(&parts.headers),
            next_interval: policy.base_interval,
            asked_interval: None,
            permit: None,
            tried: SmallVec::new(),
            is_started: false,
            policy: Arc::clone(policy),
        });
        let needed = &retry.policy.retriable_request_headers;
        let view = View::new(parts, scheme);
        let is_allowed = needed.is_empty() || needed.iter().any(|m| header_matches(m, &view));
        if has_controls {
            retry.read_headers(&mut parts.headers);
        }
        (is_allowed && !retry.on.is_empty()).then_some(retry)
    }

    fn read_headers(&mut self, headers: &mut HeaderMap) {
        for (name, condition) in [
            (&RETRY_ON, RetryOn::http as fn(&str) -> Option<RetryOn>),
            (&RETRY_GRPC_ON, RetryOn::grpc),
        ] {
            if let Some(value) = headers.remove(name) {
                for condition in tokens(&value).filter_map(condition) {
                    self.on |= condition;
                }
            }
        }
        if let Some(value) = headers.remove(&MAX_RETRIES)
            && let Some(Ok(max)) = tokens(&value).next().map(str::parse)
        {
            self.remaining = max;
        }
        if let Some(value) = headers.remove(&STATUS_CODES) {
            let codes = tokens(&value).filter_map(|code| code.parse::<u16>().ok());
            self.status_codes.extend(codes);
        }
        if let Some(value) = headers.remove(&HEADER_NAMES) {
            let names = tokens(&value).filter_map(|name| name.parse::<HeaderName>().ok());
            self.header_names.extend(names);
        }
        headers.remove(&HEDGE);
        headers.remove(&TRY_TIMEOUT);
    }

    /// Whether another try may follow the next one: else nothing need be kept for it.
    pub(super) fn has_more(&self) -> bool {
        self.remaining > 0
    }

    /// Whether a reset is followed by another try.
    pub(super) fn has_resets(&self) -> bool {
        let on = self.on;
        on.has(RetryOn::RESET) || on.has(RetryOn::SERVER_ERROR) || on.has(RetryOn::GATEWAY_ERROR)
    }

    /// Whether the gRPC status counts, wherever it is.
    pub(super) fn wants_grpc_status(&self) -> bool {
        self.is_grpc && self.on.has_any_grpc()
    }

    /// A host was tried; `is_started`: the request went to it.
    pub(super) fn note_host(&mut self, host: &Host, is_started: bool) {
        self.is_started |= is_started;
        if self.policy.avoids_previous_hosts {
            self.tried.push(host.id);
        }
    }

    /// Whether another host is to be chosen; `attempts`: how many were already.
    pub(super) fn rejects(&self, host: &Host, attempts: u32) -> bool {
        attempts < self.policy.host_selection_attempts.saturating_add(1)
            && self.tried.contains(&host.id)
    }

    /// The head of a response is there; with trailers where those followed at once.
    pub(super) fn after_response(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        trailers: Option<&HeaderMap>,
    ) -> bool {
        let would = self.retries_response(status, headers, trailers);
        self.asked_interval = match would {
            true => self.asked(headers),
            false => None,
        };
        would
    }

    fn retries_response(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        trailers: Option<&HeaderMap>,
    ) -> bool {
        let on = self.on;
        if headers.contains_key(&RATE_LIMITED) {
            return on.has(RetryOn::ENVOY_RATE_LIMITED);
        }
        let code = status.as_u16();
        (on.has(RetryOn::SERVER_ERROR) && status.is_server_error())
            || (on.has(RetryOn::GATEWAY_ERROR) && matches!(code, 502..=504))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == StatusCode::CONFLICT)
            || (on.has(RetryOn::RETRIABLE_STATUS_CODES)
                && (self.policy.retriable_status_codes.contains(&code)
                    || self.status_codes.contains(&code)))
            || (on.has(RetryOn::RETRIABLE_HEADERS) && self.has_retriable_header(headers))
            || (on.has_any_grpc()
                && [Some(headers), trailers]
                    .into_iter()
                    .flatten()
                    .filter_map(grpc_status)
                    .any(|status| on.has_grpc(status)))
    }

    fn has_retriable_header(&self, headers: &HeaderMap) -> bool {
        let view = View {
            method: &Method::GET,
            path_and_query: "",
            path: "",
            host: b"",
            scheme: "",
            headers,
        };
        let policy = &self.policy.retriable_headers;
        policy.iter().any(|matcher| header_matches(matcher, &view))
            || self.header_names.iter().any(|n| headers.contains_key(n))
    }

    /// Whether a try without a response is followed by another.
    pub(super) fn after_failure(&self, ended: &Ended) -> bool {
        let on = self.on;
        let failure = match ended {
            Ended::Expired(Expired::Route) | Ended::NoPool => return false,
            Ended::Expired(Expired::Life | Expired::PerTry | Expired::PerTryIdle) => None,
            Ended::Failed(Failure::Overflow(_) | Failure::Request) => return false,
            Ended::Failed(failure) => Some(failure),
        };
        (on.has(RetryOn::RESET_BEFORE_REQUEST) && !self.is_started)
            || self.has_resets()
            || (on.has(RetryOn::REFUSED_STREAM) && matches!(failure, Some(Failure::RefusedStream)))
            || (on.has(RetryOn::CONNECT_FAILURE) && matches!(failure, Some(Failure::Connect(_))))
    }

    /// What follows a try that would (or would not) be followed by another.
    pub(super) fn decide(
        &mut self,
        would: bool,
        cluster: &Cluster,
        priority: Priority,
        random: impl FnOnce() -> u64,
    ) -> Verdict {
        let stats = &cluster.stats;
        let was_retried = self.permit.take().is_some();
        if !would {
            if was_retried {
                stats.upstream_rq_retry_success.inc();
            }
            return Verdict::Final;
        }
        let Some(remaining) = self.remaining.checked_sub(1) else {
            stats.upstream_rq_retry_limit_exceeded.inc();
            return Verdict::Exhausted;
        };
        self.remaining = remaining;
        self.permit = cluster.circuit.retry(priority, Instant::now());
        if self.permit.is_none() {
            stats.upstream_rq_retry_overflow.inc();
            return Verdict::Overflow;
        }
        Verdict::Again(match self.asked_interval.take() {
            Some(interval) => {
                stats.upstream_rq_retry_backoff_ratelimited.inc();
                interval + jitter(interval / 2, random())
            }
            None => {
                stats.upstream_rq_retry_backoff_exponential.inc();
                let interval = self.next_interval;
                let max = self.policy.max_interval;
                self.next_interval = interval.saturating_mul(2).min(max);
                jitter(interval, random()).min(max)
            }
        })
    }

    /// How long the response asks to wait.
    fn asked(&self, headers: &HeaderMap) -> Option<Duration> {
        let policy = self.policy.rate_limited.as_ref()?;
        policy.headers.iter().find_map(|header| {
            let value = headers.get(&header.name)?.to_str().ok()?;
            let seconds: u64 = value.trim().parse().ok()?;
            let interval = match header.is_timestamp {
                false => Duration::from_secs(seconds),
                true => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
                    Duration::from_secs(seconds.checked_sub(now.as_secs())?)
                }
            };
            (!interval.is_zero() && interval <= policy.max_interval).then_some(interval)
        })
    }
}

/// A random part of `interval`.
fn jitter(interval: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random % nanos.max(1))
}

/// The parts of a list with commas.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',').map(str::trim).filter(|t| !t.is_empty())
}
