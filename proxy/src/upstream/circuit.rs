//! Circuit breakers: counts shared by all workers against the thresholds of each priority.
//!
//! Counts belong to a cluster's name: a changed cluster takes them over with new thresholds, so that
//! what is in flight stays counted. Who counts holds a guard of `upstream::guard`, never a bare count.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::pool::Limit;
use crate::{
    config::{
        cluster::{CircuitBreakers, Thresholds},
        route::Priority,
    },
    telemetry::stats::{Gauge, Scope},
};

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
    /// `max_retries`.
    pub retries: Resource,
}

/// One count with its threshold.
#[derive(Debug)]
#[repr(align(64))]
pub struct Resource {
    current: AtomicU64,
    max: AtomicU32,
    is_open: AtomicBool,
    open: Gauge,
    remaining: Option<Gauge>,
    trips: AtomicU64,
    /// In milliseconds since 1970; zero: never.
    last_trip: AtomicU64,
}

/// What is used of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The limit's name in the configuration.
    pub name: &'static str,
    /// How many there are.
    pub used: u64,
    /// How many there may be.
    pub limit: u64,
    /// How often it refused something.
    pub trips: u64,
    /// When it last did.
    pub last_trip: Option<SystemTime>,
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
}

impl Resources {
    /// The count behind a threshold.
    pub(crate) fn limit(&self, limit: Limit) -> &Resource {
        match limit {
            Limit::Pending => &self.pending,
            Limit::Requests => &self.requests,
        }
    }

    /// What is used of each limit, and when it last refused something.
    #[must_use]
    pub fn usage(&self, _now: Instant) -> [Usage; 4] {
        [
            self.connections.usage("max_connections"),
            self.pending.usage("max_pending_requests"),
            self.requests.usage("max_requests"),
            self.retries.usage("max_retries"),
        ]
    }

    fn new(thresholds: &Thresholds, scope: &Scope) -> Self {
        let remaining = |name| thresholds.track_remaining.then(|| scope.gauge(name));
        Self {
            connections: Resource::new(
                thresholds.max_connections,
                scope.gauge("cx_open"),
                remaining("remaining_cx"),
            ),
            pending: Resource::new(
                thresholds.max_pending_requests,
                scope.gauge("rq_pending_open"),
                remaining("remaining_pending"),
            ),
            requests: Resource::new(
                thresholds.max_requests,
                scope.gauge("rq_open"),
                remaining("remaining_rq"),
            ),
            retries: Resource::new(
                thresholds.max_retries,
                scope.gauge("rq_retry_open"),
                remaining("remaining_retries"),
            ),
        }
    }

    fn update(&self, thresholds: &Thresholds) {
        self.connections.update(thresholds.max_connections);
        self.pending.update(thresholds.max_pending_requests);
        self.requests.update(thresholds.max_requests);
        self.retries.update(thresholds.max_retries);
    }
}

impl Resource {
    fn new(max: u32, open: Gauge, remaining: Option<Gauge>) -> Self {
        if let Some(remaining) = &remaining {
            remaining.add(i64::from(max));
        }
        Self {
            current: AtomicU64::new(0),
            max: AtomicU32::new(max),
            is_open: AtomicBool::new(false),
            open,
            remaining,
            trips: AtomicU64::new(0),
            last_trip: AtomicU64::new(0),
        }
    }

    fn update(&self, max: u32) {
        let before = self.max.swap(max, Relaxed);
        if let Some(remaining) = &self.remaining {
            remaining.add(i64::from(max) - i64::from(before));
        }
        self.note(self.current.load(Relaxed));
    }

    /// Whether one more is within the threshold.
    #[must_use]
    pub fn can_create(&self) -> bool {
        self.current.load(Relaxed) < u64::from(self.max.load(Relaxed))
    }

    /// How many there are.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.current.load(Relaxed)
    }

    /// The threshold.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    /// How it stands.
    #[must_use]
    pub fn usage(&self, name: &'static str) -> Usage {
        let last = self.last_trip.load(Relaxed);
        Usage {
            name,
            used: self.current(),
            limit: u64::from(self.max()),
            trips: self.trips.load(Relaxed),
            last_trip: (last > 0).then(|| UNIX_EPOCH + Duration::from_millis(last)),
        }
    }

    /// Notes that something was refused.
    pub(crate) fn trip(&self) {
        self.trips.fetch_add(1, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.last_trip.store(millis, Relaxed);
    }

    /// Counts one, whatever the threshold.
    pub(crate) fn acquire(&self) {
        let now = self.current.fetch_add(1, Relaxed) + 1;
        if let Some(remaining) = &self.remaining {
            remaining.dec();
        }
        self.note(now);
    }

    /// Counts one if it is within the threshold, else notes the refusal.
    pub(crate) fn try_acquire(&self) -> bool {
        let within = self.can_create();
        if within {
            self.acquire();
        } else {
            self.trip();
        }
        within
    }

    /// Counts one less.
    pub(crate) fn release(&self) {
        let now = self.current.fetch_sub(1, Relaxed) - 1;
        if let Some(remaining) = &self.remaining {
            remaining.inc();
        }
        self.note(now);
    }

    fn note(&self, current: u64) {
        let open = current >= u64::from(self.max.load(Relaxed));
        if self.is_open.load(Relaxed) != open && self.is_open.swap(open, AcqRel) != open {
            if open {
                self.open.inc();
            } else {
                self.open.dec();
            }
        }
    }
}
