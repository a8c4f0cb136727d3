//! The task of one cluster: one task for each of its hosts, as they come and go.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};

use super::{probe::Probe, task::Task};
use crate::{
    config::health_check::HealthCheck,
    telemetry::access_log::EventLog,
    upstream::{Cluster, Host},
};

/// Checks a cluster's hosts until the cluster is gone or replaced; `on_warm` is called when a host was
/// checked for the first time. None without health checks.
pub fn watch(
    cluster: &Arc<Cluster>,
    logs: Vec<EventLog>,
    on_warm: impl Fn() + Send + Sync + 'static,
) -> Option<JoinHandle<()>> {
    let checker = cluster.health.as_ref()?;
    let mut end = cluster.ended();
    let mut watch = Watch {
        config: Arc::clone(&checker.config),
        cluster: Arc::downgrade(cluster),
        logs: logs.into(),
        on_warm: Arc::new(on_warm),
        hosts: HashMap::new(),
    };
    Some(tokio::spawn(async move {
        loop {
            let Some(cluster) = watch.cluster.upgrade() else {
                return;
            };
            watch.follow(&cluster);
            drop(cluster);
            tokio::select! {
                () = end.wait() => return,
                () = woken(&watch.cluster) => {}
            }
        }
    }))
}

/// Ends when the cluster has news. It must not live longer for being waited for.
async fn woken(cluster: &Weak<Cluster>) {
    let wake = cluster.upgrade().and_then(|cluster| {
        let checker = cluster.health.as_ref()?;
        Some(Arc::clone(&checker.wake))
    });
    match wake {
        Some(wake) => wake.notified().await,
        None => std::future::pending().await,
    }
}

struct Watch {
    config: Arc<HealthCheck>,
    /// Weak: a removed cluster ends its checks.
    cluster: Weak<Cluster>,
    logs: Arc<[EventLog]>,
    on_warm: Arc<dyn Fn() + Send + Sync>,
    hosts: HashMap<u64, Checked>,
}

/// A host that is checked; dropping it ends that.
struct Checked {
    passive: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Checked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Starts and ends checks as hosts came and went, and passes on who is to fail at once.
    fn follow(&mut self, cluster: &Arc<Cluster>) {
        let set = cluster.hosts.load_full();
        let mut known = std::mem::take(&mut self.hosts);
        for host in set.hosts.iter().filter(|one| !one.health_check.is_disabled) {
            let checked = known
                .remove(&host.id)
                .unwrap_or_else(|| self.start(cluster, host));
            if host.take_request_to_fail() {
                checked.passive.notify_one();
            }
            self.hosts.insert(host.id, checked);
        }
        if let Some(checker) = &cluster.health {
            checker.note(&set.hosts);
        }
    }

    fn start(&self, cluster: &Cluster, host: &Arc<Host>) -> Checked {
        let passive = Arc::new(Notify::new());
        let task = Task {
            cluster: Weak::clone(&self.cluster),
            host: Arc::clone(host),
            config: Arc::clone(&self.config),
            logs: Arc::clone(&self.logs),
            probe: Probe::new(&self.config, cluster, host),
            passive: Arc::clone(&passive),
            on_warm: Arc::clone(&self.on_warm),
        };
        Checked {
            passive,
            task: tokio::spawn(task.run()).abort_handle(),
        }
    }
}
