//! The task of one host: asks, lets the session decide, and waits.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    probe::Probe,
    session::{Session, Transition, Verdict, pause, with_jitter},
};
use crate::{
    config::health_check::HealthCheck,
    telemetry::access_log::EventLog,
    upstream::{Cluster, HealthFlags, Host, outlier},
};

/// What one host's task needs.
pub(super) struct Task {
    pub(super) cluster: Weak<Cluster>,
    pub(super) host: Arc<Host>,
    pub(super) config: Arc<HealthCheck>,
    pub(super) logs: Arc<[EventLog]>,
    pub(super) probe: Probe,
    /// The host is to fail at once.
    pub(super) passive: Arc<Notify>,
    /// Called after the first check.
    pub(super) on_warm: Arc<dyn Fn() + Send + Sync>,
}

impl Task {
    /// Runs until it is dropped or the cluster is gone.
    pub(super) async fn run(mut self) {
        let mut session = Session::new(&self.host);
        let mut random = rand::random::<u64>;
        let jitter = self.config.intervals.initial_jitter;
        if !jitter.is_zero() {
            let first = with_jitter(Duration::ZERO, jitter, 0, &mut random);
            if self.besides(&mut session, sleep(first)).await.is_none() {
                return;
            }
        }
        loop {
            match self.cluster.upgrade() {
                Some(cluster) => {
                    if let Some(checker) = &cluster.health {
                        checker.stats.attempt.inc();
                    }
                }
                None => return,
            }
            let limit = self.config.timeout;
            let mut probe = std::mem::take(&mut self.probe);
            let config = Arc::clone(&self.config);
            let asked = timeout(limit, probe.check(&config));
            let Some(asked) = self.besides(&mut session, asked).await else {
                return;
            };
            let verdict = asked.unwrap_or(Verdict::TimedOut);
            if verdict == Verdict::TimedOut || !config.reuse_connection {
                probe.close();
            }
            self.probe = probe;
            let Some(pause) = self.take(&mut session, verdict) else {
                return;
            };
            if self.besides(&mut session, sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Runs `future`; a failure that the host itself announces counts meanwhile, without changing the
    /// times. None when the cluster is gone.
    async fn besides<F: Future>(&self, session: &mut Session, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return Some(output),
                () = self.passive.notified() => {
                    self.take(session, Verdict::Passive)?;
                }
            }
        }
    }

    /// Counts a verdict and tells whom it concerns; the time to the next check, or none when the cluster
    /// is gone.
    fn take(&self, session: &mut Session, verdict: Verdict) -> Option<Duration> {
        let cluster = self.cluster.upgrade()?;
        let checker = cluster.health.as_ref()?;
        let was_checked = self.host.is_checked();
        let transition = session.take(&self.host, &self.config, verdict, &mut |event| {
            if self.logs.is_empty() {
                return;
            }
            let line = event.line(&self.config.checker, cluster.name(), &self.host);
            self.logs.iter().for_each(|log| log.write(&line));
        });
        let stats = &checker.stats;
        match verdict {
            Verdict::Passed { .. } => stats.success.inc(),
            Verdict::Failed { .. } => stats.failure.inc(),
            Verdict::Passive => {
                stats.failure.inc();
                stats.passive_failure.inc();
            }
            Verdict::Network | Verdict::TimedOut => {
                stats.failure.inc();
                stats.network_failure.inc();
            }
        }
        let is_healthy = matches!(verdict, Verdict::Passed { .. });
        if transition == Transition::Changed {
            if is_healthy && was_checked {
                // It takes its share step by step again.
                self.host.balance.restart();
            }
            cluster.refresh_hosts();
        }
        let flags = self.host.flags();
        if is_healthy
            && flags.has(HealthFlags::FAILED_OUTLIER_CHECK)
            && !flags.has(HealthFlags::FAILED_ACTIVE_HC)
        {
            outlier::uneject(&cluster, &self.host);
        }
        if !was_checked {
            cluster.try_initialize();
            (self.on_warm)();
        }
        let has_traffic = cluster.stats.upstream_cx_total.value() > 0;
        Some(pause(
            &self.config.intervals,
            is_healthy,
            transition,
            has_traffic,
            &mut rand::random::<u64>,
        ))
    }
}
