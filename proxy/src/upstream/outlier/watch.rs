//! The main thread's task of one cluster: takes signals, sweeps, and lets the host sets be made again.

use std::{sync::Arc, time::SystemTime};

use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{Detector, judge::Court};
use crate::{
    telemetry::access_log::EventLog,
    upstream::{Cluster, Host},
};

/// Watches a cluster's hosts until the cluster is gone or replaced. None without outlier detection.
pub fn watch(cluster: &Arc<Cluster>, log: Option<EventLog>) -> Option<JoinHandle<()>> {
    let detector = cluster.outlier.as_ref()?;
    if let Some(log) = log {
        // A cluster is watched once.
        let _already = detector.log.set(log);
    }
    let wake = Arc::clone(&detector.wake);
    let period = detector.config.interval;
    let mut end = cluster.ended();
    let cluster = Arc::downgrade(cluster);
    Some(tokio::spawn(async move {
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_sweep = tokio::select! {
                () = end.wait() => return,
                () = wake.notified() => false,
                _ = ticks.tick() => true,
            };
            let Some(cluster) = cluster.upgrade() else {
                return;
            };
            decide(&cluster, |detector, hosts, court| match is_sweep {
                true => detector.sweep(hosts, court),
                false => detector.handle_trips(hosts, court),
            });
        }
    }))
}

/// Takes a host back that passed an active health check.
pub(in crate::upstream) fn uneject(cluster: &Arc<Cluster>, host: &Arc<Host>) {
    decide(cluster, |detector, _, court| {
        if detector.config.successful_active_health_check_uneject_host {
            detector.uneject(host, court);
        }
    });
}

fn decide(cluster: &Arc<Cluster>, decision: impl FnOnce(&Detector, &[Arc<Host>], &mut Court<'_>)) {
    let Some(detector) = &cluster.outlier else {
        return;
    };
    let set = cluster.hosts.load_full();
    let mut log = |host: &Host, event: &super::event::Event| {
        if let Some(log) = detector.log.get() {
            let timestamp = EventLog::timestamp(SystemTime::now());
            log.write(&event.line(cluster.name(), host, &timestamp));
        }
    };
    let mut court = Court {
        now: Instant::now(),
        random: &mut rand::random::<u64>,
        log: &mut log,
        is_changed: false,
    };
    decision(detector, &set.hosts, &mut court);
    if court.is_changed {
        cluster.refresh_hosts();
    }
}
