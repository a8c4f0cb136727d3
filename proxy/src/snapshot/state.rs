//! What the main thread knows of all resources, and the rules that lead from one snapshot to the next.
//!
//! Resources come in by [`State::update`], each valid one taking effect although its neighbours are
//! refused; [`State::settle`] then lets serve what has become warm, in make-before-break order: clusters,
//! then routes that name them, then listeners that refer to those.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_proto::{
    envoy::config::{
        cluster::v3::Cluster as ClusterProto, endpoint::v3::ClusterLoadAssignment,
        listener::v3::Listener as ListenerProto, route::v3::RouteConfiguration as RouteProto,
    },
    google::protobuf::Any,
};
use prost::{Message, Name};

use super::{
    Snapshot,
    clusters::{Clusters, SourceKey},
    dump::{self, Dump},
    listeners::Listeners,
    resource::{Origin, Refused, Resource},
    routes::Routes,
    stats::{Stats, Subscription},
};
use crate::{
    config::{
        bootstrap::Bootstrap,
        cluster::Discovery,
        from_proto,
        http_connection_manager::RouteSource,
        listener::Listener,
        source::{ConfigSource, SourceKind},
    },
    convert::{ConfigError, Sink},
    listener::Active,
    router::Table,
    telemetry::stats::Registry,
    upstream::Cluster,
};

/// What the state needs done outside of it: sockets and discovery.
pub trait Host {
    /// Binds a listener's sockets (those of `previous` are taken over where the address stays) and
    /// resolves what its connections need. It does not accept before it is in a snapshot.
    ///
    /// # Errors
    /// When an address can't be bound, or its inline routes can't be compiled.
    fn activate(
        &mut self,
        config: Arc<Listener>,
        previous: Option<&Arc<Active>>,
    ) -> Result<Arc<Active>, String>;

    /// Starts what finds a new cluster's hosts (DNS) and wakes the main loop when it is warm.
    fn discover(&mut self, cluster: &Arc<Cluster>);
}

/// The four kinds of resources that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl Kind {
    /// All, in make-before-break order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The type URL of its messages.
    #[must_use]
    pub fn type_url(self) -> String {
        match self {
            Self::Cluster => ClusterProto::type_url(),
            Self::Endpoints => ClusterLoadAssignment::type_url(),
            Self::Listener => ListenerProto::type_url(),
            Self::Route => RouteProto::type_url(),
        }
    }

    /// The kind that a type URL names.
    #[must_use]
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }
}

/// A refused resource and why.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Its name.
    pub name: Arc<str>,
    /// Every error found.
    pub errors: Vec<ConfigError>,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.name)?;
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// All resources of the proxy.
#[derive(Debug)]
pub struct State {
    registry: Registry,
    stats: Stats,
    clusters: Clusters,
    routes: Routes,
    listeners: Listeners,
    has_ads: bool,
    version: u64,
    changed: bool,
}

impl State {
    /// Takes over the static resources of a bootstrap.
    ///
    /// # Errors
    /// When a static listener can't be bound or a static route table can't be compiled.
    pub fn new(
        bootstrap: &Bootstrap,
        registry: &Registry,
        host: &mut dyn Host,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut state = Self {
            registry: registry.clone(),
            stats: Stats::new(registry, bootstrap.cds.is_some(), bootstrap.lds.is_some()),
            clusters: Clusters::default(),
            routes: Routes::default(),
            listeners: Listeners::default(),
            has_ads: bootstrap.ads.is_some(),
            version: 0,
            changed: true,
        };
        let mut errors = Vec::new();
        let resources = bootstrap.raw.static_resources.clone().unwrap_or_default();
        for (proto, config) in resources.clusters.iter().zip(&bootstrap.clusters) {
            let resource = static_resource(&config.name, proto);
            match state
                .clusters
                .upsert(resource, (**config).clone(), registry)
            {
                Ok(Some(cluster)) => {
                    state.stats.clusters.changed(false);
                    host.discover(&cluster);
                }
                Ok(None) => {}
                Err(reason) => errors.push(ConfigError {
                    path: format!("static_resources.clusters[{}]", config.name),
                    reason,
                }),
            }
        }
        for (index, (proto, config)) in resources
            .listeners
            .iter()
            .zip(&bootstrap.listeners)
            .enumerate()
        {
            let resource = static_resource(&config.name, proto);
            let added = state.listeners.upsert(resource, (**config).clone(), host);
            if added.is_ok() {
                state.stats.listeners.changed(false);
            }
            if let Err(reason) = added {
                errors.push(ConfigError {
                    path: format!("static_resources.listeners[{index}]"),
                    reason,
                });
            }
        }
        if errors.is_empty() {
            Ok(state)
        } else {
            Err(errors)
        }
    }

    /// Takes over one response: each valid resource takes effect although its neighbours are refused.
    pub fn update(
        &mut self,
        kind: Kind,
        added: Vec<Resource>,
        removed: &[Arc<str>],
        host: &mut dyn Host,
    ) -> Vec<Rejection> {
        // A listener that goes frees its address for one that comes; its sockets stay for that one.
        if kind == Kind::Listener {
            self.remove(kind, removed);
        }
        let mut rejections = Vec::new();
        let version = added.first().map(|resource| Arc::clone(&resource.version));
        let named: Vec<_> = match kind {
            Kind::Route => added.iter().map(|one| Arc::clone(&one.name)).collect(),
            Kind::Cluster | Kind::Endpoints | Kind::Listener => Vec::new(),
        };
        for resource in added {
            let name = Arc::clone(&resource.name);
            if let Err(errors) = self.take(kind, resource.clone(), host) {
                let rejection = Rejection { name, errors };
                let refused = Refused {
                    resource,
                    reason: rejection.to_string(),
                };
                match kind {
                    Kind::Cluster => self.clusters.by_name.refuse(&rejection.name, refused),
                    Kind::Listener => self.listeners.by_name.refuse(&rejection.name, refused),
                    Kind::Route => self.routes.refuse(&rejection.name, refused),
                    Kind::Endpoints => {}
                }
                rejections.push(rejection);
            }
        }
        if kind != Kind::Listener {
            self.remove(kind, removed);
        }
        self.listeners.end_update();
        self.count(kind, version.as_deref(), &named, &rejections);
        rejections
    }

    /// Counts an update at who subscribed to it.
    fn count(
        &mut self,
        kind: Kind,
        version: Option<&str>,
        named: &[Arc<str>],
        rejections: &[Rejection],
    ) {
        let of_all = match kind {
            Kind::Cluster => &self.stats.cds,
            Kind::Listener => &self.stats.lds,
            // Accepted ones count where their hosts are taken over.
            Kind::Endpoints => {
                for rejection in rejections {
                    self.clusters.count_rejected(&rejection.name);
                }
                return;
            }
            Kind::Route => {
                for name in named {
                    let is_accepted = !rejections.iter().any(|one| one.name == *name);
                    if let Some(prefix) = self.listeners.stat_prefix_of(name) {
                        let subscription = self.stats.route(name, &prefix);
                        subscription.updated(is_accepted, version);
                    }
                }
                return;
            }
        };
        if let Some(subscription) = of_all {
            subscription.updated(rejections.is_empty(), version);
        }
    }

    /// A server was asked for a resource for the first time (for all, with CDS and LDS).
    pub fn count_request(&mut self, kind: Kind, name: &Arc<str>) {
        if kind == Kind::Endpoints {
            self.clusters.count_request(name);
        } else if let Some(subscription) = self.subscription(kind, name) {
            subscription.requested();
        }
    }

    /// The initial fetch timeout of what was subscribed to is over.
    pub fn count_timeout(&mut self, kind: Kind, name: &Arc<str>) {
        if let Some(subscription) = self.subscription(kind, name) {
            subscription.timed_out();
        }
    }

    fn subscription(&mut self, kind: Kind, name: &Arc<str>) -> Option<&Subscription> {
        match kind {
            Kind::Cluster => self.stats.cds.as_ref(),
            Kind::Listener => self.stats.lds.as_ref(),
            Kind::Route => self
                .listeners
                .stat_prefix_of(name)
                .map(|prefix| self.stats.route(name, &prefix)),
            Kind::Endpoints => None,
        }
    }

    fn remove(&mut self, kind: Kind, names: &[Arc<str>]) {
        for name in names {
            match kind {
                Kind::Cluster => {
                    self.changed = true;
                    if self.clusters.remove(name) {
                        self.stats.clusters.removed.inc();
                    }
                }
                Kind::Listener => {
                    self.changed = true;
                    if self.listeners.remove(name) {
                        self.stats.listeners.removed.inc();
                    }
                }
                // A server that takes away routes or endpoints still in use leaves them as they
                // are: the owner's removal (LDS, CDS) is what ends them, as in Envoy. Nobody needs
                // to wait any longer for what the server says is not there.
                Kind::Route | Kind::Endpoints => self.give_up(kind, name),
            }
        }
    }

    fn take(
        &mut self,
        kind: Kind,
        resource: Resource,
        host: &mut dyn Host,
    ) -> Result<(), Vec<ConfigError>> {
        match kind {
            Kind::Cluster => {
                let config = convert(&resource, from_proto::cluster)?;
                same_name(&resource, &config.name)?;
                if let Discovery::Eds { source, .. } = &config.discovery {
                    self.check_source("eds_cluster_config.eds_config", source)?;
                }
                let was_known = self.clusters.by_name.exists(&config.name);
                let started = self
                    .clusters
                    .upsert(resource, config, &self.registry)
                    .map_err(whole)?;
                if let Some(cluster) = started {
                    self.stats.clusters.changed(was_known);
                    host.discover(&cluster);
                }
            }
            Kind::Endpoints => {
                let assignment = convert(&resource, |cx, proto| {
                    let assignment = from_proto::load_assignment(cx, proto)?;
                    from_proto::check_numeric(cx, &assignment);
                    Some(assignment)
                })?;
                same_name(&resource, &assignment.cluster_name)?;
                self.clusters.assign(resource, assignment);
            }
            Kind::Listener => {
                let config = convert(&resource, from_proto::listener)?;
                same_name(&resource, &config.name)?;
                self.check_listener(&config)?;
                let was_known = self.listeners.by_name.exists(&config.name);
                let is_changed = self
                    .listeners
                    .upsert(resource, config, host)
                    .map_err(whole)?;
                if is_changed {
                    self.stats.listeners.changed(was_known);
                }
            }
            Kind::Route => {
                let config = Arc::new(convert(&resource, |cx, proto| {
                    from_proto::route_configuration(cx, proto, false)
                })?);
                same_name(&resource, &config.name)?;
                if config.validate_clusters {
                    let missing =
                        config.unknown_clusters(&|name| self.clusters.by_name.exists(name));
                    if !missing.is_empty() {
                        return Err(missing);
                    }
                }
                let table = Table::compile(Arc::clone(&config), &self.registry)?;
                let name = Arc::clone(&resource.name);
                if self.routes.upsert(resource, &config, table)
                    && let Some(prefix) = self.listeners.stat_prefix_of(&name)
                {
                    self.stats.route(&name, &prefix).reloaded();
                }
            }
        }
        Ok(())
    }

    /// What the bootstrap's check does for static listeners: sources that exist, and clusters of inline
    /// routes that do.
    fn check_listener(&self, config: &Listener) -> Result<(), Vec<ConfigError>> {
        for chain in &config.filter_chains {
            let Some(manager) = chain.filter.http() else {
                continue;
            };
            match &manager.routes {
                RouteSource::Rds { source, .. } => {
                    self.check_source("rds.config_source", source)?
                }
                RouteSource::Inline(routes) if routes.validate_clusters => {
                    let missing =
                        routes.unknown_clusters(&|name| self.clusters.by_name.exists(name));
                    if !missing.is_empty() {
                        return Err(missing
                            .into_iter()
                            .map(|error| ConfigError {
                                path: format!("route_config.{}", error.path),
                                reason: error.reason,
                            })
                            .collect());
                    }
                }
                RouteSource::Inline(_) => {}
            }
        }
        Ok(())
    }

    fn check_source(&self, path: &str, source: &ConfigSource) -> Result<(), Vec<ConfigError>> {
        if self.has_ads || source.kind != SourceKind::Ads {
            return Ok(());
        }
        Err(vec![ConfigError {
            path: path.to_owned(),
            reason: "names ads, but dynamic_resources.ads_config is not set".to_owned(),
        }])
    }

    /// The first answer for a name did not come in time: what waits for it goes on without.
    pub fn give_up(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Endpoints => self.clusters.give_up(name),
            Kind::Route => self.routes.give_up(name),
            Kind::Cluster | Kind::Listener => {}
        }
    }

    /// Lets serve what has become warm; tells the next snapshot when anything changed.
    pub fn settle(&mut self) -> Option<Snapshot> {
        let mut changed = std::mem::take(&mut self.changed);
        changed |= self.clusters.promote();
        changed |= self.routes.promote(&self.clusters);
        let taken_over = self.listeners.promote(&self.routes, &self.clusters);
        self.stats.listener_create_success.add(taken_over as u64);
        changed |= taken_over > 0;
        let (active, warming) = self.clusters.by_name.count();
        self.stats.clusters.set(active, warming);
        let (active, warming) = self.listeners.by_name.count();
        self.stats.listeners.set(active, warming);
        if !changed {
            return None;
        }
        self.routes.sweep(&self.listeners.routes_in_use());
        self.clusters.sweep();
        self.version += 1;
        Some(Snapshot {
            version: self.version,
            clusters: self
                .clusters
                .by_name
                .serving()
                .map(|(name, cluster)| (Arc::clone(name), Arc::clone(cluster)))
                .collect(),
            routes: self.routes.serving(),
            listeners: self
                .listeners
                .by_name
                .serving()
                .map(|(_, active)| Arc::clone(active))
                .collect(),
        })
    }

    /// Names wanted by what is there, for one kind; CDS and LDS are wanted by the bootstrap.
    #[must_use]
    pub fn wanted(&self, kind: Kind) -> BTreeSet<(SourceKey, Arc<str>)> {
        match kind {
            Kind::Endpoints => self.clusters.services(),
            Kind::Route => self.listeners.routes(),
            Kind::Cluster | Kind::Listener => BTreeSet::new(),
        }
    }

    /// How long the first answer for a wanted name may take.
    #[must_use]
    pub fn fetch_timeout(&self, kind: Kind, name: &str) -> Option<Duration> {
        match kind {
            Kind::Endpoints => self.clusters.fetch_timeout(name),
            Kind::Route => self.listeners.fetch_timeout(name),
            Kind::Cluster | Kind::Listener => None,
        }
    }

    /// A cluster of the bootstrap.
    #[must_use]
    pub fn static_cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.by_name.find_static(name)
    }

    /// Whether a cluster waits to become warm.
    #[must_use]
    pub fn is_warming_clusters(&self) -> bool {
        self.clusters.by_name.has_warming()
    }

    /// Whether anything waits to become warm.
    #[must_use]
    pub fn is_warming(&self) -> bool {
        self.clusters.by_name.has_warming() || self.listeners.by_name.has_warming()
    }

    /// Everything, for `/config_dump`.
    #[must_use]
    pub fn dump(&self) -> Dump {
        dump::dump(&self.clusters, &self.listeners, &self.routes)
    }
}

/// Validates, decodes and converts the message of a resource. One that is not valid is converted all the
/// same where it can be decoded, so that one refusal names everything that is wrong with it.
fn convert<M, T>(
    resource: &Resource,
    convert: impl FnOnce(&crate::convert::Cx<'_>, M) -> Option<T>,
) -> Result<T, Vec<ConfigError>>
where
    M: Message + Default + Name,
{
    let body = &resource.body;
    let (message, mut errors) = match outrigger_proto::decode_any::<M>(body) {
        Ok(message) => (message, Vec::new()),
        Err(errors) if body.type_url != M::type_url() => return Err(errors),
        Err(errors) => match M::decode(body.value.as_slice()) {
            Ok(message) => (message, errors),
            Err(_) => return Err(errors),
        },
    };
    let sink = Sink::new();
    let value = convert(&sink.root(""), message);
    let found = match sink.finish(value) {
        Ok(value) if errors.is_empty() => return Ok(value),
        Ok(_) => Vec::new(),
        Err(found) => found,
    };
    for error in found {
        if !errors.iter().any(|known| known.path == error.path) {
            errors.push(error);
        }
    }
    Err(errors)
}

/// A resource goes by one name: by another its removal would miss it.
fn same_name(resource: &Resource, name: &Arc<str>) -> Result<(), Vec<ConfigError>> {
    if resource.name == *name {
        return Ok(());
    }
    Err(whole(format!(
        "the resource is named `{}`, but its content says `{name}`",
        resource.name
    )))
}

fn whole(reason: String) -> Vec<ConfigError> {
    vec![ConfigError {
        path: String::new(),
        reason,
    }]
}

fn static_resource<M: Message + Name>(name: &Arc<str>, message: &M) -> Resource {
    Resource {
        name: Arc::clone(name),
        version: Arc::from(""),
        body: Any {
            type_url: M::type_url(),
            value: message.encode_to_vec(),
        },
        origin: Origin::Static,
        updated: SystemTime::now(),
    }
}
