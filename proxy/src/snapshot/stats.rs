//! What updates of the configuration did, under Envoy's names.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::telemetry::stats::{Counter, Gauge, Registry, Scope};

/// `listener_manager.…`, `cluster_manager.…` and the subscriptions of both and of routes.
#[derive(Debug)]
pub(super) struct Stats {
    registry: Registry,
    pub(super) clusters: Objects,
    pub(super) listeners: Objects,
    /// Workers that took over a listener.
    pub(super) listener_create_success: Counter,
    /// `cluster_manager.cds`
    pub(super) cds: Option<Subscription>,
    /// `listener_manager.lds`
    pub(super) lds: Option<Subscription>,
    /// `http.<stat_prefix>.rds.<route configuration>`
    routes: BTreeMap<Arc<str>, Subscription>,
}

/// Objects of one kind.
#[derive(Debug)]
pub(super) struct Objects {
    added: Counter,
    modified: Counter,
    pub(super) removed: Counter,
    active: Gauge,
    warming: Gauge,
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    attempt: Counter,
    success: Counter,
    rejected: Counter,
    init_fetch_timeout: Counter,
    time: Gauge,
    version: Gauge,
    /// Route configurations that replaced another.
    config_reload: Option<Counter>,
}

impl Stats {
    pub(super) fn new(registry: &Registry, has_cds: bool, has_lds: bool) -> Self {
        let clusters = registry.scope("cluster_manager");
        let listeners = registry.scope("listener_manager");
        listeners.gauge("workers_started").set(1);
        Self {
            clusters: Objects {
                added: clusters.counter("cluster_added"),
                modified: clusters.counter("cluster_modified"),
                removed: clusters.counter("cluster_removed"),
                active: clusters.gauge("active_clusters"),
                warming: clusters.gauge("warming_clusters"),
            },
            listeners: Objects {
                added: listeners.counter("listener_added"),
                modified: listeners.counter("listener_modified"),
                removed: listeners.counter("listener_removed"),
                active: listeners.gauge("total_listeners_active"),
                warming: listeners.gauge("total_listeners_warming"),
            },
            listener_create_success: listeners.counter("listener_create_success"),
            cds: has_cds.then(|| Subscription::new(&clusters.scope("cds"))),
            lds: has_lds.then(|| Subscription::new(&listeners.scope("lds"))),
            routes: BTreeMap::new(),
            registry: registry.clone(),
        }
    }

    /// The subscription of a route configuration that a connection manager of this prefix wants.
    pub(super) fn route(&mut self, name: &Arc<str>, stat_prefix: &str) -> &Subscription {
        self.routes.entry(Arc::clone(name)).or_insert_with(|| {
            let scope = self
                .registry
                .scope(&format!("http.{stat_prefix}.rds.{name}"));
            Subscription {
                config_reload: Some(scope.counter("config_reload")),
                ..Subscription::new(&scope)
            }
        })
    }
}

impl Objects {
    /// An object is new, or another version of a known one.
    pub(super) fn changed(&self, was_known: bool) {
        if was_known {
            self.modified.inc();
        } else {
            self.added.inc();
        }
    }

    /// What there is now.
    pub(super) fn set(&self, active: usize, warming: usize) {
        self.active.set(active as u64);
        self.warming.set(warming as u64);
    }
}

impl Subscription {
    fn new(scope: &Scope) -> Self {
        Self {
            attempt: scope.counter("update_attempt"),
            success: scope.counter("update_success"),
            rejected: scope.counter("update_rejected"),
            init_fetch_timeout: scope.counter("init_fetch_timeout"),
            time: scope.gauge("update_time"),
            version: scope.gauge("version"),
            config_reload: None,
        }
    }

    /// A server was asked.
    pub(super) fn requested(&self) {
        self.attempt.inc();
    }

    /// An update came and was taken, or refused.
    pub(super) fn updated(&self, is_accepted: bool, version: Option<&str>) {
        self.attempt.inc();
        if !is_accepted {
            self.rejected.inc();
            return;
        }
        self.success.inc();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = now.map_or(0, |since| since.as_millis());
        self.time.set(u64::try_from(millis).unwrap_or(u64::MAX));
        if let Some(version) = version {
            // A number for a name, the same in every proxy.
            let mut hasher = DefaultHasher::new();
            version.hash(&mut hasher);
            self.version.set(hasher.finish());
        }
    }

    /// The content is another than before.
    pub(super) fn reloaded(&self) {
        if let Some(counter) = &self.config_reload {
            counter.inc();
        }
    }

    /// No answer came in time.
    pub(super) fn timed_out(&self) {
        self.attempt.inc();
        self.init_fetch_timeout.inc();
    }
}
