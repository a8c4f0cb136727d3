//! Hosts of a cluster: their identity, counters and health.
//!
//! A [`Host`] keeps its identity over updates as long as its address stays, so that pools and
//! counters live on.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use http::HeaderValue;

use super::lb::HostBalance;
use crate::config::cluster::{HealthStatus, Locality};

/// One address that requests can go to.
#[derive(Debug)]
pub struct Host {
    /// Unique in this process; pools are keyed by it.
    pub id: u64,
    /// Where it is.
    pub address: SocketAddr,
    /// For `host_rewrite: auto`; empty when there is none.
    pub hostname: Arc<str>,
    /// The same as a header value.
    pub authority: Option<HeaderValue>,
    /// Where it runs.
    pub locality: Locality,
    /// What consistent hashing knows it by, instead of its address.
    pub hash_key: Option<Arc<str>>,
    /// Counters and gauges, as `/clusters` shows them.
    pub stats: HostStats,
    /// What load balancing knows of it.
    pub balance: HostBalance,
    priority: AtomicU32,
    weight: AtomicU32,
    health: AtomicU8,
    removed: AtomicBool,
}

/// Per-host statistics.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Connections made.
    pub cx_total: AtomicU64,
    /// Connections open.
    pub cx_active: AtomicU64,
    /// Failed connection attempts.
    pub cx_connect_fail: AtomicU64,
    /// Requests sent.
    pub rq_total: AtomicU64,
    /// Requests in flight.
    pub rq_active: AtomicU64,
    /// Answers other than 5xx.
    pub rq_success: AtomicU64,
    /// 5xx answers, resets and failures to connect.
    pub rq_error: AtomicU64,
    /// Requests that timed out.
    pub rq_timeout: AtomicU64,
}

/// What a [`Host`] is made from.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Where it is.
    pub address: SocketAddr,
    /// Its name.
    pub hostname: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Priority level.
    pub priority: u32,
    /// At least 1.
    pub weight: u32,
    /// As the source says.
    pub health: HealthStatus,
    /// What consistent hashing knows it by, instead of its address.
    pub hash_key: Option<Arc<str>>,
}

impl Host {
    /// A new host with an id of its own.
    #[must_use]
    pub fn new(spec: &HostSpec) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            address: spec.address,
            authority: (!spec.hostname.is_empty())
                .then(|| HeaderValue::from_str(&spec.hostname).ok())
                .flatten(),
            hostname: Arc::clone(&spec.hostname),
            locality: spec.locality.clone(),
            hash_key: spec.hash_key.clone(),
            stats: HostStats::default(),
            balance: HostBalance::default(),
            priority: AtomicU32::new(spec.priority),
            weight: AtomicU32::new(spec.weight.max(1)),
            health: AtomicU8::new(encode(spec.health)),
            removed: AtomicBool::new(false),
        }
    }

    /// Its share of the requests, relative to others.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Its priority level.
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.priority.load(Relaxed)
    }

    /// Its health, as the source says.
    #[must_use]
    pub fn health(&self) -> HealthStatus {
        decode(self.health.load(Relaxed))
    }

    /// Whether it left its cluster: its connections close once they are idle.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }

    /// Whether this host can stand for `spec` (its mutable parts aside).
    pub(super) fn is(&self, spec: &HostSpec) -> bool {
        self.address == spec.address
            && self.hostname == spec.hostname
            && self.locality == spec.locality
            && self.hash_key == spec.hash_key
    }

    /// Takes over the mutable parts of `spec`; whether any of them changed.
    pub(super) fn update(&self, spec: &HostSpec) -> bool {
        let weight = spec.weight.max(1);
        let health = encode(spec.health);
        self.removed.store(false, Relaxed);
        let mut changed = self.weight.swap(weight, Relaxed) != weight;
        changed |= self.health.swap(health, Relaxed) != health;
        changed |= self.priority.swap(spec.priority, Relaxed) != spec.priority;
        changed
    }

    pub(super) fn remove(&self) {
        self.removed.store(true, Relaxed);
    }
}

/// Health as load balancing sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Takes requests.
    Healthy,
    /// Takes requests when healthy hosts are too few.
    Degraded,
    /// Takes requests in panic only.
    Unhealthy,
}

impl From<HealthStatus> for Health {
    fn from(status: HealthStatus) -> Self {
        match status {
            HealthStatus::Unknown | HealthStatus::Healthy => Self::Healthy,
            HealthStatus::Degraded => Self::Degraded,
            HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => {
                Self::Unhealthy
            }
        }
    }
}

fn encode(health: HealthStatus) -> u8 {
    match health {
        HealthStatus::Unknown => 0,
        HealthStatus::Healthy => 1,
        HealthStatus::Unhealthy => 2,
        HealthStatus::Draining => 3,
        HealthStatus::Timeout => 4,
        HealthStatus::Degraded => 5,
    }
}

fn decode(code: u8) -> HealthStatus {
    match code {
        1 => HealthStatus::Healthy,
        2 => HealthStatus::Unhealthy,
        3 => HealthStatus::Draining,
        4 => HealthStatus::Timeout,
        5 => HealthStatus::Degraded,
        _ => HealthStatus::Unknown,
    }
}
