//! Route configurations that come by RDS.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    NameMap,
    clusters::Clusters,
    resource::{Refused, Resource},
};
use crate::{
    config::route::{Action, ClusterName, ClusterSpecifier, RouteConfiguration},
    router::Table,
};

/// All RDS route configurations that listeners want.
#[derive(Debug, Default)]
pub(super) struct Routes {
    entries: BTreeMap<Arc<str>, Entry>,
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) active: Option<(Resource, Arc<Table>)>,
    /// Holds until the clusters that it names are warm.
    pub(super) pending: Option<Pending>,
    pub(super) refused: Option<Refused>,
    /// The initial fetch timeout is over: listeners go on without it.
    given_up: bool,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) resource: Resource,
    table: Arc<Table>,
    clusters: BTreeSet<Arc<str>>,
}

impl Routes {
    /// Whether listeners that refer to it need not wait any longer.
    pub(super) fn is_ready(&self, name: &str) -> bool {
        self.entries
            .get(name)
            .is_some_and(|entry| entry.active.is_some() || entry.given_up)
    }

    /// Adds or changes a route configuration; tells whether it is another one than before.
    pub(super) fn upsert(
        &mut self,
        resource: Resource,
        config: &RouteConfiguration,
        table: Table,
    ) -> bool {
        let entry = self.entries.entry(Arc::clone(&resource.name)).or_default();
        entry.refused = None;
        if let Some((known, _)) = &mut entry.active
            && known.body.value == resource.body.value
        {
            known.version = resource.version;
            entry.pending = None;
            return false;
        }
        entry.pending = Some(Pending {
            resource,
            table: Arc::new(table),
            clusters: named_clusters(config),
        });
        true
    }

    pub(super) fn refuse(&mut self, name: &str, refused: Refused) {
        self.entries.entry(Arc::from(name)).or_default().refused = Some(refused);
    }

    pub(super) fn give_up(&mut self, name: &str) {
        self.entries.entry(Arc::from(name)).or_default().given_up = true;
    }

    /// Lets tables serve whose clusters are warm; tells whether any did.
    pub(super) fn promote(&mut self, clusters: &Clusters) -> bool {
        let mut changed = false;
        for entry in self.entries.values_mut() {
            let is_ready = entry.pending.as_ref().is_some_and(|pending| {
                !pending
                    .clusters
                    .iter()
                    .any(|name| clusters.by_name.is_warming(name))
            });
            if is_ready && let Some(pending) = entry.pending.take() {
                entry.active = Some((pending.resource, pending.table));
                changed = true;
            }
        }
        changed
    }

    /// Forgets what no listener wants any more.
    pub(super) fn sweep(&mut self, wanted: &BTreeSet<Arc<str>>) {
        self.entries.retain(|name, _| wanted.contains(name));
    }

    pub(super) fn serving(&self) -> NameMap<Arc<Table>> {
        self.entries
            .iter()
            .filter_map(|(name, entry)| {
                let (_, table) = entry.active.as_ref()?;
                Some((Arc::clone(name), Arc::clone(table)))
            })
            .collect()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.entries.iter()
    }
}

/// The clusters that a route configuration names.
pub(super) fn named_clusters(config: &RouteConfiguration) -> BTreeSet<Arc<str>> {
    let mut names = BTreeSet::new();
    for route in config.virtual_hosts.iter().flat_map(|host| &host.routes) {
        let Action::Forward(forward) = &route.action else {
            continue;
        };
        match &forward.cluster {
            ClusterSpecifier::Cluster(name) => {
                names.insert(Arc::clone(name));
            }
            ClusterSpecifier::Header(_) => {}
            ClusterSpecifier::Weighted(weighted) => {
                names.extend(
                    weighted
                        .clusters
                        .iter()
                        .filter_map(|one| match &one.cluster {
                            ClusterName::Name(name) => Some(Arc::clone(name)),
                            ClusterName::Header(_) => None,
                        }),
                );
            }
        }
    }
    names
}
