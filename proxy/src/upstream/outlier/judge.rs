//! Who is ejected and who comes back: Envoy's arithmetic, and the return by one probing request.
//!
//! Runs on the main thread only.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Averages, Detector,
    event::{Event, What},
    monitor::{Kind, Probe, Trip},
};
use crate::upstream::{HealthFlags, Host};

/// What a decision needs besides the hosts.
pub(super) struct Court<'a> {
    pub(super) now: Instant,
    pub(super) random: &'a mut dyn FnMut() -> u64,
    /// Takes what belongs into the event log.
    pub(super) log: &'a mut dyn FnMut(&Host, &Event),
    /// Whether the sets to pick from must be made again.
    pub(super) is_changed: bool,
}

impl Detector {
    /// Decides on what workers have signalled.
    pub(super) fn handle_trips(&self, hosts: &[Arc<Host>], court: &mut Court<'_>) {
        for host in hosts {
            let trips = host.outlier.take_trips();
            if trips == Trip::NONE {
                continue;
            }
            if host.outlier.is_probed() {
                if trips.has(Trip::PROBE_FAILED) {
                    self.eject_again(host, court);
                } else if trips.has(Trip::PROBE_SUCCEEDED) {
                    self.uneject(host, court);
                }
            }
            for (trip, kind) in [
                (Trip::GATEWAY_FAILURE, Kind::ConsecutiveGatewayFailure),
                (Trip::CONSECUTIVE_5XX, Kind::Consecutive5xx),
                (
                    Trip::LOCAL_ORIGIN_FAILURE,
                    Kind::ConsecutiveLocalOriginFailure,
                ),
            ] {
                if trips.has(trip) && !is_ejected(host) {
                    self.stats.detected(kind).inc();
                    self.eject(hosts, host, kind, None, court);
                    if kind == Kind::Consecutive5xx {
                        self.stats.old_consecutive_5xx.inc();
                    }
                    host.outlier.reset_consecutive(kind);
                }
            }
        }
    }

    /// Ends an interval: hosts whose time is over may show that they are well again, and success rates are
    /// compared.
    pub(super) fn sweep(&self, hosts: &[Arc<Host>], court: &mut Court<'_>) {
        let mut buckets = [Vec::new(), Vec::new()];
        for host in hosts {
            self.advance(host, court);
            let monitor = &host.outlier;
            for (is_local, bucket) in [false, true].into_iter().zip(monitor.take_buckets()) {
                monitor.set_rate(is_local, -1.0);
                buckets[usize::from(is_local)].push(bucket);
            }
        }
        for (is_local, buckets) in [false, true].into_iter().zip(buckets) {
            self.compare(hosts, &buckets, is_local, court);
        }
        for monitor in hosts
            .iter()
            .filter(|host| !is_ejected(host))
            .map(|host| &host.outlier)
        {
            monitor.set_backoff(monitor.backoff().saturating_sub(1));
        }
    }

    /// Counts who is ejected now: after each decision and each change of the hosts.
    pub(in crate::upstream) fn note_active(&self, hosts: &[Arc<Host>]) {
        let active = hosts.iter().filter(|host| is_ejected(host)).count();
        self.stats.active.set(active as u64);
    }

    /// Takes a host back.
    pub(super) fn uneject(&self, host: &Arc<Host>, court: &mut Court<'_>) {
        if !host.clear(HealthFlags::FAILED_OUTLIER_CHECK) {
            return;
        }
        host.outlier.uneject(court.now);
        court.is_changed = true;
        let event = Event::new(host, Kind::Consecutive5xx, What::Uneject, court.now);
        (court.log)(host, &event);
    }

    /// How far the return of an ejected host is.
    fn advance(&self, host: &Arc<Host>, court: &mut Court<'_>) {
        let monitor = &host.outlier;
        if !is_ejected(host) {
            return;
        }
        match monitor.probe() {
            Probe::None => {
                let time = self.ejection_time(monitor.backoff()) + monitor.jitter();
                if monitor
                    .since_ejection(court.now)
                    .is_some_and(|since| time <= since)
                {
                    monitor.set_probe(Probe::Wanted);
                    court.is_changed = true;
                }
            }
            Probe::Wanted => {}
            // A request that was given up says nothing: after a whole interval another one is sent.
            Probe::Sent => monitor.set_probe(Probe::Overdue),
            Probe::Overdue => monitor.set_probe(Probe::Wanted),
        }
    }

    fn ejection_time(&self, backoff: u32) -> Duration {
        self.config
            .base_ejection_time
            .saturating_mul(backoff)
            .min(self.config.max_ejection_time)
    }

    /// Ejects `host` if the caps allow it and the dice say so.
    fn eject(
        &self,
        hosts: &[Arc<Host>],
        host: &Arc<Host>,
        kind: Kind,
        rates: Option<Rates>,
        court: &mut Court<'_>,
    ) {
        let active = hosts.iter().filter(|host| is_ejected(host)).count();
        if !self.may_eject(active, hosts.len()) {
            self.stats.overflow.inc();
            return;
        }
        if matches!(kind, Kind::Consecutive5xx | Kind::SuccessRate) {
            self.stats.old_total.inc();
        }
        let is_enforced = (court.random)() % 100 < u64::from(self.enforcing(kind));
        if is_enforced {
            host.set(HealthFlags::FAILED_OUTLIER_CHECK);
            self.note_ejection(host, kind, court);
        }
        let what = What::Eject { is_enforced, rates };
        (court.log)(host, &Event::new(host, kind, what, court.now));
    }

    /// The probing request failed: the host stays away, for longer.
    fn eject_again(&self, host: &Arc<Host>, court: &mut Court<'_>) {
        let kind = host.outlier.kind();
        self.stats.detected(kind).inc();
        self.note_ejection(host, kind, court);
        let what = What::Eject {
            is_enforced: true,
            rates: None,
        };
        (court.log)(host, &Event::new(host, kind, what, court.now));
    }

    fn note_ejection(&self, host: &Arc<Host>, kind: Kind, court: &mut Court<'_>) {
        self.stats.enforced_total.inc();
        self.stats.enforced(kind).inc();
        let (config, monitor) = (&self.config, &host.outlier);
        let limit = u64::try_from(config.max_ejection_time_jitter.as_millis()).unwrap_or(u64::MAX);
        let jitter = match limit {
            0 => 0,
            limit => (court.random)() % limit.saturating_add(1),
        };
        monitor.eject(kind, court.now, Duration::from_millis(jitter));
        let backoff = monitor.backoff();
        let limit = config.max_ejection_time + config.base_ejection_time;
        if config.base_ejection_time.saturating_mul(backoff) < limit {
            monitor.set_backoff(backoff.saturating_add(1));
        }
        court.is_changed = true;
    }

    fn may_eject(&self, active: usize, all: usize) -> bool {
        use crate::config::outlier_detection::EjectOne;

        let percent = 100.0 * (active as f64 + 1.0) / all.max(1) as f64;
        let is_first = active == 0
            && match self.config.eject_one {
                EjectOne::Always => true,
                EjectOne::OfSeveral => all > 1,
                EjectOne::Never => false,
            };
        is_first || percent <= f64::from(self.config.max_ejection_percent)
    }

    fn enforcing(&self, kind: Kind) -> u32 {
        let config = &self.config;
        match kind {
            Kind::Consecutive5xx => config.consecutive_5xx.enforcing,
            Kind::ConsecutiveGatewayFailure => config.consecutive_gateway_failure.enforcing,
            Kind::ConsecutiveLocalOriginFailure => {
                config.consecutive_local_origin_failure.enforcing
            }
            Kind::SuccessRate => config.success_rate.enforcing,
            Kind::SuccessRateLocalOrigin => config.success_rate.enforcing_local_origin,
            Kind::FailurePercentage => config.failure_percentage.enforcing,
            Kind::FailurePercentageLocalOrigin => config.failure_percentage.enforcing_local_origin,
        }
    }

    /// Ejects by success rate and by share of failures, from the counts of the last interval.
    fn compare(
        &self,
        hosts: &[Arc<Host>],
        buckets: &[(u64, u64)],
        is_local: bool,
        court: &mut Court<'_>,
    ) {
        let (by_rate, by_share) = (&self.config.success_rate, &self.config.failure_percentage);
        let averages = if is_local {
            &self.local_averages
        } else {
            &self.averages
        };
        averages.store(Averages {
            mean: -1.0,
            threshold: -1.0,
        });
        let is_enough = |minimum: u32, count: usize| count as u64 >= u64::from(minimum);
        if !is_enough(by_rate.minimum_hosts, hosts.len())
            && !is_enough(by_share.minimum_hosts, hosts.len())
        {
            return;
        }
        let mut rated = Vec::new();
        let mut shared = Vec::new();
        for (host, (all, good)) in hosts.iter().zip(buckets) {
            if is_ejected(host) || *all == 0 {
                continue;
            }
            let rate = *good as f64 * 100.0 / *all as f64;
            let has_volume = |volume: u32| *all >= u64::from(volume);
            if has_volume(by_rate.request_volume.min(by_share.request_volume)) {
                host.outlier.set_rate(is_local, rate);
            }
            if has_volume(by_rate.request_volume) {
                rated.push((host, rate));
            }
            if has_volume(by_share.request_volume) {
                shared.push((host, rate));
            }
        }
        if !rated.is_empty() && is_enough(by_rate.minimum_hosts, rated.len()) {
            let found = threshold(&rated, f64::from(by_rate.stdev_factor) / 1000.0);
            averages.store(found);
            let kind = match is_local {
                false => Kind::SuccessRate,
                true => Kind::SuccessRateLocalOrigin,
            };
            for (host, rate) in rated
                .into_iter()
                .filter(|(_, rate)| *rate < found.threshold)
            {
                self.stats.old_success_rate.inc();
                self.stats.detected(kind).inc();
                let averages = Some(found);
                self.eject(hosts, host, kind, Some(Rates { rate, averages }), court);
            }
        }
        if !shared.is_empty() && is_enough(by_share.minimum_hosts, shared.len()) {
            let kind = match is_local {
                false => Kind::FailurePercentage,
                true => Kind::FailurePercentageLocalOrigin,
            };
            for (host, rate) in shared {
                if 100.0 - rate >= f64::from(by_share.threshold) && !is_ejected(host) {
                    self.stats.detected(kind).inc();
                    let averages = None;
                    self.eject(hosts, host, kind, Some(Rates { rate, averages }), court);
                }
            }
        }
    }
}

/// Why a host was ejected at a sweep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) rate: f64,
    pub(super) averages: Option<Averages>,
}

fn is_ejected(host: &Host) -> bool {
    host.flags().has(HealthFlags::FAILED_OUTLIER_CHECK)
}

/// The mean, and the mean less `factor` standard deviations.
fn threshold(rates: &[(&Arc<Host>, f64)], factor: f64) -> Averages {
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates
        .iter()
        .map(|(_, rate)| (rate - mean).powi(2))
        .sum::<f64>()
        / count;
    Averages {
        mean,
        threshold: mean - factor * variance.sqrt(),
    }
}
