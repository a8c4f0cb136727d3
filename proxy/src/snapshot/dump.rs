//! Everything that the state knows, as `/config_dump` shows it.

use super::{
    clusters::Clusters,
    listeners::Listeners,
    resource::{Refused, Resource},
    routes::Routes,
    state::Kind,
    versions::Entry,
};

/// All resources with their states.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// In order of kind and name.
    pub entries: Vec<DumpEntry>,
}

/// One version of a resource.
#[derive(Clone, Debug)]
pub struct DumpEntry {
    /// Which kind.
    pub kind: Kind,
    /// As received.
    pub resource: Resource,
    /// What has become of it.
    pub state: DumpState,
}

/// What has become of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpState {
    /// It serves.
    Active,
    /// It waits for something.
    Warming,
    /// It was refused, with every error.
    Refused(String),
}

pub(super) fn dump(clusters: &Clusters, listeners: &Listeners, routes: &Routes) -> Dump {
    let mut entries = Vec::new();
    let mut push = |kind, resource: &Resource, state| {
        entries.push(DumpEntry {
            kind,
            resource: resource.clone(),
            state,
        });
    };
    for entry in clusters.by_name.entries() {
        push_entry(&mut push, Kind::Cluster, entry);
    }
    for resource in clusters.assignments() {
        push(Kind::Endpoints, resource, DumpState::Active);
    }
    for entry in listeners.by_name.entries() {
        push_entry(&mut push, Kind::Listener, entry);
    }
    for (_, entry) in routes.entries() {
        if let Some((resource, _)) = &entry.active {
            push(Kind::Route, resource, DumpState::Active);
        }
        if let Some(pending) = &entry.pending {
            push(Kind::Route, &pending.resource, DumpState::Warming);
        }
        push_refused(&mut push, Kind::Route, entry.refused.as_ref());
    }
    Dump { entries }
}

fn push_entry<T>(push: &mut impl FnMut(Kind, &Resource, DumpState), kind: Kind, entry: &Entry<T>) {
    if let Some((resource, _)) = &entry.active {
        push(kind, resource, DumpState::Active);
    }
    if let Some((resource, _)) = &entry.warming {
        push(kind, resource, DumpState::Warming);
    }
    push_refused(push, kind, entry.refused.as_ref());
}

fn push_refused(
    push: &mut impl FnMut(Kind, &Resource, DumpState),
    kind: Kind,
    refused: Option<&Refused>,
) {
    if let Some(refused) = refused {
        push(
            kind,
            &refused.resource,
            DumpState::Refused(refused.reason.clone()),
        );
    }
}
