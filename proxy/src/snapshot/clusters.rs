//! Clusters by name: the serving version, the one that warms, and what was refused last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    resource::{Origin, Resource},
    versions::Versions,
};
use crate::{
    config::{
        cluster::{Cluster as Config, Discovery, LoadAssignment},
        source::SourceKind,
    },
    telemetry::stats::Registry,
    upstream::Cluster,
};

/// All clusters of the proxy.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    /// The clusters themselves.
    pub(super) by_name: Versions<Cluster>,
    /// Last assignment of each EDS service: a changed cluster starts from it at once.
    assignments: BTreeMap<Arc<str>, (Resource, Arc<LoadAssignment>)>,
    /// EDS services whose first answer did not come in time: what wants them later does not wait again.
    given_up: BTreeSet<Arc<str>>,
}

impl Clusters {
    /// Adds or changes a cluster; tells the new one, if anything changed, so that its discovery can
    /// be started.
    ///
    /// # Errors
    /// When the name belongs to a static cluster, or its EDS service comes from two sources.
    pub(super) fn upsert(
        &mut self,
        resource: Resource,
        config: Config,
        registry: &Registry,
    ) -> Result<Option<Arc<Cluster>>, String> {
        if resource.origin == Origin::Dynamic && self.by_name.is_static(&config.name) {
            return Err("a static cluster has this name".to_owned());
        }
        if let Some(other) = self.other_source(&config) {
            return Err(other);
        }
        if self.by_name.is_latest(&resource) {
            return Ok(None);
        }
        // A version that never warmed gives its hosts to the next one too.
        let previous = self.by_name.latest(&config.name);
        let cluster = Cluster::new(Arc::new(config), registry, previous);
        if let Discovery::Eds { service_name, .. } = &cluster.config.discovery {
            if let Some((_, assignment)) = self.assignments.get(service_name) {
                cluster.update_hosts(assignment);
            } else if self.given_up.contains(service_name) {
                cluster.give_up_waiting();
            }
        }
        self.by_name.warm(resource, Arc::clone(&cluster));
        Ok(Some(cluster))
    }

    /// Removes a dynamic cluster; tells whether there was one.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some_and(|entry| {
            // Streams may keep it for long; nothing is done for it beside them.
            entry.versions().for_each(|(_, cluster)| cluster.retire());
            entry.versions().next().is_some()
        })
    }

    /// A server was asked for an assignment.
    pub(super) fn count_request(&self, service: &str) {
        for cluster in self.by_name.all() {
            if let Discovery::Eds { service_name, .. } = &cluster.config.discovery
                && **service_name == *service
            {
                cluster.stats.update_attempt.inc();
            }
        }
    }

    /// An assignment was refused.
    pub(super) fn count_rejected(&self, service: &str) {
        for cluster in self.by_name.all() {
            if let Discovery::Eds { service_name, .. } = &cluster.config.discovery
                && **service_name == *service
            {
                cluster.stats.update_attempt.inc();
                cluster.stats.update_rejected.inc();
            }
        }
    }

    /// Assignments are kept by service name, so one name can't have two sources.
    fn other_source(&self, config: &Config) -> Option<String> {
        let Discovery::Eds {
            service_name: wanted,
            source: from,
        } = &config.discovery
        else {
            return None;
        };
        let from = SourceKey(from.kind.clone());
        self.by_name.all()
            .filter(|cluster| *cluster.name() != config.name)
            .find_map(|cluster| match &cluster.config.discovery {
                Discovery::Eds {
                    service_name,
                    source,
                } if service_name == wanted && SourceKey(source.kind.clone()) != from => {
                    Some(format!(
                        "not supported: EDS service '{wanted}' comes from another source for cluster '{}'",
                        cluster.name()
                    ))
                }
                _ => None,
            })
    }

    /// Gives an assignment to the clusters that want it. False: none does.
    pub(super) fn assign(&mut self, resource: Resource, assignment: LoadAssignment) -> bool {
        let name = Arc::clone(&resource.name);
        let assignment = Arc::new(assignment);
        let mut is_wanted = false;
        for cluster in self.by_name.all() {
            if let Discovery::Eds { service_name, .. } = &cluster.config.discovery
                && *service_name == name
            {
                is_wanted = true;
                cluster.stats.update_attempt.inc();
                cluster.stats.update_success.inc();
                cluster.update_hosts(&assignment);
            }
        }
        if is_wanted {
            self.given_up.remove(&name);
            self.assignments.insert(name, (resource, assignment));
        }
        is_wanted
    }

    /// The initial fetch timeout of an EDS service is over: serve without hosts.
    pub(super) fn give_up(&mut self, service: &str) {
        if !self.assignments.contains_key(service) {
            self.given_up.insert(Arc::from(service));
        }
        for cluster in self.by_name.all() {
            if let Discovery::Eds { service_name, .. } = &cluster.config.discovery
                && **service_name == *service
            {
                cluster.give_up_waiting();
            }
        }
    }

    /// Lets warm clusters serve; tells whether any did.
    pub(super) fn promote(&mut self) -> bool {
        let mut changed = false;
        for entry in self.by_name.entries_mut() {
            if entry
                .warming
                .as_ref()
                .is_some_and(|(_, cluster)| cluster.initialized())
            {
                let old = std::mem::replace(&mut entry.active, entry.warming.take());
                old.inspect(|(_, old)| old.retire());
                changed = true;
            }
        }
        changed
    }

    /// Forgets assignments that no cluster wants any more.
    pub(super) fn sweep(&mut self) {
        let wanted = self
            .services()
            .into_iter()
            .map(|(_, name)| name)
            .collect::<BTreeSet<_>>();
        self.assignments.retain(|name, _| wanted.contains(name));
        self.given_up.retain(|name| wanted.contains(name));
    }

    /// EDS services wanted, by source.
    pub(super) fn services(&self) -> BTreeSet<(SourceKey, Arc<str>)> {
        self.by_name
            .all()
            .filter_map(|cluster| match &cluster.config.discovery {
                Discovery::Eds {
                    service_name,
                    source,
                } => Some((SourceKey(source.kind.clone()), Arc::clone(service_name))),
                Discovery::Static(_) | Discovery::StrictDns(_) | Discovery::OriginalDst(_) => None,
            })
            .collect()
    }

    /// How long the wait for the first answer of an EDS service may last.
    pub(super) fn fetch_timeout(&self, service: &str) -> Option<std::time::Duration> {
        self.by_name
            .all()
            .find_map(|cluster| match &cluster.config.discovery {
                Discovery::Eds {
                    service_name,
                    source,
                } if **service_name == *service => Some(source.initial_fetch_timeout),
                _ => None,
            })
    }

    pub(super) fn assignments(&self) -> impl Iterator<Item = &Resource> {
        self.assignments.values().map(|(resource, _)| resource)
    }
}

/// Orders sources, so that sets of wanted names can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceKey(pub SourceKind);

impl SourceKey {
    fn rank(&self) -> (u8, Option<&std::path::Path>) {
        match &self.0 {
            SourceKind::Ads => (0, None),
            SourceKind::Path(path) => (1, Some(&path.path)),
        }
    }
}

impl PartialOrd for SourceKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SourceKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}
