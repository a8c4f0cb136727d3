//! What the answers of one host mean, as Envoy counts them. No clock, no I/O.

use std::time::Duration;

use super::{event::Event, flags::HealthFlags};
use crate::{
    config::health_check::{HealthCheck, Intervals},
    upstream::Host,
};

/// The end of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As expected.
    Passed { is_degraded: bool },
    /// An answer that says no.
    Failed {
        /// Counts towards the threshold; else the host is unhealthy at once.
        is_retriable: bool,
        /// HTTP status, or 0.
        status: u16,
        /// With `x-envoy-immediate-health-check-fail`.
        is_excluded: bool,
    },
    /// The host said in the answer to a request that it fails.
    Passive,
    /// No connection, or it broke.
    Network,
    /// No answer in time.
    TimedOut,
}

/// What became of the host's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Unchanged,
    /// The threshold is not reached yet.
    Pending,
    Changed,
}

/// Counts of one host.
#[derive(Debug)]
pub(super) struct Session {
    is_first: bool,
    healthy_run: u32,
    unhealthy_run: u32,
}

impl Session {
    pub(super) fn new(host: &Host) -> Self {
        Self {
            is_first: !host.is_checked(),
            healthy_run: 0,
            unhealthy_run: 0,
        }
    }

    /// Takes a verdict into account: sets the host's flags.
    pub(super) fn take(
        &mut self,
        host: &Host,
        config: &HealthCheck,
        verdict: Verdict,
        log: &mut dyn FnMut(Event),
    ) -> Transition {
        let transition = match verdict {
            Verdict::Passed { is_degraded } => self.passed(host, config, is_degraded, log),
            failed => self.failed(host, config, failed, log),
        };
        self.is_first = false;
        host.note_checked();
        transition
    }

    fn passed(
        &mut self,
        host: &Host,
        config: &HealthCheck,
        is_degraded: bool,
        log: &mut dyn FnMut(Event),
    ) -> Transition {
        self.unhealthy_run = 0;
        let mut transition = Transition::Unchanged;
        if host.flags().has(HealthFlags::FAILED_ACTIVE_HC) {
            self.healthy_run += 1;
            // The first answer ever counts at once: that makes starts fast.
            if self.is_first || self.healthy_run >= config.healthy_threshold {
                host.clear(HealthFlags::ACTIVE_HC_TIMEOUT);
                host.clear(HealthFlags::FAILED_ACTIVE_HC);
                host.clear(HealthFlags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL);
                transition = Transition::Changed;
                log(Event::AddHealthy {
                    is_first: self.is_first,
                });
            } else {
                transition = Transition::Pending;
            }
        }
        if config.always_log_successes {
            log(Event::Successful);
        }
        if host.clear(HealthFlags::PENDING_ACTIVE_HC) {
            transition = Transition::Changed;
        }
        let is_turned = match is_degraded {
            true => host.set(HealthFlags::DEGRADED_ACTIVE_HC),
            false => host.clear(HealthFlags::DEGRADED_ACTIVE_HC),
        };
        if is_turned {
            log(match is_degraded {
                true => Event::Degraded,
                false => Event::NoLongerDegraded,
            });
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        transition
    }

    fn failed(
        &mut self,
        host: &Host,
        config: &HealthCheck,
        verdict: Verdict,
        log: &mut dyn FnMut(Event),
    ) -> Transition {
        self.healthy_run = 0;
        if let Verdict::Passive
        | Verdict::Failed {
            is_excluded: true, ..
        } = verdict
        {
            host.set(HealthFlags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL);
        }
        let is_at_once = match verdict {
            Verdict::Failed { is_retriable, .. } => !is_retriable,
            Verdict::Passive => true,
            Verdict::Passed { .. } | Verdict::Network | Verdict::TimedOut => false,
        };
        let mut transition = Transition::Unchanged;
        if !host.flags().has(HealthFlags::FAILED_ACTIVE_HC) {
            if !is_at_once {
                self.unhealthy_run += 1;
            }
            if is_at_once || self.unhealthy_run >= config.unhealthy_threshold {
                host.set(HealthFlags::FAILED_ACTIVE_HC);
                transition = Transition::Changed;
                log(Event::EjectUnhealthy(verdict));
            } else {
                transition = Transition::Pending;
            }
        }
        if host.flags().has(HealthFlags::FAILED_ACTIVE_HC) {
            if verdict == Verdict::TimedOut {
                host.set(HealthFlags::ACTIVE_HC_TIMEOUT);
            } else {
                host.clear(HealthFlags::ACTIVE_HC_TIMEOUT);
            }
        }
        if host.clear(HealthFlags::PENDING_ACTIVE_HC) {
            transition = Transition::Changed;
        }
        if self.is_first || config.always_log_failures {
            log(Event::Failure {
                verdict,
                is_first: self.is_first,
            });
        }
        transition
    }
}

/// The time until the next check, by the last one's result. `random` gives random bits.
pub(super) fn pause(
    intervals: &Intervals,
    is_healthy: bool,
    transition: Transition,
    has_traffic: bool,
    random: &mut dyn FnMut() -> u64,
) -> Duration {
    let is_edge = transition == Transition::Pending;
    let base = match (has_traffic, is_healthy, is_edge) {
        (false, true, _) => intervals.no_traffic_healthy,
        (false, false, _) => intervals.no_traffic,
        (true, true, true) => intervals.healthy_edge,
        (true, true, false) => intervals.healthy,
        (true, false, true) => intervals.unhealthy_edge,
        (true, false, false) => intervals.unhealthy,
    };
    with_jitter(base, intervals.jitter, intervals.jitter_percent, random)
}

/// `base`, and up to `percent` of it and `jitter` more.
pub(super) fn with_jitter(
    base: Duration,
    jitter: Duration,
    percent: u32,
    random: &mut dyn FnMut() -> u64,
) -> Duration {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut below = |limit: u64| match limit {
        0 => Duration::ZERO,
        limit => Duration::from_millis(random() % limit),
    };
    let share = millis(base).saturating_mul(u64::from(percent)) / 100;
    let total = base
        .saturating_add(below(share))
        .saturating_add(below(millis(jitter)));
    // Never at once: a host that answers fast must not keep us busy.
    total.max(Duration::from_millis(1))
}
