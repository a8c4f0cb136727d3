//! Resource types: their URLs, the order between them and their removal rules.

use std::fmt;
use std::sync::Arc;

/// The name that subscribes to every resource of a type.
pub const WILDCARD: &str = "*";

/// The two forms of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Form {
    /// State of the world (`GRPC`): a request lists all names, a version covers a whole type.
    #[default]
    Sotw,
    /// Incremental (`DELTA_GRPC`): names come and go, each resource has its own version.
    Delta,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        })
    }
}

/// A resource type, as its type URL. The order is the order in which types are requested and sent:
/// make before break, so that nothing is named before it is there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TypeUrl {
    /// CDS, `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// EDS, `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoint,
    /// SDS, `envoy.extensions.transport_sockets.tls.v3.Secret`.
    Secret,
    /// LDS, `envoy.config.listener.v3.Listener`.
    Listener,
    /// RDS, `envoy.config.route.v3.RouteConfiguration`.
    Route,
    /// Any other type, by its whole URL.
    Other(Arc<str>),
}

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

impl TypeUrl {
    /// The URL as it is on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Cluster => CLUSTER,
            Self::Endpoint => ENDPOINT,
            Self::Secret => SECRET,
            Self::Listener => LISTENER,
            Self::Route => ROUTE,
            Self::Other(url) => url,
        }
    }

    /// Whether a state-of-the-world response lists every subscribed resource of this type, so that
    /// a missing one is a removed one. True for LDS and CDS only.
    #[must_use]
    pub fn is_sent_whole(&self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// Types whose resources name resources of this one.
    #[must_use]
    pub(crate) fn referrers(&self) -> &'static [Self] {
        match self {
            Self::Cluster => &[Self::Listener, Self::Route],
            Self::Endpoint => &[Self::Cluster, Self::Listener, Self::Route],
            Self::Secret => &[Self::Cluster, Self::Listener],
            Self::Route => &[Self::Listener],
            Self::Listener | Self::Other(_) => &[],
        }
    }

    /// Types that a change of this one waits for, so that nothing is named before it is there.
    #[must_use]
    pub(crate) fn predecessors(&self) -> &'static [Self] {
        match self {
            Self::Endpoint => &[Self::Cluster],
            Self::Listener => &[Self::Cluster, Self::Endpoint],
            Self::Route => &[Self::Cluster, Self::Endpoint, Self::Listener],
            Self::Cluster | Self::Secret | Self::Other(_) => &[],
        }
    }

    /// Types whose update makes this type's subscriptions change.
    #[must_use]
    pub(crate) fn parents(&self) -> &'static [Self] {
        match self {
            Self::Endpoint => &[Self::Cluster],
            Self::Secret => &[Self::Cluster, Self::Listener],
            Self::Route => &[Self::Listener],
            Self::Cluster | Self::Listener | Self::Other(_) => &[],
        }
    }
}

impl From<&str> for TypeUrl {
    fn from(url: &str) -> Self {
        match url {
            CLUSTER => Self::Cluster,
            ENDPOINT => Self::Endpoint,
            SECRET => Self::Secret,
            LISTENER => Self::Listener,
            ROUTE => Self::Route,
            _ => Self::Other(url.into()),
        }
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_round_trip_and_keep_their_order() {
        let order = [
            CLUSTER,
            ENDPOINT,
            SECRET,
            LISTENER,
            ROUTE,
            "type.googleapis.com/x.Y",
        ];
        let types: Vec<TypeUrl> = order.iter().map(|url| TypeUrl::from(*url)).collect();
        assert!(types.is_sorted());
        assert!(types.iter().map(TypeUrl::as_str).eq(order));
    }
}
