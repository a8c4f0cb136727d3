//! Which policy is in force for what.
//!
//! Of several policies of one kind with the same target (and section), the oldest is in force,
//! then the first by name; the others are told of the conflict. A policy of a section and one of the
//! whole are no conflict: translation asks for the closest.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use super::ServiceAddress;
use crate::{
    model::{
        HttpRoute, NamespacedName, Object, ObjectRef, Rule, ServiceEntry,
        policy::{
            BulkheadSpec, FaultSpec, Policy, PolicySpec, RateLimitSpec, TargetKind, TargetRef,
            TrafficSpec,
        },
    },
    status::{Condition, ObjectStatus, ParentStatus},
};

/// Every policy by what it is attached to.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    pub(crate) traffic: Attached<TrafficSpec>,
    pub(crate) bulkheads: Attached<BulkheadSpec>,
    pub(crate) rate_limits: Attached<RateLimitSpec>,
    pub(crate) faults: Attached<FaultSpec>,
}

/// The policies of one kind.
#[derive(Debug)]
pub(crate) struct Attached<S> {
    by_target: BTreeMap<Target, Arc<Policy<S>>>,
}

impl<S> Default for Attached<S> {
    fn default() -> Self {
        Self {
            by_target: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Service(NamespacedName),
    Port(ServiceAddress),
    Route(NamespacedName),
    Rule(NamespacedName, Arc<str>),
}

impl<S> Attached<S> {
    /// For a port of a service, the closest first.
    pub(crate) fn of_port(&self, port: &ServiceAddress) -> impl Iterator<Item = &Arc<Policy<S>>> {
        [
            Target::Port(port.clone()),
            Target::Service(port.service.clone()),
        ]
        .into_iter()
        .filter_map(|target| self.by_target.get(&target))
    }

    /// For a rule of a route, the closest first.
    pub(crate) fn of_rule(
        &self,
        route: &NamespacedName,
        rule: &Rule,
    ) -> impl Iterator<Item = &Arc<Policy<S>>> {
        let section = rule
            .name
            .as_ref()
            .map(|name| Target::Rule(route.clone(), Arc::clone(name)));
        section
            .into_iter()
            .chain([Target::Route(route.clone())])
            .filter_map(|target| self.by_target.get(&target))
    }
}

/// What policies can be attached to.
pub(super) struct Targets<'a> {
    pub(super) services: &'a BTreeMap<NamespacedName, ServiceEntry>,
    pub(super) routes: &'a BTreeMap<NamespacedName, super::ResolvedRoute>,
}

/// Attaches every policy; what became of each is added to `statuses`.
pub(super) fn attach(
    objects: &BTreeMap<ObjectRef, Arc<Object>>,
    targets: &Targets<'_>,
    statuses: &mut BTreeMap<ObjectRef, ObjectStatus>,
) -> Policies {
    let (mut traffic, mut bulkheads) = (Vec::new(), Vec::new());
    let (mut rate_limits, mut faults) = (Vec::new(), Vec::new());
    for object in objects.values() {
        match &**object {
            Object::TrafficPolicy(policy) => traffic.push(&**policy),
            Object::Bulkhead(policy) => bulkheads.push(policy),
            Object::RateLimitPolicy(policy) => rate_limits.push(policy),
            Object::FaultPolicy(policy) => faults.push(policy),
            Object::Service(_)
            | Object::Endpoints(_)
            | Object::HttpRoute(_)
            | Object::ReferenceGrant(_) => {}
        }
    }
    Policies {
        traffic: attach_kind(traffic, targets, statuses),
        bulkheads: attach_kind(bulkheads, targets, statuses),
        rate_limits: attach_kind(rate_limits, targets, statuses),
        faults: attach_kind(faults, targets, statuses),
    }
}

fn attach_kind<S: PolicySpec + Clone>(
    mut policies: Vec<&Policy<S>>,
    targets: &Targets<'_>,
    statuses: &mut BTreeMap<ObjectRef, ObjectStatus>,
) -> Attached<S> {
    policies.sort_by_key(|policy| (policy.created.is_none(), policy.created, policy.id.clone()));
    let mut attached = Attached::default();
    for policy in policies {
        let shared = Arc::new(policy.clone());
        let mut parents = Vec::with_capacity(policy.spec.targets().len());
        for (index, target) in policy.spec.targets().iter().enumerate() {
            let outcome = match policy.spec.lapsed() {
                Some(over) => Err(("Expired", over)),
                None => targets
                    .find(&policy.id.namespace, target, policy.spec.about_requests())
                    .and_then(|found| attached.take(found, &shared)),
            };
            let accepted = match outcome {
                Ok(()) => Condition::met(Condition::ACCEPTED, "Accepted", policy.spec.note()),
                Err((reason, message)) => Condition::unmet(
                    Condition::ACCEPTED,
                    reason,
                    format!("spec.targetRefs[{index}]: {message}"),
                ),
            };
            parents.push(ParentStatus {
                parent: target_name(&policy.id.namespace, target),
                conditions: vec![accepted],
            });
        }
        let status = ObjectStatus {
            conditions: Vec::new(),
            parents,
        };
        statuses.insert(policy.reference(), status);
    }
    attached
}

impl<S: PolicySpec> Attached<S> {
    fn take(
        &mut self,
        target: Target,
        policy: &Arc<Policy<S>>,
    ) -> Result<(), (&'static str, String)> {
        match self.by_target.entry(target) {
            Entry::Vacant(place) => {
                place.insert(Arc::clone(policy));
                Ok(())
            }
            Entry::Occupied(place) => Err((
                "Conflicted",
                format!(
                    "{} is older, or first by name, and in force",
                    place.get().reference()
                ),
            )),
        }
    }
}

impl Targets<'_> {
    fn find(
        &self,
        namespace: &Arc<str>,
        target: &TargetRef,
        about_requests: Option<&'static str>,
    ) -> Result<Target, (&'static str, String)> {
        let id = NamespacedName::new(Arc::clone(namespace), target.name.as_str());
        match target.target() {
            Some(TargetKind::Service) => {
                self.service(id, target.section_name.as_deref(), about_requests)
            }
            Some(TargetKind::HttpRoute) => self.route(id, target.section_name.as_deref()),
            // Refused where the file was read.
            None => Err(("Invalid", format!("{} is not supported", target.kind))),
        }
    }

    fn service(
        &self,
        id: NamespacedName,
        section: Option<&str>,
        about_requests: Option<&'static str>,
    ) -> Result<Target, (&'static str, String)> {
        let Some(entry) = self.services.get(&id) else {
            return Err(("TargetNotFound", format!("no Service/{id}")));
        };
        if entry.service().external_name {
            let message = format!("Service/{id} is of type ExternalName, which is not routed");
            return Err(("Invalid", message));
        }
        let Some(section) = section else {
            return Ok(Target::Service(id));
        };
        let ports = &entry.service().ports;
        match ports.iter().find(|port| *port.name == *section) {
            Some(port) => match about_requests.filter(|_| !port.protocol.is_http()) {
                None => Ok(Target::Port(ServiceAddress {
                    service: id,
                    port: port.number,
                })),
                Some("") => Err((
                    "Invalid",
                    format!("port '{section}' of Service/{id} is not HTTP"),
                )),
                Some(field) => Err((
                    "Invalid",
                    format!(
                        "port '{section}' of Service/{id} is not HTTP, and spec.{field} is about requests"
                    ),
                )),
            },
            None => Err((
                "TargetNotFound",
                format!("Service/{id} has no port named '{section}'"),
            )),
        }
    }

    fn route(
        &self,
        id: NamespacedName,
        section: Option<&str>,
    ) -> Result<Target, (&'static str, String)> {
        let Some(resolved) = self.routes.get(&id) else {
            return Err(("TargetNotFound", format!("no HTTPRoute/{id}")));
        };
        let route: &HttpRoute = resolved.route();
        let Some(section) = section else {
            return Ok(Target::Route(id));
        };
        let name = route
            .rules
            .iter()
            .filter_map(|rule| rule.name.as_ref())
            .find(|name| ***name == *section);
        match name {
            Some(name) => Ok(Target::Rule(id, Arc::clone(name))),
            None => Err((
                "TargetNotFound",
                format!("HTTPRoute/{id} has no rule named '{section}'"),
            )),
        }
    }
}

fn target_name(namespace: &str, target: &TargetRef) -> String {
    let TargetRef {
        group: _,
        kind,
        name,
        section_name,
    } = target;
    match section_name {
        Some(section) => format!("{kind}/{namespace}/{name}:{section}"),
        None => format!("{kind}/{namespace}/{name}"),
    }
}
