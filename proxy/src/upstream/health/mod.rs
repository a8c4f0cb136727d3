//! The health of hosts: why one does not take requests, and the active checks that find out.
//!
//! All of it runs on the main thread: one task per cluster follows its hosts ([`watch`]), one per host
//! asks it again and again (`session` decides what an answer means, `probe` asks). A worker only says
//! that a host sent `x-envoy-immediate-health-check-fail`.

mod event;
mod flags;
pub(crate) mod message;
mod probe;
mod session;
mod stats;
mod task;
mod watch;

use std::sync::Arc;

use tokio::sync::Notify;

use self::stats::Stats;
use super::Host;
use crate::{config::health_check::HealthCheck, telemetry::stats::Scope};

pub use flags::HealthFlags;
pub use watch::watch;

/// Active health checking of one cluster.
#[derive(Debug)]
pub struct Checker {
    config: Arc<HealthCheck>,
    stats: Stats,
    /// Hosts came or went, or one is to fail at once.
    wake: Arc<Notify>,
}

impl Checker {
    /// Checks by `config`; `scope` is the cluster's.
    pub(super) fn new(config: Arc<HealthCheck>, scope: &Scope) -> Self {
        Self {
            config,
            stats: Stats::new(&scope.scope("health_check")),
            wake: Arc::default(),
        }
    }

    /// A host said in an answer to a request that it is not to get more. Called by workers.
    pub fn fail_immediately(&self, host: &Host) {
        host.ask_to_fail();
        self.wake.notify_one();
    }

    /// Hosts came or went.
    pub(super) fn hosts_changed(&self) {
        self.wake.notify_one();
    }

    /// Counts who is well: after each change of health and of the hosts.
    pub(super) fn note(&self, hosts: &[Arc<Host>]) {
        let checked = || hosts.iter().filter(|host| !host.health_check.is_disabled);
        let count = |is_meant: fn(HealthFlags) -> bool| {
            checked().filter(|host| is_meant(host.flags())).count() as u64
        };
        let healthy = count(|flags| !flags.has(HealthFlags::FAILED_ACTIVE_HC));
        self.stats.healthy.set(healthy);
        let degraded = count(|flags| flags.has(HealthFlags::DEGRADED_ACTIVE_HC));
        self.stats.degraded.set(degraded);
    }
}

#[cfg(test)]
mod tests;
