//! The model, for one proxy, as xDS resources.
//!
//! [`Translator`] is made once per version of the model. What depends only on services (clusters
//! and endpoints) is translated once for all proxies, and taken over from the version before where
//! nothing changed; routes are translated once per [`Scope`]; only listeners are made per proxy.

mod cluster;
mod endpoint;
mod filters;
mod inbound;
mod intercept;
mod listener;
mod manager;
mod matcher;
mod precedence;
mod requests;
mod rewrite;
mod route;
mod traffic;
mod wire;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use outrigger_proto::google::protobuf::Any;
use prost::{Message, Name};

use self::{
    intercept::{Frontend, Workloads},
    traffic::HostsPolicy,
};
use crate::{
    model::{AppProtocol, Model, PortEntry, Service},
    resolve::ServiceAddress,
    scope::{Inbound, Mode, Node, Scope},
};

pub use inbound::INBOUND_LISTENER;
pub use intercept::{
    BLACK_HOLE, INBOUND_PASSTHROUGH, PASSTHROUGH, Served, VIRTUAL_INBOUND, VIRTUAL_OUTBOUND,
};
pub use listener::{OUTBOUND_LISTENER, OUTBOUND_ROUTES};
pub use manager::Profile;

/// One resource, encoded once for all proxies. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// A hash of the body: equal bodies have equal versions, in every process.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Arc<[u8]>,
}

impl Resource {
    fn of(message: &impl Message) -> Self {
        let body: Arc<[u8]> = message.encode_to_vec().into();
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        Self {
            version: format!("{:016x}", hasher.finish()).into(),
            body,
        }
    }
}

/// Resources of one type by name.
pub type ResourceMap = BTreeMap<Arc<str>, Resource>;

/// Everything that one proxy gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CDS.
    pub clusters: ResourceMap,
    /// EDS.
    pub endpoints: ResourceMap,
    /// LDS.
    pub listeners: ResourceMap,
    /// RDS.
    pub routes: ResourceMap,
}

impl Resources {
    /// Each resource as an `Any`, for dumps and tests: clusters, endpoints, listeners, routes.
    pub fn to_any(&self) -> Vec<Any> {
        use outrigger_proto::envoy::config;
        let typed = |url: String, map: &ResourceMap| {
            map.values()
                .map(|resource| Any {
                    type_url: url.clone(),
                    value: resource.body.to_vec(),
                })
                .collect::<Vec<_>>()
        };
        let mut all = typed(config::cluster::v3::Cluster::type_url(), &self.clusters);
        let endpoint = config::endpoint::v3::ClusterLoadAssignment::type_url();
        all.extend(typed(endpoint, &self.endpoints));
        all.extend(typed(
            config::listener::v3::Listener::type_url(),
            &self.listeners,
        ));
        all.extend(typed(
            config::route::v3::RouteConfiguration::type_url(),
            &self.routes,
        ));
        all
    }
}

/// Translates one version of the model.
#[derive(Debug)]
pub struct Translator {
    model: Arc<Model>,
    ports: BTreeMap<ServiceAddress, PortResources>,
    /// Asked for by intercepted nodes alone.
    workloads: OnceLock<Workloads>,
}

/// What a port of a service is to its callers.
#[derive(Clone, Debug)]
struct PortResources {
    protocol: AppProtocol,
    addresses: Vec<SocketAddr>,
    policy: HostsPolicy,
    frontend: Frontend,
    name: Arc<str>,
    cluster: Resource,
    /// None where callers choose the endpoint.
    assignment: Option<Resource>,
}

/// What a node is, besides the scope that it shares with others, as far as its clusters depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// It dials its proxy, or is dialled through it, at these ports.
    Dialled(Vec<Inbound>),
    /// Its connections are taken over; services lead to these of its ports.
    Intercepted(Mode, Vec<u16>),
}

/// What a node alone has in one version of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    served: BTreeMap<u16, Served>,
}

impl Translator {
    /// For `model`, taking over what `previous` translated and did not change.
    pub fn new(model: Arc<Model>, previous: Option<&Self>) -> Self {
        let mut ports = BTreeMap::new();
        for (service, entry) in model.services() {
            for slot in &entry.ports {
                let address = ServiceAddress {
                    service: service.clone(),
                    port: slot.port.number,
                };
                let policy = HostsPolicy::of(&model, &address);
                let frontend = Frontend::of(entry.service(), slot);
                let known = previous.and_then(|previous| previous.ports.get(&address));
                let resources = match known {
                    Some(known)
                        if known.protocol == slot.port.protocol
                            && known.addresses == slot.endpoints
                            && known.frontend == frontend
                            && known.policy == policy =>
                    {
                        known.clone()
                    }
                    _ => PortResources::new(&address, slot, policy, frontend),
                };
                ports.insert(address, resources);
            }
        }
        Self {
            model,
            ports,
            workloads: OnceLock::new(),
        }
    }

    /// The model that this translates.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What all proxies of one scope share: clusters, endpoints and routes of the mesh.
    pub fn scope(&self, scope: &Scope) -> Resources {
        let mut resources = Resources::default();
        for (address, port) in self.in_scope(scope) {
            resources.insert_port(port);
            let Some((service, slot)) = self.slot(address) else {
                continue;
            };
            if scope.intercepted && slot.port.protocol.is_http() {
                let routes = route::of_port(&self.model, service, slot, scope);
                let name = routes.name.as_str().into();
                resources.routes.insert(name, Resource::of(&routes));
            }
            // A route may lead to services that the proxy does not call by name.
            let routes = slot.routes.for_clients_in(&scope.namespace);
            for target in routes
                .iter()
                .filter_map(|id| self.model.routes().get(id))
                .flat_map(|route| {
                    route
                        .backends
                        .iter()
                        .chain(&route.mirrors)
                        .flatten()
                        .flatten()
                })
            {
                if let Some(port) = self.ports.get(target) {
                    resources.insert_port(port);
                }
            }
        }
        if !scope.intercepted {
            let routes = route::outbound(&self.model, scope);
            resources
                .routes
                .insert(OUTBOUND_ROUTES.into(), Resource::of(&routes));
        }
        resources
    }

    /// The listeners that intercepted workloads of equal scope and profile share: those of services. What is in
    /// `before`, which `previous` made for them, and has not changed is taken over.
    pub fn frontends(
        &self,
        scope: &Scope,
        profile: &Profile,
        before: Option<(&Self, &ResourceMap)>,
    ) -> ResourceMap {
        let mut listeners = ResourceMap::new();
        for (address, port) in self.in_scope(scope) {
            let known = before.filter(|(previous, _)| {
                let known = previous.ports.get(address);
                known.is_some_and(|known| known.frontend == port.frontend)
            });
            let known = known.and_then(|(_, before)| {
                let names = port.frontend.listener_names();
                names
                    .map(|name| before.get_key_value(&*name))
                    .collect::<Option<Vec<_>>>()
            });
            match known {
                Some(known) => {
                    listeners.extend(known.into_iter().map(|(n, l)| (Arc::clone(n), l.clone())));
                }
                None => {
                    for listener in port.frontend.listeners(profile, address) {
                        let name = listener.name.as_str().into();
                        // Of two services with one address, the first has it.
                        listeners
                            .entry(name)
                            .or_insert_with(|| Resource::of(&listener));
                    }
                }
            }
        }
        listeners
    }

    /// What only this node has.
    pub fn own(&self, node: &Node) -> Own {
        let interception = node.metadata.interception.as_ref();
        Own {
            served: interception
                .map(|interception| {
                    let workloads = self.workloads.get_or_init(|| Workloads::of(&self.model));
                    workloads.served(interception)
                })
                .unwrap_or_default(),
        }
    }

    /// The listeners of this node alone.
    pub fn own_listeners(&self, node: &Node, own: &Own) -> ResourceMap {
        let listeners = match &node.metadata.interception {
            None => listener::listeners(node),
            Some(interception) => intercept::own_listeners(node, interception, &own.served),
        };
        listeners
            .iter()
            .map(|listener| (listener.name.as_str().into(), Resource::of(listener)))
            .collect()
    }

    /// The routes of requests that arrive for this proxy's own workload.
    pub fn own_routes(&self, node: &Node, own: &Own) -> ResourceMap {
        let routes = if node.metadata.interception.is_some() {
            intercept::own_routes(&self.model, node, &own.served)
        } else {
            listener::inbound_route_tables(&self.model, node).collect()
        };
        routes
            .iter()
            .map(|routes| (routes.name.as_str().into(), Resource::of(routes)))
            .collect()
    }

    /// The clusters of workloads like this one.
    pub fn own_clusters(workload: &Workload) -> ResourceMap {
        let clusters = match workload {
            Workload::Dialled(inbound) => inbound.iter().map(cluster::inbound).collect(),
            Workload::Intercepted(mode, ports) => {
                intercept::own_clusters(*mode, ports.iter().copied())
            }
        };
        clusters
            .iter()
            .map(|cluster| (cluster.name.as_str().into(), Resource::of(cluster)))
            .collect()
    }

    /// Everything that this proxy gets.
    pub fn translate(&self, node: &Node) -> Resources {
        let scope = node.scope();
        let own = self.own(node);
        let mut all = self.scope(&scope);
        if scope.intercepted {
            all.listeners = self.frontends(&scope, &Profile::of(node), None);
        }
        all.listeners.extend(self.own_listeners(node, &own));
        all.clusters.extend(Self::own_clusters(&own.workload(node)));
        all.routes.extend(self.own_routes(node, &own));
        all
    }

    /// The ports that a proxy sees. One that is dialled for HTTP has no use for others.
    fn in_scope<'a>(
        &'a self,
        scope: &'a Scope,
    ) -> impl Iterator<Item = (&'a ServiceAddress, &'a PortResources)> {
        self.ports.iter().filter(|(address, port)| {
            scope.sees(&address.service) && (scope.intercepted || port.protocol.is_http())
        })
    }

    fn slot(&self, address: &ServiceAddress) -> Option<(&Service, &PortEntry)> {
        let entry = self.model.services().get(&address.service)?;
        let mut slots = entry.ports.iter();
        let slot = slots.find(|slot| slot.port.number == address.port)?;
        Some((entry.service(), slot))
    }
}

impl Own {
    /// What its clusters depend on.
    pub fn workload(&self, node: &Node) -> Workload {
        match &node.metadata.interception {
            None => Workload::Dialled(node.metadata.inbound.clone()),
            Some(interception) => {
                Workload::Intercepted(interception.mode, self.served.keys().copied().collect())
            }
        }
    }
}

impl Resources {
    fn insert_port(&mut self, port: &PortResources) {
        self.clusters
            .insert(Arc::clone(&port.name), port.cluster.clone());
        if let Some(assignment) = &port.assignment {
            self.endpoints
                .insert(Arc::clone(&port.name), assignment.clone());
        }
    }
}

impl PortResources {
    fn new(
        address: &ServiceAddress,
        slot: &PortEntry,
        policy: HostsPolicy,
        frontend: Frontend,
    ) -> Self {
        let name = cluster::outbound_name(address);
        let (protocol, addresses) = (&slot.port.protocol, &slot.endpoints);
        let cluster = cluster::outbound(&name, protocol, &policy, frontend.by_endpoint);
        Self {
            protocol: protocol.clone(),
            addresses: addresses.clone(),
            assignment: cluster
                .eds_cluster_config
                .is_some()
                .then(|| Resource::of(&endpoint::assignment(&name, addresses))),
            cluster: Resource::of(&cluster),
            policy,
            frontend,
            name: name.into(),
        }
    }
}
