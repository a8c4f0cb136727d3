//! One version of the model as snapshots: shared between all proxies that see the same, and with
//! the version before where nothing changed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use outrigger_mesh::{
    Model, Translator,
    scope::{Node, Scope},
    translate::{Own, Profile, ResourceMap, Workload},
};
use outrigger_xds::{
    TypeUrl,
    server::{Resource, Resources, Snapshot},
};

/// What clusters, endpoints and the routes of calls depend on besides the model: nodes of equal keys share
/// them.
type Key = (Scope, Workload);
/// The same of the listeners of services.
type FrontKey = (Scope, Profile);

/// One version of the model, translated.
#[derive(Debug)]
pub(super) struct Generation {
    translator: Translator,
    /// Grows when the first proxy of a key connects.
    shared: Mutex<HashMap<Key, Shared>>,
    /// The same.
    fronts: Mutex<HashMap<FrontKey, Arc<ResourceMap>>>,
}

/// The shared part of snapshots.
#[derive(Clone, Debug)]
struct Shared {
    clusters: Arc<Resources>,
    endpoints: Arc<Resources>,
    routes: Arc<Resources>,
}

/// A node's snapshot, and what it was made of.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) snapshot: Arc<Snapshot>,
    own: Own,
    front: Option<Arc<ResourceMap>>,
    listeners: Arc<Resources>,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            translator: Translator::new(Arc::default(), None),
            shared: Mutex::default(),
            fronts: Mutex::default(),
        }
    }
}

impl Generation {
    /// Translates `model` for everyone who is connected.
    pub(super) fn new(model: Arc<Model>, previous: &Self, nodes: &[Node]) -> Self {
        let translator = Translator::new(model, Some(&previous.translator));
        // Copies, since proxies that connect meanwhile need the locks.
        let before = lock(&previous.shared).clone();
        let fronts_before = lock(&previous.fronts).clone();
        let mut shared = HashMap::new();
        let mut fronts = HashMap::new();
        let mut scopes: HashMap<Scope, outrigger_mesh::Resources> = HashMap::new();
        for node in nodes {
            let key = (node.scope(), translator.own(node).workload(node));
            if let Some(front) = front_key(node, &key.0)
                && !fronts.contains_key(&front)
            {
                let known = fronts_before.get(&front);
                let known = known.map(|known| (&previous.translator, known));
                let made = make_front(&translator, &front, known);
                fronts.insert(front, made);
            }
            if shared.contains_key(&key) {
                continue;
            }
            let mesh = scopes
                .entry(key.0.clone())
                .or_insert_with(|| translator.scope(&key.0));
            let own = Translator::own_clusters(&key.1);
            // A workload with another port than before shares all but its clusters.
            let similar = before.get(&key).or_else(|| {
                let mut all = before.iter();
                all.find_map(|((scope, _), shared)| (*scope == key.0).then_some(shared))
            });
            let made = Shared::new(mesh, own, similar);
            shared.insert(key, made);
        }
        Self {
            translator,
            shared: Mutex::new(shared),
            fronts: Mutex::new(fronts),
        }
    }

    pub(super) fn model(&self) -> &Arc<Model> {
        self.translator.model()
    }

    /// The snapshot of a node; translates first if it is the first of its key. What it shares with
    /// `previous`, the node's last one, is known to be unchanged by its address.
    pub(super) fn snapshot(&self, node: &Node, previous: Option<&Made>) -> Made {
        let scope = node.scope();
        let own = self.translator.own(node);
        let front = front_key(node, &scope).map(|key| {
            let mut fronts = lock(&self.fronts);
            let make = || make_front(&self.translator, &key, None);
            Arc::clone(fronts.entry(key.clone()).or_insert_with(make))
        });
        let listeners = match previous {
            // Listeners of its own depend on nothing else of the model.
            Some(before) if before.own == own && is_same(before.front.as_ref(), front.as_ref()) => {
                Arc::clone(&before.listeners)
            }
            _ => {
                let mut all = front.as_deref().cloned().unwrap_or_default();
                all.extend(self.translator.own_listeners(node, &own));
                Arc::new(resources(&all))
            }
        };
        let shared = self.shared((scope, own.workload(node)));
        let routes = self.routes(node, &own, shared.routes, previous);
        let mut builder = Snapshot::builder();
        builder
            .set(&TypeUrl::Cluster, shared.clusters)
            .set(&TypeUrl::Endpoint, shared.endpoints)
            .set(&TypeUrl::Listener, Arc::clone(&listeners))
            .set(&TypeUrl::Route, routes);
        Made {
            snapshot: Arc::new(builder.build()),
            own,
            front,
            listeners,
        }
    }

    fn shared(&self, key: Key) -> Shared {
        let mut shared = lock(&self.shared);
        if let Some(shared) = shared.get(&key) {
            return shared.clone();
        }
        let mesh = self.translator.scope(&key.0);
        let made = Shared::new(&mesh, Translator::own_clusters(&key.1), None);
        shared.insert(key, made.clone());
        made
    }

    /// Those of calls, which are shared, and of the workload's own ports.
    fn routes(
        &self,
        node: &Node,
        own: &Own,
        shared: Arc<Resources>,
        previous: Option<&Made>,
    ) -> Arc<Resources> {
        let own = self.translator.own_routes(node, own);
        if own.is_empty() {
            return shared;
        }
        let own = resources(&own);
        let all: Resources = shared
            .iter()
            .chain(own.iter())
            .map(|(name, resource)| (Arc::clone(name), resource.clone()))
            .collect();
        let before = previous.and_then(|made| {
            let mut types = made.snapshot.types();
            types.find(|(type_url, _)| **type_url == TypeUrl::Route)
        });
        match before {
            Some((_, before)) if **before == all => Arc::clone(before),
            _ => Arc::new(all),
        }
    }
}

/// Dialled proxies have no listeners of services.
fn front_key(node: &Node, scope: &Scope) -> Option<FrontKey> {
    scope
        .intercepted
        .then(|| (scope.clone(), Profile::of(node)))
}

fn make_front(
    translator: &Translator,
    (scope, profile): &FrontKey,
    before: Option<(&Translator, &Arc<ResourceMap>)>,
) -> Arc<ResourceMap> {
    let known = before.map(|(previous, map)| (previous, &**map));
    let made = translator.frontends(scope, profile, known);
    match before {
        // Nodes know an unchanged map by its address.
        Some((_, before)) if **before == made => Arc::clone(before),
        _ => Arc::new(made),
    }
}

fn is_same(one: Option<&Arc<ResourceMap>>, other: Option<&Arc<ResourceMap>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries are whole or not there, so a panic elsewhere leaves them usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
