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

use super::{health::HealthFlags, lb::HostBalance, outlier::Monitor};
use crate::{
    config::cluster::{HealthCheckTarget, HealthStatus, Locality},
    telemetry::stream_info::Source,
};

/// One address that requests can go to.
#[derive(Debug)]
pub struct Host {
    /// Unique in this process; pools are keyed by it.
    pub id: u64,
    /// Where it is.
    pub address: SocketAddr,
    /// What connections to it come from, where a client's address is to be kept.
    pub source: Option<Source>,
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
    /// How and where it is checked, if at all.
    pub health_check: HealthCheckTarget,
    /// What outlier detection counts.
    pub outlier: Monitor,
    priority: AtomicU32,
    weight: AtomicU32,
    health: AtomicU8,
    /// What the proxy found out itself.
    flags: AtomicU32,
    /// Whether a health check of it ended.
    checked: AtomicBool,
    /// Whether it said that it is to fail its health checks at once.
    fails_immediately: AtomicBool,
    removed: AtomicBool,
    /// Whether it was used since hosts were last looked through for unused ones.
    used: AtomicBool,
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
    /// How and where it is checked.
    pub health_check: HealthCheckTarget,
}

impl Host {
    /// A new host with an id of its own.
    #[must_use]
    pub fn new(spec: &HostSpec) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            address: spec.address,
            source: None,
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
            health_check: spec.health_check.clone(),
            outlier: Monitor::default(),
            flags: AtomicU32::default(),
            checked: AtomicBool::new(false),
            fails_immediately: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            used: AtomicBool::new(true),
        }
    }

    /// The same for connections from a client's address.
    #[must_use]
    pub fn from_source(spec: &HostSpec, source: Option<Source>) -> Self {
        Self {
            source,
            ..Self::new(spec)
        }
    }

    /// Notes that it is used.
    pub(super) fn note_used(&self) {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    /// Whether it was used since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Relaxed)
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

    /// Everything that speaks against it, whoever found out.
    #[must_use]
    pub fn flags(&self) -> HealthFlags {
        HealthFlags::from_bits(self.flags.load(Relaxed)).and(HealthFlags::of_eds(self.health()))
    }

    /// Its health as load balancing sees it.
    #[must_use]
    pub fn coarse_health(&self) -> Health {
        const UNHEALTHY: HealthFlags = HealthFlags::FAILED_ACTIVE_HC
            .and(HealthFlags::FAILED_OUTLIER_CHECK)
            .and(HealthFlags::FAILED_EDS_HEALTH)
            .and(HealthFlags::EDS_STATUS_DRAINING);
        const DEGRADED: HealthFlags =
            HealthFlags::DEGRADED_ACTIVE_HC.and(HealthFlags::DEGRADED_EDS_HEALTH);
        let flags = self.flags();
        if flags.has(UNHEALTHY) {
            Health::Unhealthy
        } else if flags.has(DEGRADED) {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// Whether it does not even count as a host of its cluster when load is distributed.
    #[must_use]
    pub fn is_excluded(&self) -> bool {
        const EXCLUDED: HealthFlags = HealthFlags::PENDING_ACTIVE_HC
            .and(HealthFlags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL)
            .and(HealthFlags::EDS_STATUS_DRAINING);
        self.flags().has(EXCLUDED)
    }

    /// Whether the next request goes to it although it is ejected, to see if it is well again. Nothing
    /// else must speak against it.
    #[must_use]
    pub fn wants_probe(&self) -> bool {
        self.outlier.wants_probe()
            && HealthFlags::of_eds(self.health()) == HealthFlags::default()
            && !HealthFlags::from_bits(self.flags.load(Relaxed)).has(HealthFlags::FAILED_ACTIVE_HC)
    }

    /// Takes that request; true for one caller.
    #[must_use]
    pub fn take_probe(&self) -> bool {
        self.outlier.take_probe()
    }

    /// Whether a health check of it ever ended.
    pub(super) fn is_checked(&self) -> bool {
        self.checked.load(Relaxed)
    }

    pub(super) fn note_checked(&self) {
        self.checked.store(true, Relaxed);
    }

    /// It is to fail its health checks at once.
    pub(super) fn ask_to_fail(&self) {
        self.fails_immediately.store(true, Relaxed);
    }

    /// Whether that was asked for since the last call.
    pub(super) fn take_request_to_fail(&self) -> bool {
        self.fails_immediately.swap(false, Relaxed)
    }

    /// Sets a flag; whether it was not.
    pub(super) fn set(&self, flag: HealthFlags) -> bool {
        self.flags.fetch_or(flag.bits(), Relaxed) & flag.bits() == 0
    }

    /// Clears a flag; whether it was set.
    pub(super) fn clear(&self, flag: HealthFlags) -> bool {
        self.flags.fetch_and(!flag.bits(), Relaxed) & flag.bits() != 0
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
            && self.health_check == spec.health_check
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
