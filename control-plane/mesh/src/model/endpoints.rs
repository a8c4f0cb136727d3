//! Where services are served.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::{NamespacedName, ObjectRef, Service, ServicePort};

/// A list of addresses for the ports of one service, from an `EndpointSlice` or a
/// `ServiceAddresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The object itself.
    pub object: ObjectRef,
    /// Whose addresses these are.
    pub service: NamespacedName,
    /// Per port.
    pub groups: Vec<(PortSelector, Vec<SocketAddr>)>,
}

/// Which port of the service a list of addresses serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSelector {
    /// By name; empty is the port without a name.
    Name(Arc<str>),
    /// By number.
    Number(u16),
    /// The service's only port.
    Only,
}

impl PortSelector {
    /// The port of `service` that this selects.
    pub fn select<'a>(&self, service: &'a Service) -> Option<&'a ServicePort> {
        match self {
            Self::Name(name) => service.ports.iter().find(|port| port.name == *name),
            Self::Number(number) => service.port(*number),
            Self::Only => match service.ports.as_slice() {
                [port] => Some(port),
                _ => None,
            },
        }
    }
}

impl fmt::Display for PortSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) if name.is_empty() => f.write_str("the port without a name"),
            Self::Name(name) => write!(f, "'{name}'"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Only => f.write_str("there is not exactly one, so spec.port must say which"),
        }
    }
}
