//! Everything that the state knows, as `/config_dump` shows it.

use super::{
    clusters::Clusters,
    listeners::Listeners,
    resource::{Refused, Resource},
    routes::Routes,
    state::Kind,
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
    let refused_state = |refused: &Refused| DumpState::Refused(refused.reason.clone());
    for (_, entry) in clusters.entries() {
        if let Some((resource, _)) = &entry.active {
            push(Kind::Cluster, resource, DumpState::Active);
        }
        if let Some((resource, _)) = &entry.warming {
            push(Kind::Cluster, resource, DumpState::Warming);
        }
        if let Some(refused) = &entry.refused {
            push(Kind::Cluster, &refused.resource, refused_state(refused));
        }
    }
    for resource in clusters.assignments() {
        push(Kind::Endpoints, resource, DumpState::Active);
    }
    for (_, entry) in listeners.entries() {
        if let Some((resource, _)) = &entry.active {
            push(Kind::Listener, resource, DumpState::Active);
        }
        if let Some((resource, _)) = &entry.warming {
            push(Kind::Listener, resource, DumpState::Warming);
        }
        if let Some(refused) = &entry.refused {
            push(Kind::Listener, &refused.resource, refused_state(refused));
        }
    }
    for (_, entry) in routes.entries() {
        if let Some((resource, _)) = &entry.active {
            push(Kind::Route, resource, DumpState::Active);
        }
        if let Some(pending) = &entry.pending {
            push(Kind::Route, &pending.resource, DumpState::Warming);
        }
        if let Some(refused) = &entry.refused {
            push(Kind::Route, &refused.resource, refused_state(refused));
        }
    }
    Dump { entries }
}
