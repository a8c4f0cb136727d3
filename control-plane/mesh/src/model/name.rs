//! Names of objects.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// A name within a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// Of its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of objects that the mesh is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `outrigger.dev/v1alpha1 ServiceAddresses`.
    ServiceAddresses,
    /// `gateway.networking.k8s.io/v1 HTTPRoute`.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1beta1 ReferenceGrant`.
    ReferenceGrant,
    /// `outrigger.dev/v1alpha1 TrafficPolicy`.
    TrafficPolicy,
    /// `outrigger.dev/v1alpha1 Bulkhead`.
    Bulkhead,
    /// `outrigger.dev/v1alpha1 RateLimitPolicy`.
    RateLimitPolicy,
    /// `outrigger.dev/v1alpha1 FaultPolicy`.
    FaultPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Service,
        Self::EndpointSlice,
        Self::ServiceAddresses,
        Self::HttpRoute,
        Self::ReferenceGrant,
        Self::TrafficPolicy,
        Self::Bulkhead,
        Self::RateLimitPolicy,
        Self::FaultPolicy,
    ];

    /// As written in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceAddresses => "ServiceAddresses",
            Self::HttpRoute => "HTTPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::Bulkhead => "Bulkhead",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::FaultPolicy => "FaultPolicy",
        }
    }

    /// The `apiVersion`s that are read.
    pub const fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["v1"],
            Self::EndpointSlice => &["discovery.k8s.io/v1"],
            Self::ServiceAddresses
            | Self::TrafficPolicy
            | Self::Bulkhead
            | Self::RateLimitPolicy
            | Self::FaultPolicy => &["outrigger.dev/v1alpha1"],
            Self::HttpRoute => &["gateway.networking.k8s.io/v1"],
            Self::ReferenceGrant => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1beta1",
            ],
        }
    }
}

/// Which object: `HTTPRoute/shop/reviews`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub id: NamespacedName,
}

impl ObjectRef {
    /// Of its parts.
    pub fn new(kind: Kind, id: &NamespacedName) -> Self {
        Self {
            kind,
            id: id.clone(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.id)
    }
}

impl Serialize for ObjectRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
