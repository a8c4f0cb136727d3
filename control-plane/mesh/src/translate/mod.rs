//! The model, for one proxy, as xDS resources.
//!
//! [`Translator`] is made once per version of the model. What depends only on services (clusters
//! and endpoints) is translated once for all proxies, and taken over from the version before where
//! nothing changed; routes are translated once per [`Scope`]; only listeners are made per proxy.

mod cluster;
mod endpoint;
mod filters;
mod listener;
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
    sync::Arc,
};

use outrigger_proto::google::protobuf::Any;
use prost::{Message, Name};

use self::traffic::HostsPolicy;
use crate::{
    model::{AppProtocol, Model, PortEntry},
    resolve::ServiceAddress,
    scope::{Node, Scope},
};

pub use listener::{INBOUND_LISTENER, OUTBOUND_LISTENER, OUTBOUND_ROUTES};

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
}

/// What a port of a service is to its callers.
#[derive(Clone, Debug)]
struct PortResources {
    protocol: AppProtocol,
    addresses: Vec<SocketAddr>,
    policy: HostsPolicy,
    name: Arc<str>,
    cluster: Resource,
    assignment: Resource,
}

impl Translator {
    /// For `model`, taking over what `previous` translated and did not change.
    pub fn new(model: Arc<Model>, previous: Option<&Self>) -> Self {
        let mut ports = BTreeMap::new();
        for (service, entry) in model.services() {
            for slot in entry
                .ports
                .iter()
                .filter(|slot| slot.port.protocol.is_http())
            {
                let address = ServiceAddress {
                    service: service.clone(),
                    port: slot.port.number,
                };
                let policy = HostsPolicy::of(&model, &address);
                let known = previous.and_then(|previous| previous.ports.get(&address));
                let resources = match known {
                    Some(known)
                        if known.protocol == slot.port.protocol
                            && known.addresses == slot.endpoints
                            && known.policy == policy =>
                    {
                        known.clone()
                    }
                    _ => PortResources::new(&address, slot, policy),
                };
                ports.insert(address, resources);
            }
        }
        Self { model, ports }
    }

    /// The model that this translates.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What all proxies of one scope share: clusters, endpoints and routes of the mesh.
    pub fn scope(&self, scope: &Scope) -> Resources {
        let mut resources = Resources::default();
        for (address, port) in self
            .ports
            .iter()
            .filter(|(port, _)| scope.sees(&port.service))
        {
            resources.insert_port(port);
            // A route may lead to services that the proxy does not call by name.
            let entry = self.model.services().get(&address.service);
            let slot =
                entry.and_then(|entry| entry.ports.iter().find(|s| s.port.number == address.port));
            let routes = slot.map_or(&[][..], |slot| slot.routes.for_clients_in(&scope.namespace));
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
        let routes = route::outbound(&self.model, scope);
        resources
            .routes
            .insert(OUTBOUND_ROUTES.into(), Resource::of(&routes));
        resources
    }

    /// What is only for this proxy: its listeners, and the clusters and routes of its own workload.
    pub fn node(&self, node: &Node) -> Resources {
        let mut resources = Resources::default();
        for listener in listener::listeners(node) {
            let name = listener.name.as_str().into();
            resources.listeners.insert(name, Resource::of(&listener));
        }
        resources.routes = self.node_routes(node);
        for cluster in node.metadata.inbound.iter().map(cluster::inbound) {
            resources
                .clusters
                .insert(cluster.name.as_str().into(), Resource::of(&cluster));
        }
        resources
    }

    /// The routes of requests that arrive for this proxy's own workload.
    pub fn node_routes(&self, node: &Node) -> ResourceMap {
        listener::inbound_route_tables(&self.model, node)
            .map(|routes| (routes.name.as_str().into(), Resource::of(&routes)))
            .collect()
    }

    /// Everything that this proxy gets.
    pub fn translate(&self, node: &Node) -> Resources {
        let mut all = self.scope(&node.scope());
        let own = self.node(node);
        all.listeners.extend(own.listeners);
        all.clusters.extend(own.clusters);
        all.routes.extend(own.routes);
        all
    }
}

impl Resources {
    fn insert_port(&mut self, port: &PortResources) {
        self.clusters
            .insert(Arc::clone(&port.name), port.cluster.clone());
        self.endpoints
            .insert(Arc::clone(&port.name), port.assignment.clone());
    }
}

impl PortResources {
    fn new(address: &ServiceAddress, slot: &PortEntry, policy: HostsPolicy) -> Self {
        let name = cluster::outbound_name(address);
        let (protocol, addresses) = (&slot.port.protocol, &slot.endpoints);
        Self {
            protocol: protocol.clone(),
            addresses: addresses.clone(),
            cluster: Resource::of(&cluster::outbound(&name, protocol, &policy)),
            assignment: Resource::of(&endpoint::assignment(&name, addresses)),
            policy,
            name: name.into(),
        }
    }
}
