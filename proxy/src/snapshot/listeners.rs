//! Listeners by name: the serving version, the one that warms, and what was refused last.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{
    clusters::{Clusters, SourceKey},
    resource::{Origin, Resource},
    routes::{Routes, named_clusters},
    state::Host,
    versions::Versions,
};
use crate::{
    config::{
        http_connection_manager::RouteSource,
        listener::{Listener, NetworkFilter},
    },
    listener::Active,
};

/// All listeners of the proxy.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// The listeners themselves.
    pub(super) by_name: Versions<Active>,
    /// Versions that serve no more; their connections drain, and need their routes until then.
    retired: Vec<Weak<Active>>,
    /// Removed by the update that is being taken: what takes their place takes over their sockets.
    removed: Vec<Arc<Active>>,
}

impl Listeners {
    /// Adds or changes a listener; its sockets are bound at once, so that a taken address is refused
    /// here and not when it is warm. Tells whether it is another one than before.
    ///
    /// # Errors
    /// When the name or an address is taken.
    pub(super) fn upsert(
        &mut self,
        resource: Resource,
        config: Listener,
        host: &mut dyn Host,
    ) -> Result<bool, String> {
        if let Some(other) = self.address_taken(&config) {
            return Err(other);
        }
        if resource.origin == Origin::Dynamic && self.by_name.is_static(&config.name) {
            return Err("a static listener has this name".to_owned());
        }
        if let Some(other) = self.other_source(&config) {
            return Err(other);
        }
        if self.by_name.is_latest(&resource) {
            return Ok(false);
        }
        let previous = self.by_name.latest(&config.name).or_else(|| {
            self.removed
                .iter()
                .find(|old| overlap(&old.config, &config))
        });
        let active = host.activate(Arc::new(config), previous)?;
        self.by_name.warm(resource, active);
        Ok(true)
    }

    /// Two listeners can't have one address; port 0 is never the same.
    fn address_taken(&self, config: &Listener) -> Option<String> {
        let others = self
            .by_name
            .all()
            .filter(|active| active.config.name != config.name);
        for active in others {
            let taken = config
                .addresses
                .iter()
                .find(|address| address.port() != 0 && active.config.addresses.contains(address));
            if let Some(address) = taken {
                return Some(format!(
                    "error adding listener: '{}' has duplicate address '{address}' as existing listener '{}'",
                    config.name, active.config.name
                ));
            }
        }
        None
    }

    /// Removes a dynamic listener; tells whether there was one.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(entry) = self.by_name.remove(name) else {
            return false;
        };
        let before = self.removed.len();
        for (_, active) in entry.active.into_iter().chain(entry.warming) {
            self.retired.push(Arc::downgrade(&active));
            self.removed.push(active);
        }
        self.removed.len() > before
    }

    /// The `stat_prefix` of the first connection manager that wants a route configuration.
    pub(super) fn stat_prefix_of(&self, route: &str) -> Option<Arc<str>> {
        self.by_name.all().find_map(|active| {
            active.config.filter_chains.iter().find_map(|chain| {
                let manager = chain.filter.http()?;
                match &manager.routes {
                    RouteSource::Rds { name, .. } if **name == *route => {
                        Some(Arc::clone(&manager.stat_prefix))
                    }
                    RouteSource::Rds { .. } | RouteSource::Inline(_) => None,
                }
            })
        })
    }

    /// The update is taken: sockets that nobody took over may close.
    pub(super) fn end_update(&mut self) {
        self.removed.clear();
    }

    /// Route configurations are kept by name, so one name can't have two sources.
    fn other_source(&self, config: &Listener) -> Option<String> {
        for (from, wanted, _) in route_names(config) {
            for active in self.by_name.all() {
                let is_other = active.config.name != config.name
                    && route_names(&active.config)
                        .any(|(source, name, _)| name == wanted && source != from);
                if is_other {
                    return Some(format!(
                        "not supported: route configuration '{wanted}' comes from another source for listener '{}'",
                        active.config.name
                    ));
                }
            }
        }
        None
    }

    /// Lets listeners serve whose routes are there, and whose inline routes name no cluster that
    /// warms; tells how many workers take one over, counted for each.
    pub(super) fn promote(&mut self, routes: &Routes, clusters: &Clusters) -> usize {
        let mut taken_over = 0;
        for entry in self.by_name.entries_mut() {
            let is_ready = entry.warming.as_ref().is_some_and(|(_, active)| {
                route_names(&active.config).all(|(_, name, _)| routes.is_ready(&name))
                    && !inline_clusters(&active.config)
                        .any(|name| clusters.by_name.is_warming(&name))
            });
            if is_ready {
                if let Some((_, old)) = std::mem::replace(&mut entry.active, entry.warming.take()) {
                    self.retired.push(Arc::downgrade(&old));
                }
                taken_over += entry
                    .active
                    .as_ref()
                    .map_or(0, |(_, active)| active.workers());
            }
        }
        taken_over
    }

    /// Route configurations wanted, by source.
    pub(super) fn routes(&self) -> BTreeSet<(SourceKey, Arc<str>)> {
        self.by_name
            .all()
            .flat_map(|active| {
                route_names(&active.config)
                    .map(|(source, name, _)| (source, name))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Names of route configurations that requests may still look up: those wanted, and those of
    /// connections that drain.
    pub(super) fn routes_in_use(&mut self) -> BTreeSet<Arc<str>> {
        self.retired.retain(|old| old.strong_count() > 0);
        let draining = self.retired.iter().filter_map(Weak::upgrade);
        self.by_name
            .all()
            .cloned()
            .chain(draining)
            .flat_map(|active| {
                route_names(&active.config)
                    .map(|(_, name, _)| name)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// How long the wait for the first answer of a route configuration may last.
    pub(super) fn fetch_timeout(&self, route: &str) -> Option<Duration> {
        self.by_name.all().find_map(|active| {
            route_names(&active.config)
                .find(|(_, name, _)| **name == *route)
                .map(|(_, _, timeout)| timeout)
        })
    }
}

fn overlap(old: &Listener, new: &Listener) -> bool {
    old.addresses
        .iter()
        .any(|address| address.port() != 0 && new.addresses.contains(address))
}

fn inline_clusters(listener: &Listener) -> impl Iterator<Item = Arc<str>> + '_ {
    listener
        .filter_chains
        .iter()
        .flat_map(|chain| match &chain.filter {
            NetworkFilter::HttpConnectionManager(manager) => match &manager.routes {
                RouteSource::Inline(config) => named_clusters(config),
                RouteSource::Rds { .. } => BTreeSet::new(),
            },
            NetworkFilter::TcpProxy(proxy) => {
                let names = proxy.clusters.iter();
                names.map(|(name, _)| Arc::clone(name)).collect()
            }
        })
}

fn route_names(listener: &Listener) -> impl Iterator<Item = (SourceKey, Arc<str>, Duration)> + '_ {
    listener
        .filter_chains
        .iter()
        .filter_map(|chain| match &chain.filter.http()?.routes {
            RouteSource::Inline(_) => None,
            RouteSource::Rds { name, source } => Some((
                SourceKey(source.kind.clone()),
                Arc::clone(name),
                source.initial_fetch_timeout,
            )),
        })
}
