//! `discovery.k8s.io/v1 EndpointSlice` and our own `outrigger.dev/v1alpha1 ServiceAddresses`.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::{
    api::discovery::v1, apimachinery::pkg::apis::meta::v1::ObjectMeta,
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Deserialize;
use serde_norway::Value;

use super::{Checks, metadata, value};
use crate::model::{Endpoints, Kind, NamespacedName, ObjectRef, PortSelector};

/// Names the service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Reads an EndpointSlice: its ready endpoints serve the ports it names.
pub(super) fn read_slice(value: Value, checks: &mut Checks) -> Option<Endpoints> {
    let slice: v1::EndpointSlice = value::typed(value, checks)?;
    let id = metadata::read(&slice.metadata, checks)?;
    let service = slice
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SERVICE_LABEL));
    let Some(service) = service else {
        checks.error(
            "metadata.labels",
            format!("the label {SERVICE_LABEL} is missing"),
        );
        return None;
    };
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
        let message = format!(
            "'{}' is not supported, use IPv4 or IPv6",
            slice.address_type
        );
        checks.error("addressType", message);
        return None;
    }
    let addresses = slice_addresses(&slice, checks);
    let mut groups = Vec::new();
    for (index, port) in slice.ports.unwrap_or_default().into_iter().enumerate() {
        let path = format!("ports[{index}]");
        if port
            .protocol
            .as_deref()
            .is_some_and(|protocol| protocol != "TCP")
        {
            checks.warn(format!("{path}.protocol"), "only TCP is routed");
            continue;
        }
        let number = port
            .port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0);
        let Some(number) = number else {
            checks.error(format!("{path}.port"), "a number in 1..65535 is needed");
            continue;
        };
        let at = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, number))
            .collect();
        groups.push((PortSelector::Name(port.name.unwrap_or_default().into()), at));
    }
    let service = NamespacedName::new(id.namespace.clone(), service.as_str());
    Some(Endpoints {
        object: ObjectRef::new(Kind::EndpointSlice, &id),
        service,
        groups,
    })
}

fn slice_addresses(slice: &v1::EndpointSlice, checks: &mut Checks) -> Vec<IpAddr> {
    let mut ready = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        if endpoint.addresses.is_empty() {
            checks.error(
                format!("endpoints[{index}].addresses"),
                "at least one is needed",
            );
        }
        let is_ready = endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true);
        for (number, address) in endpoint.addresses.iter().enumerate() {
            let path = format!("endpoints[{index}].addresses[{number}]");
            match address.parse::<IpAddr>() {
                Ok(ip) if ip.is_ipv4() == (slice.address_type == "IPv4") => {
                    // Addresses of one endpoint are interchangeable: the first one stands for it.
                    if is_ready && number == 0 {
                        ready.push(ip);
                    }
                }
                Ok(_) => checks.error(path, format!("'{address}' is not {}", slice.address_type)),
                Err(_) => checks.error(path, format!("'{address}' is not an IP address")),
            }
        }
    }
    ready
}

/// A plain list of the addresses that serve a service, for machines without Kubernetes.
#[derive(Deserialize)]
struct ServiceAddresses {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: ObjectMeta,
    spec: ServiceAddressesSpec,
}

#[derive(Deserialize)]
struct ServiceAddressesSpec {
    /// In the same namespace; by default the service that has this object's name.
    service: Option<String>,
    /// Name or number of the service's port; may be left out if there is only one.
    port: Option<IntOrString>,
    /// `address:port` each, IPv6 in brackets.
    addresses: Vec<String>,
}

/// Reads a ServiceAddresses.
pub(super) fn read_addresses(value: Value, checks: &mut Checks) -> Option<Endpoints> {
    let object: ServiceAddresses = value::typed(value, checks)?;
    let id = metadata::read(&object.metadata, checks)?;
    let ServiceAddressesSpec {
        service,
        port,
        addresses,
    } = object.spec;
    let service = service.unwrap_or_else(|| id.name.to_string());
    if !metadata::is_label(&service) {
        checks.error(
            "spec.service",
            format!("'{service}' is not a valid service name"),
        );
    }
    let port = match port {
        None => PortSelector::Only,
        Some(IntOrString::String(name)) => PortSelector::Name(name.into()),
        Some(IntOrString::Int(number)) => match u16::try_from(number) {
            Ok(number) if number != 0 => PortSelector::Number(number),
            _ => {
                checks.error("spec.port", format!("{number} is not in 1..65535"));
                return None;
            }
        },
    };
    let mut at = Vec::with_capacity(addresses.len());
    for (index, address) in addresses.iter().enumerate() {
        match address.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => at.push(address),
            _ => checks.error(
                format!("spec.addresses[{index}]"),
                format!("'{address}' is not an IP address with a port, such as 10.0.0.7:8080"),
            ),
        }
    }
    let service = NamespacedName::new(id.namespace.clone(), service);
    let object = ObjectRef::new(Kind::ServiceAddresses, &id);
    Some(Endpoints {
        object,
        service,
        groups: vec![(port, at)],
    })
}
