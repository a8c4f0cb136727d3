//! Follows every reference between objects, once per version of the model, and notes what each
//! object's author should know.

mod policy;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use crate::{
    model::{
        BackendTarget, Endpoints, HttpRoute, NamespacedName, Object, ObjectRef, ParentRef,
        PortEntry, ReferenceGrant, Service, ServiceEntry, ServicePort,
    },
    status::{Condition, ObjectStatus, ParentStatus},
};

pub(crate) use policy::Policies;

/// The outcome.
pub(crate) struct Resolved {
    pub(crate) services: BTreeMap<NamespacedName, ServiceEntry>,
    pub(crate) routes: BTreeMap<NamespacedName, ResolvedRoute>,
    pub(crate) policies: Policies,
    pub(crate) statuses: BTreeMap<ObjectRef, ObjectStatus>,
}

/// The routes of one port of a service, each list in order of precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortRoutes {
    /// From the service's own namespace: for all clients.
    producer: Vec<NamespacedName>,
    /// From another namespace: for clients in that namespace, instead of the producer's.
    consumers: BTreeMap<Arc<str>, Vec<NamespacedName>>,
}

impl PortRoutes {
    /// The routes for clients in `namespace`.
    pub(crate) fn for_clients_in(&self, namespace: &str) -> &[NamespacedName] {
        self.consumers.get(namespace).unwrap_or(&self.producer)
    }
}

/// A route and where the backends of each of its rules lead.
#[derive(Debug)]
pub(crate) struct ResolvedRoute {
    object: Arc<Object>,
    /// By rule, then by backend.
    pub(crate) backends: Vec<Vec<Result<ServiceAddress, InvalidBackend>>>,
    /// By rule, then by mirror.
    pub(crate) mirrors: Vec<Vec<Result<ServiceAddress, InvalidBackend>>>,
}

impl ResolvedRoute {
    pub(crate) fn route(&self) -> &HttpRoute {
        match &*self.object {
            Object::HttpRoute(route) => route,
            _ => unreachable!("made of routes only"),
        }
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceAddress {
    pub(crate) service: NamespacedName,
    pub(crate) port: u16,
}

/// Why a backend answers 500.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidBackend {
    /// The reason of the condition `ResolvedRefs`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

pub(crate) fn resolve(objects: &BTreeMap<ObjectRef, Arc<Object>>) -> Resolved {
    let mut resolver = Resolver::default();
    for object in objects.values() {
        match &**object {
            Object::Service(service) => resolver.add_service(service, object),
            Object::ReferenceGrant(grant) => resolver.grants.push(grant),
            Object::Endpoints(_)
            | Object::HttpRoute(_)
            | Object::TrafficPolicy(_)
            | Object::Bulkhead(_)
            | Object::RateLimitPolicy(_)
            | Object::FaultPolicy(_) => {}
        }
    }
    let mut routes: Vec<(&HttpRoute, &Arc<Object>)> = Vec::new();
    for (reference, object) in objects {
        match &**object {
            Object::Endpoints(endpoints) => {
                let status = resolver.add_endpoints(endpoints);
                resolver.statuses.insert(reference.clone(), status);
            }
            Object::HttpRoute(route) => routes.push((route, object)),
            Object::ReferenceGrant(_) => {
                let accepted = Condition::met(Condition::ACCEPTED, "Accepted", "");
                let status = ObjectStatus {
                    conditions: vec![accepted],
                    parents: Vec::new(),
                };
                resolver.statuses.insert(reference.clone(), status);
            }
            Object::Service(_)
            | Object::TrafficPolicy(_)
            | Object::Bulkhead(_)
            | Object::RateLimitPolicy(_)
            | Object::FaultPolicy(_) => {}
        }
    }
    // Precedence between routes: the oldest first, then by namespace and name.
    routes.sort_by_key(|(route, _)| (route.created.is_none(), route.created, route.id.clone()));
    for (route, object) in routes {
        resolver.add_route(route, object);
    }
    resolver.finish(objects)
}

#[derive(Default)]
struct Resolver<'a> {
    services: BTreeMap<NamespacedName, ServiceEntry>,
    grants: Vec<&'a ReferenceGrant>,
    routes: BTreeMap<NamespacedName, ResolvedRoute>,
    statuses: BTreeMap<ObjectRef, ObjectStatus>,
}

impl<'a> Resolver<'a> {
    fn add_service(&mut self, service: &Service, object: &Arc<Object>) {
        let ports = service
            .ports
            .iter()
            .map(|port| PortEntry {
                port: port.clone(),
                routes: PortRoutes::default(),
                endpoints: Vec::new(),
            })
            .collect();
        let entry = ServiceEntry {
            service: Arc::clone(object),
            ports,
        };
        self.services.insert(service.id.clone(), entry);
    }

    fn add_endpoints(&mut self, endpoints: &Endpoints) -> ObjectStatus {
        let condition = match self.attach_endpoints(endpoints) {
            Ok(()) => Condition::met(Condition::ACCEPTED, "Accepted", ""),
            Err((reason, message)) => Condition::unmet(Condition::ACCEPTED, reason, message),
        };
        ObjectStatus {
            conditions: vec![condition],
            parents: Vec::new(),
        }
    }

    fn attach_endpoints(&mut self, endpoints: &Endpoints) -> Result<(), (&'static str, String)> {
        let Some(entry) = self.services.get_mut(&endpoints.service) else {
            return Err((
                "ServiceNotFound",
                format!("no Service/{}", endpoints.service),
            ));
        };
        let Object::Service(service) = &*entry.service else {
            return Ok(());
        };
        let mut missing = Vec::new();
        for (selector, addresses) in &endpoints.groups {
            let Some(port) = selector.select(service) else {
                missing.push(selector.to_string());
                continue;
            };
            if let Some(slot) = entry
                .ports
                .iter_mut()
                .find(|entry| entry.port.number == port.number)
            {
                merge(&mut slot.endpoints, addresses);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!(
            "Service/{} has no such port: {}",
            endpoints.service,
            missing.join(", ")
        );
        Err(("PortNotFound", message))
    }

    fn add_route(&mut self, route: &HttpRoute, object: &Arc<Object>) {
        let backends: Vec<Vec<_>> = route
            .rules
            .iter()
            .map(|rule| {
                rule.backends
                    .iter()
                    .map(|b| self.backend(&b.target, route))
                    .collect()
            })
            .collect();
        let mirrors: Vec<Vec<_>> = route
            .rules
            .iter()
            .map(|rule| {
                let mirrors = rule.filters.mirrors.iter();
                mirrors.map(|m| self.backend(&m.target, route)).collect()
            })
            .collect();
        let resolved_refs = resolved_refs(route, &backends, &mirrors);
        let mut parents = Vec::with_capacity(route.parents.len());
        for (index, parent) in route.parents.iter().enumerate() {
            let accepted = self.attach(route, parent, &format!("spec.parentRefs[{index}]"));
            parents.push(ParentStatus {
                parent: parent_name(parent),
                conditions: vec![accepted, resolved_refs.clone()],
            });
        }
        let reference = object.reference();
        self.statuses.insert(
            reference,
            ObjectStatus {
                conditions: Vec::new(),
                parents,
            },
        );
        let resolved = ResolvedRoute {
            object: Arc::clone(object),
            backends,
            mirrors,
        };
        self.routes.insert(route.id.clone(), resolved);
    }

    fn attach(&mut self, route: &HttpRoute, parent: &ParentRef, path: &str) -> Condition {
        let refuse = |reason, message| Condition::unmet(Condition::ACCEPTED, reason, message);
        if !parent.group.is_empty() || *parent.kind != *"Service" {
            let message = format!("{path}: {} is not supported, only Service", parent.kind);
            return refuse("UnsupportedValue", message);
        }
        if !route.unsupported.is_empty() {
            let fields: Vec<_> = route
                .unsupported
                .iter()
                .map(|field| format!("{}: {}", field.path, field.message))
                .collect();
            return refuse("UnsupportedValue", fields.join("; "));
        }
        let Some(entry) = self.services.get_mut(&parent.id) else {
            return refuse(
                "NoMatchingParent",
                format!("{path}: no Service/{}", parent.id),
            );
        };
        if entry.service().external_name {
            let message = format!("{path}: Service/{} is of type ExternalName", parent.id);
            return refuse("NoMatchingParent", message);
        }
        let mut attached = false;
        for slot in entry
            .ports
            .iter_mut()
            .filter(|slot| selects(parent, &slot.port))
        {
            attached = true;
            let routes = if route.id.namespace == parent.id.namespace {
                &mut slot.routes.producer
            } else {
                slot.routes
                    .consumers
                    .entry(route.id.namespace.clone())
                    .or_default()
            };
            if !routes.contains(&route.id) {
                routes.push(route.id.clone());
            }
        }
        if !attached {
            let message = format!("{path}: Service/{} has no such HTTP port", parent.id);
            return refuse("NoMatchingParent", message);
        }
        let note = if route.hostnames {
            "spec.hostnames has no effect on a route of Services"
        } else {
            ""
        };
        Condition::met(Condition::ACCEPTED, "Accepted", note)
    }

    fn backend(
        &self,
        target: &BackendTarget,
        route: &HttpRoute,
    ) -> Result<ServiceAddress, InvalidBackend> {
        let invalid = |reason, message| Err(InvalidBackend { reason, message });
        let BackendTarget {
            group,
            kind,
            id,
            port,
        } = target;
        if !group.is_empty() || **kind != *"Service" {
            return invalid(
                "InvalidKind",
                format!("{kind} is not supported, only Service"),
            );
        }
        if !self.may_refer(route, id) {
            let message = format!("no ReferenceGrant in {} permits Service/{id}", id.namespace);
            return invalid("RefNotPermitted", message);
        }
        let Some(entry) = self.services.get(id) else {
            return invalid("BackendNotFound", format!("no Service/{id}"));
        };
        if entry.service().external_name {
            return invalid(
                "InvalidKind",
                format!("Service/{id} is of type ExternalName"),
            );
        }
        let port = port.and_then(|number| entry.service().port(number).map(|port| (number, port)));
        let Some((number, port)) = port else {
            let wanted = target.port.unwrap_or_default();
            return invalid(
                "BackendNotFound",
                format!("Service/{id} has no port {wanted}"),
            );
        };
        if !port.protocol.is_http() {
            let message = format!("port {number} of Service/{id} is not HTTP");
            return invalid("UnsupportedProtocol", message);
        }
        Ok(ServiceAddress {
            service: id.clone(),
            port: number,
        })
    }

    /// Another namespace must permit to be sent traffic, except where the route only shapes traffic
    /// that goes there anyway: to the namespace of a Service that it is attached to.
    fn may_refer(&self, route: &HttpRoute, service: &NamespacedName) -> bool {
        service.namespace == route.id.namespace
            || route
                .parents
                .iter()
                .any(|parent| parent.id.namespace == service.namespace)
            || self
                .grants
                .iter()
                .any(|grant| grant.permits(&route.id.namespace, service))
    }

    fn finish(mut self, objects: &BTreeMap<ObjectRef, Arc<Object>>) -> Resolved {
        for (id, entry) in &self.services {
            let counts: Vec<_> = entry
                .ports
                .iter()
                .map(|slot| {
                    format!(
                        "port {}: {} endpoints",
                        slot.port.number,
                        slot.endpoints.len()
                    )
                })
                .collect();
            let accepted = Condition::met(Condition::ACCEPTED, "Accepted", counts.join(", "));
            let status = ObjectStatus {
                conditions: vec![accepted],
                parents: Vec::new(),
            };
            self.statuses
                .insert(ObjectRef::new(crate::model::Kind::Service, id), status);
        }
        let targets = policy::Targets {
            services: &self.services,
            routes: &self.routes,
        };
        let policies = policy::attach(objects, &targets, &mut self.statuses);
        Resolved {
            policies,
            services: self.services,
            routes: self.routes,
            statuses: self.statuses,
        }
    }
}

fn merge(into: &mut Vec<SocketAddr>, addresses: &[SocketAddr]) {
    let all: BTreeSet<_> = into.iter().chain(addresses).copied().collect();
    *into = all.into_iter().collect();
}

fn selects(parent: &ParentRef, port: &ServicePort) -> bool {
    port.protocol.is_http()
        && parent.port.is_none_or(|number| number == port.number)
        && parent
            .section
            .as_ref()
            .is_none_or(|name| *name == port.name)
}

fn parent_name(parent: &ParentRef) -> String {
    let ParentRef {
        group: _,
        kind,
        id,
        port,
        section,
    } = parent;
    match (port, section) {
        (Some(port), _) => format!("{kind}/{id}:{port}"),
        (None, Some(section)) => format!("{kind}/{id}:{section}"),
        (None, None) => format!("{kind}/{id}"),
    }
}

fn resolved_refs(
    route: &HttpRoute,
    backends: &[Vec<Result<ServiceAddress, InvalidBackend>>],
    mirrors: &[Vec<Result<ServiceAddress, InvalidBackend>>],
) -> Condition {
    let mut reason = None;
    let mut messages = Vec::new();
    let mut note = |path: String, invalid: &InvalidBackend| {
        reason.get_or_insert(invalid.reason);
        messages.push(format!("{path}: {}", invalid.message));
    };
    for (rule, backends) in backends.iter().enumerate() {
        for (index, backend) in backends.iter().enumerate() {
            if let Err(invalid) = backend {
                note(format!("spec.rules[{rule}].backendRefs[{index}]"), invalid);
            }
        }
    }
    for (index, (rule, resolved)) in route.rules.iter().zip(mirrors).enumerate() {
        for (mirror, resolved) in rule.filters.mirrors.iter().zip(resolved) {
            if let Err(invalid) = resolved {
                let filter = mirror.index;
                let path =
                    format!("spec.rules[{index}].filters[{filter}].requestMirror.backendRef");
                note(path, invalid);
            }
        }
    }
    match reason {
        Some(reason) => Condition::unmet(Condition::RESOLVED_REFS, reason, messages.join("; ")),
        None => Condition::met(Condition::RESOLVED_REFS, "ResolvedRefs", ""),
    }
}
