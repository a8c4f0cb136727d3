//! Which ports a workload serves: what the endpoints of services tell.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    model::{AppProtocol, Model},
    resolve::ServiceAddress,
    scope::Interception,
};

/// A port that a workload serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The workload's own addresses that services lead to there.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) protocol: AppProtocol,
    /// Whose endpoint it is.
    pub(super) services: Vec<ServiceAddress>,
}

/// Every port of every workload, by its address: what services' endpoints tell.
#[derive(Debug, Default)]
pub(in crate::translate) struct Workloads(BTreeMap<SocketAddr, Vec<(ServiceAddress, AppProtocol)>>);

impl Workloads {
    pub(in crate::translate) fn of(model: &Model) -> Self {
        let mut ports = BTreeMap::<_, Vec<_>>::new();
        for (service, entry) in model.services() {
            for slot in &entry.ports {
                for endpoint in &slot.endpoints {
                    let address = ServiceAddress {
                        service: service.clone(),
                        port: slot.port.number,
                    };
                    let known = ports.entry(*endpoint).or_default();
                    known.push((address, slot.port.protocol.clone()));
                }
            }
        }
        Self(ports)
    }

    /// What the workload with these addresses serves, by port.
    pub(in crate::translate) fn served(
        &self,
        interception: &Interception,
    ) -> BTreeMap<u16, Served> {
        let mut served = BTreeMap::<u16, Served>::new();
        for ip in &interception.addresses {
            let (first, last) = (SocketAddr::new(*ip, 0), SocketAddr::new(*ip, u16::MAX));
            for (endpoint, services) in self.0.range(first..=last) {
                let mut protocols = services.iter().map(|(_, protocol)| protocol);
                let protocol = protocols.next().cloned().unwrap_or_default();
                let protocol = protocols.fold(protocol, |one, other| common(&one, other));
                let entry = served.entry(endpoint.port()).or_insert_with(|| Served {
                    addresses: Vec::new(),
                    protocol: protocol.clone(),
                    services: Vec::new(),
                });
                entry.protocol = common(&entry.protocol, &protocol);
                entry.addresses.push(*ip);
                for (service, _) in services {
                    if !entry.services.contains(service) {
                        entry.services.push(service.clone());
                    }
                }
            }
        }
        served
    }
}

/// What two services that disagree about a port leave open.
fn common(one: &AppProtocol, other: &AppProtocol) -> AppProtocol {
    match (one, other) {
        (AppProtocol::Other(_), AppProtocol::Other(_)) => one.clone(),
        (one, other) if one == other => one.clone(),
        (AppProtocol::Http1 | AppProtocol::Http2, AppProtocol::Http1 | AppProtocol::Http2) => {
            AppProtocol::Http1
        }
        _ => AppProtocol::Auto,
    }
}
