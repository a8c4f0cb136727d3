//! The mesh model: what the sources said, typed, resolved and immutable.
//!
//! A source gives [`Object`]s; [`Model::build`] resolves their references once. Whoever reads the
//! model never meets a dangling reference as an error: it is a value with a reason.

mod endpoints;
mod name;
pub mod policy;
mod route;
mod service;

use std::{collections::BTreeMap, sync::Arc};

pub use endpoints::{Endpoints, PortSelector};
pub use name::{Kind, NamespacedName, ObjectRef};
pub use route::{
    Backend, BackendTarget, Cors, Filters, HeaderChanges, HttpRoute, Match, Mirror, ParentRef,
    PathChange, PathMatch, Redirect, Retry, Rewrite, Rule, TextMatch, Unsupported, ValueMatch,
};
pub use service::{AppProtocol, Service, ServicePort};

use self::policy::{BulkheadSpec, FaultSpec, Policy, RateLimitSpec, TrafficSpec};
use crate::{
    resolve::{self, Policies, PortRoutes, ResolvedRoute},
    status::ObjectStatus,
};

/// One object of the mesh, as a source gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1 Service`.
    Service(Service),
    /// `discovery.k8s.io/v1 EndpointSlice` or `outrigger.dev/v1alpha1 ServiceAddresses`.
    Endpoints(Endpoints),
    /// `gateway.networking.k8s.io/v1 HTTPRoute`.
    HttpRoute(HttpRoute),
    /// `gateway.networking.k8s.io/v1beta1 ReferenceGrant`.
    ReferenceGrant(ReferenceGrant),
    /// `outrigger.dev/v1alpha1 TrafficPolicy`.
    TrafficPolicy(Box<Policy<TrafficSpec>>),
    /// `outrigger.dev/v1alpha1 Bulkhead`.
    Bulkhead(Policy<BulkheadSpec>),
    /// `outrigger.dev/v1alpha1 RateLimitPolicy`.
    RateLimitPolicy(Policy<RateLimitSpec>),
    /// `outrigger.dev/v1alpha1 FaultPolicy`.
    FaultPolicy(Policy<FaultSpec>),
}

impl Object {
    /// What identifies it among all objects.
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Service(service) => ObjectRef::new(Kind::Service, &service.id),
            Self::Endpoints(endpoints) => endpoints.object.clone(),
            Self::HttpRoute(route) => ObjectRef::new(Kind::HttpRoute, &route.id),
            Self::ReferenceGrant(grant) => ObjectRef::new(Kind::ReferenceGrant, &grant.id),
            Self::TrafficPolicy(policy) => policy.reference(),
            Self::Bulkhead(policy) => policy.reference(),
            Self::RateLimitPolicy(policy) => policy.reference(),
            Self::FaultPolicy(policy) => policy.reference(),
        }
    }
}

/// Which references from other namespaces into this object's namespace are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Its own name; the namespace is the one that is opened.
    pub id: NamespacedName,
    /// Namespaces whose HTTPRoutes may refer.
    pub from: Vec<Arc<str>>,
    /// Services that may be referred to; `None` is every one.
    pub to: Vec<Option<Arc<str>>>,
}

impl ReferenceGrant {
    /// Whether an HTTPRoute in `namespace` may send traffic to `service`.
    pub fn permits(&self, namespace: &str, service: &NamespacedName) -> bool {
        self.id.namespace == service.namespace
            && self.from.iter().any(|from| **from == *namespace)
            && self
                .to
                .iter()
                .any(|to| to.as_ref().is_none_or(|name| *name == service.name))
    }
}

/// All objects of the mesh at one version, with every reference resolved.
#[derive(Debug, Default)]
pub struct Model {
    /// Grows with every change; 0 is the empty model before the first.
    pub version: u64,
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    services: BTreeMap<NamespacedName, ServiceEntry>,
    routes: BTreeMap<NamespacedName, ResolvedRoute>,
    policies: Policies,
    statuses: BTreeMap<ObjectRef, ObjectStatus>,
}

/// A service with everything that refers to it.
#[derive(Debug)]
pub struct ServiceEntry {
    /// The service itself.
    pub service: Arc<Object>,
    /// Its ports in order of definition.
    pub ports: Vec<PortEntry>,
}

/// One port of a service, with its routes and its endpoints.
#[derive(Debug)]
pub struct PortEntry {
    /// The port itself.
    pub port: ServicePort,
    /// Routes attached to it.
    pub(crate) routes: PortRoutes,
    /// Where it is served: sorted, without repetition.
    pub endpoints: Vec<std::net::SocketAddr>,
}

impl Model {
    /// Resolves `objects` into the model of this `version`. A later object of the same kind and name
    /// replaces an earlier one: sources refuse duplicates before this.
    pub fn build(version: u64, objects: impl IntoIterator<Item = Arc<Object>>) -> Self {
        let objects: BTreeMap<_, _> = objects
            .into_iter()
            .map(|object| (object.reference(), object))
            .collect();
        let resolved = resolve::resolve(&objects);
        Self {
            version,
            objects,
            services: resolved.services,
            routes: resolved.routes,
            policies: resolved.policies,
            statuses: resolved.statuses,
        }
    }

    /// Every object, sorted by kind, namespace and name.
    pub fn objects(&self) -> &BTreeMap<ObjectRef, Arc<Object>> {
        &self.objects
    }

    /// Every service, sorted.
    pub fn services(&self) -> &BTreeMap<NamespacedName, ServiceEntry> {
        &self.services
    }

    /// Every route with what its backends resolved to, sorted.
    pub(crate) fn routes(&self) -> &BTreeMap<NamespacedName, ResolvedRoute> {
        &self.routes
    }

    /// Every policy by what it is attached to.
    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What to tell the user about each object.
    pub fn statuses(&self) -> &BTreeMap<ObjectRef, ObjectStatus> {
        &self.statuses
    }
}

impl ServiceEntry {
    /// The typed service.
    pub fn service(&self) -> &Service {
        match &*self.service {
            Object::Service(service) => service,
            _ => unreachable!("entries are made of services only"),
        }
    }
}
