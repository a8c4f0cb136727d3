//! The mesh's own policies, group `outrigger.dev/v1alpha1`: what is attached to what.
//!
//! A specification is both what is deserialised and what is translated: `parse::policy` checks
//! its values, so whoever reads one from the model can rely on them.

mod bulkhead;
mod fault;
mod rate_limit;
mod traffic;
mod values;

pub use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

pub use bulkhead::{BulkheadSpec, PerCaller, PriorityLanes};
pub use fault::{Abort, Delay, FaultSpec, Life};
pub use rate_limit::{RateLimitSpec, RefusalSpec};
pub use traffic::{
    Backoff, CircuitBreaker, Connection, ConsistentHash, CookieHash, FailurePercentage, HashOn,
    LoadBalancer, LoadBalancerType, OutlierDetection, Retries, RetryBudget, SlowStart, Stickiness,
    SuccessRate, TcpKeepalive, Timeouts, TrafficSpec,
};
pub use values::{HeaderMatch, HeaderValue, Percent, Side, Span};

use super::{Kind, NamespacedName, Object, ObjectRef};

/// A policy and what it is attached to.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy<S> {
    /// Namespace and name; targets are in the same namespace.
    pub id: NamespacedName,
    /// `metadata.creationTimestamp`; one without counts as younger than any with one.
    pub created: Option<Timestamp>,
    /// What it says.
    pub spec: S,
}

impl<S: PolicySpec> Policy<S> {
    /// What identifies it, such as `TrafficPolicy/shop/reviews`.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(S::KIND, &self.id)
    }
}

/// What all specifications have in common.
pub trait PolicySpec {
    /// The kind of its object.
    const KIND: Kind;

    /// What it is attached to.
    fn targets(&self) -> &[TargetRef];

    /// What of it is about requests, so that it cannot be for a port that is not HTTP; empty if all of it is.
    fn about_requests(&self) -> Option<&'static str> {
        Some("")
    }

    /// Why it is no longer in force, if its time is over.
    fn lapsed(&self) -> Option<String> {
        None
    }

    /// What its author should know while it is in force.
    fn note(&self) -> String {
        String::new()
    }
}

/// `spec.targetRefs[i]`: a Service or an HTTPRoute of the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Empty for Services, `gateway.networking.k8s.io` for HTTPRoutes.
    pub group: String,
    /// `Service` or `HTTPRoute`.
    pub kind: String,
    /// The target's name.
    pub name: String,
    /// Only the Service's port, or the HTTPRoute's rule, of this name.
    #[serde(default)]
    pub section_name: Option<String>,
}

/// What a target may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A Service: its clusters and the routes of its name.
    Service,
    /// An HTTPRoute: its routes.
    HttpRoute,
}

impl TargetRef {
    /// What it names, if that is something that policies can be attached to.
    pub fn target(&self) -> Option<TargetKind> {
        match (self.group.as_str(), self.kind.as_str()) {
            ("" | "core", "Service") => Some(TargetKind::Service),
            ("gateway.networking.k8s.io", "HTTPRoute") => Some(TargetKind::HttpRoute),
            _ => None,
        }
    }
}

/// What Envoy does with a policy that goes beyond it, if `object` is one.
pub fn on_envoy(object: &Object) -> Option<&'static str> {
    match object {
        Object::Bulkhead(_) => Some("which has no bulkheads and leaves it out"),
        Object::TrafficPolicy(policy) => {
            let spec = &policy.spec;
            let balancer = spec.load_balancer.as_ref();
            if balancer.is_some_and(|balancer| balancer.kind == LoadBalancerType::PeakEwma) {
                Some("which balances by least request in place of peakEwma")
            } else if spec.stickiness.is_some() {
                Some("where a new weight may move users both ways")
            } else {
                None
            }
        }
        _ => None,
    }
}
