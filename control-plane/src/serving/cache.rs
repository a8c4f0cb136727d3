//! One version of the model as snapshots: shared between all proxies that see the same, and with
//! the version before where nothing changed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use outrigger_mesh::{
    Model, Translator,
    scope::{Inbound, Node, Scope},
    translate::ResourceMap,
};
use outrigger_xds::{
    TypeUrl,
    server::{Resource, Resources, Snapshot},
};

/// What a snapshot depends on besides the model: nodes of equal keys share everything but
/// listeners.
pub(super) type Key = (Scope, Vec<Inbound>);

/// One version of the model, translated.
#[derive(Debug)]
pub(super) struct Generation {
    translator: Translator,
    /// Grows when the first proxy of a key connects.
    shared: Mutex<HashMap<Key, Shared>>,
}

/// The shared part of snapshots.
#[derive(Clone, Debug)]
struct Shared {
    clusters: Arc<Resources>,
    endpoints: Arc<Resources>,
    routes: Arc<Resources>,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            translator: Translator::new(Arc::default(), None),
            shared: Mutex::default(),
        }
    }
}

impl Generation {
    /// Translates `model` for everyone who is connected.
    pub(super) fn new(model: Arc<Model>, previous: &Self, keys: &[(Key, Node)]) -> Self {
        let translator = Translator::new(model, Some(&previous.translator));
        // A copy, since proxies that connect meanwhile need the lock.
        let before = previous.lock().clone();
        let mut shared = HashMap::new();
        let mut scopes: HashMap<&Scope, outrigger_mesh::Resources> = HashMap::new();
        for (key, node) in keys {
            if shared.contains_key(key) {
                continue;
            }
            let mesh = scopes
                .entry(&key.0)
                .or_insert_with(|| translator.scope(&key.0));
            let own = translator.node(node).clusters;
            let made = Shared::new(mesh, own, before.get(key));
            shared.insert(key.clone(), made);
        }
        let shared = Mutex::new(shared);
        Self { translator, shared }
    }

    pub(super) fn model(&self) -> &Arc<Model> {
        self.translator.model()
    }

    /// Listeners depend on the node alone.
    pub(super) fn listeners(&self, node: &Node) -> Arc<Resources> {
        Arc::new(resources(&self.translator.node(node).listeners))
    }

    /// The snapshot of a node; translates first if it is the first of its key. What it shares with
    /// `previous`, the node's last one, is known to be unchanged by its address.
    pub(super) fn snapshot(
        &self,
        key: &Key,
        node: &Node,
        listeners: &Arc<Resources>,
        previous: Option<&Snapshot>,
    ) -> Arc<Snapshot> {
        let translate = || {
            let mesh = self.translator.scope(&key.0);
            Shared::new(&mesh, self.translator.node(node).clusters, None)
        };
        let mut shared = self.lock();
        let entry = match shared.get(key) {
            Some(shared) => shared.clone(),
            None => shared.entry(key.clone()).or_insert_with(translate).clone(),
        };
        drop(shared);
        let shared = entry;
        let own = self.translator.node_routes(node);
        let routes = if own.is_empty() {
            shared.routes
        } else {
            let all: Resources = shared
                .routes
                .iter()
                .map(|(name, resource)| (Arc::clone(name), resource.clone()))
                .chain(
                    resources(&own)
                        .iter()
                        .map(|(n, r)| (Arc::clone(n), r.clone())),
                )
                .collect();
            let before = previous.and_then(|snapshot| {
                let mut types = snapshot.types();
                types.find(|(type_url, _)| **type_url == TypeUrl::Route)
            });
            match before {
                Some((_, before)) if **before == all => Arc::clone(before),
                _ => Arc::new(all),
            }
        };
        let mut builder = Snapshot::builder();
        builder
            .set(&TypeUrl::Cluster, shared.clusters)
            .set(&TypeUrl::Endpoint, shared.endpoints)
            .set(&TypeUrl::Listener, Arc::clone(listeners))
            .set(&TypeUrl::Route, routes);
        Arc::new(builder.build())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Shared>> {
        // Entries are whole or not there, so a panic elsewhere leaves them usable.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn new(mesh: &outrigger_mesh::Resources, own: ResourceMap, previous: Option<&Self>) -> Self {
        let clusters = mesh
            .clusters
            .iter()
            .map(|(n, r)| (Arc::clone(n), r.clone()));
        let clusters: ResourceMap = clusters.chain(own).collect();
        let same = |now: &ResourceMap, before: fn(&Self) -> &Arc<Resources>| {
            let now = resources(now);
            match previous.map(before) {
                // Streams know an unchanged type by its address.
                Some(before) if **before == now => Arc::clone(before),
                _ => Arc::new(now),
            }
        };
        Self {
            clusters: same(&clusters, |shared| &shared.clusters),
            endpoints: same(&mesh.endpoints, |shared| &shared.endpoints),
            routes: same(&mesh.routes, |shared| &shared.routes),
        }
    }
}

fn resources(map: &ResourceMap) -> Resources {
    map.iter()
        .map(|(name, resource)| {
            let outrigger_mesh::Resource { version, body } = resource.clone();
            (Arc::clone(name), Resource { version, body })
        })
        .collect()
}
