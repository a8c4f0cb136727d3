//! Circuit breakers: counts shared by all workers against the thresholds of each priority.
//!
//! Counts belong to a cluster's name: a changed cluster takes them over with new thresholds, so that
//! what is in flight stays counted. Who counts holds a guard (`pool::guard`, [`RetryPermit`]), never
//! a bare count.

mod resource;
mod retries;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

pub use resource::{Resource, Usage};
pub use retries::Retries;
pub(crate) use retries::RetryPermit;

use super::pool::Limit;
use crate::{
    config::{
        cluster::{CircuitBreakers, Thresholds},
        route::Priority,
    },
    telemetry::stats::Scope,
};

/// No limit.
const UNLIMITED: u32 = u32::MAX;

/// The circuit breakers of one cluster.
#[derive(Debug)]
pub struct Circuit {
    default: Resources,
    high: Resources,
}

/// The limits of one priority.
#[derive(Debug)]
pub struct Resources {
    /// `max_connections`.
    pub connections: Resource,
    /// `max_pending_requests`.
    pub pending: Resource,
    /// `max_requests`.
    pub requests: Resource,
    /// `max_retries`, or the retry budget.
    pub retries: Retries,
    /// `max_connection_pools`.
    pub pools: Resource,
    /// `per_host_thresholds[].max_connections`.
    connections_per_host: AtomicU32,
}

impl Circuit {
    /// Breakers that count from zero.
    #[must_use]
    pub fn new(config: &CircuitBreakers, scope: &Scope) -> Self {
        let scope = scope.scope("circuit_breakers.");
        Self {
            default: Resources::new(&config.default, &scope.scope("default.")),
            high: Resources::new(&config.high, &scope.scope("high.")),
        }
    }

    /// Takes over changed thresholds.
    pub fn update(&self, config: &CircuitBreakers) {
        self.default.update(&config.default);
        self.high.update(&config.high);
    }

    /// The limits that count for a request.
    #[must_use]
    pub fn of(&self, priority: Priority) -> &Resources {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }

    /// Counts a retry in, if there may be one more.
    pub(crate) fn retry(self: &Arc<Self>, priority: Priority, now: Instant) -> Option<RetryPermit> {
        RetryPermit::new(self, priority, now)
    }
}

impl Resources {
    /// The count behind a threshold.
    pub(crate) fn limit(&self, limit: Limit) -> &Resource {
        match limit {
            Limit::Pending => &self.pending,
            Limit::Requests => &self.requests,
            Limit::Connections => &self.connections,
        }
    }

    /// A new request (not a retry): the retry budget may count those of a time.
    #[inline]
    pub(crate) fn note_request(&self, now: Instant) {
        self.retries.note_request(now);
    }

    /// The most connections to one host.
    pub(super) fn max_connections_per_host(&self) -> u32 {
        self.connections_per_host.load(Relaxed)
    }

    /// How many retries may be in flight (or in the budget's interval) now.
    #[must_use]
    pub fn max_retries(&self, now: Instant) -> u64 {
        let active = || self.requests.current() + self.pending.current();
        self.retries.max(now, active)
    }

    /// What is used of each limit, and when it last refused something.
    #[must_use]
    pub fn usage(&self, now: Instant) -> [Usage; 5] {
        let mut retries = self.retries.count.usage("max_retries");
        retries.limit = self.max_retries(now);
        retries.used = self.retries.used(now);
        [
            self.connections.usage("max_connections"),
            self.pending.usage("max_pending_requests"),
            self.requests.usage("max_requests"),
            retries,
            self.pools.usage("max_connection_pools"),
        ]
    }

    fn new(thresholds: &Thresholds, scope: &Scope) -> Self {
        let resource = |max, open, remaining| {
            Resource::new(max, scope.gauge(open), Some(scope.gauge(remaining)))
        };
        let has_budget = thresholds.retry_budget.is_some();
        let retries = Resource::new(
            thresholds.max_retries,
            scope.gauge("rq_retry_open"),
            // Of a budget there is no fixed rest.
            (!has_budget).then(|| scope.gauge("remaining_retries")),
        );
        let max_pools = thresholds.max_connection_pools;
        let pools = Resource::new(
            max_pools.unwrap_or(UNLIMITED),
            scope.gauge("cx_pool_open"),
            max_pools.map(|_| scope.gauge("remaining_cx_pools")),
        );
        let resources = Self {
            connections: resource(thresholds.max_connections, "cx_open", "remaining_cx"),
            pending: resource(
                thresholds.max_pending_requests,
                "rq_pending_open",
                "remaining_pending",
            ),
            requests: resource(thresholds.max_requests, "rq_open", "remaining_rq"),
            retries: Retries::new(retries),
            pools,
            connections_per_host: UNLIMITED.into(),
        };
        resources.configure(thresholds);
        resources
    }

    /// What is no count with a threshold of its own.
    fn configure(&self, thresholds: &Thresholds) {
        self.retries.configure(thresholds);
        let limit = thresholds.max_connections_per_host;
        self.connections_per_host
            .store(limit.unwrap_or(UNLIMITED), Relaxed);
    }

    fn update(&self, thresholds: &Thresholds) {
        self.connections.update(thresholds.max_connections);
        self.pending.update(thresholds.max_pending_requests);
        self.requests.update(thresholds.max_requests);
        self.retries.count.update(thresholds.max_retries);
        self.pools
            .update(thresholds.max_connection_pools.unwrap_or(UNLIMITED));
        self.configure(thresholds);
    }
}
