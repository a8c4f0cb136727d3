//! `v1 Service`.

use std::{collections::HashSet, net::IpAddr};

use k8s_openapi::api::core::v1;
use serde_norway::Value;

use super::{Checks, metadata, value};
use crate::model::{AppProtocol, Service, ServicePort};

/// Reads a Service. What belongs to Kubernetes (cluster addresses, selectors, node ports, load
/// balancers) is accepted; what would change how requests are spread draws a warning.
pub(super) fn read(value: Value, checks: &mut Checks) -> Option<Service> {
    let object: v1::Service = value::typed(value, checks)?;
    let id = metadata::read(&object.metadata, checks)?;
    // It becomes one label of host names: with a dot in it, two services could have the same one.
    if !metadata::is_label(&id.name) {
        checks.error(
            "metadata.name",
            format!(
                "'{}' is not a valid name of a Service: use at most 63 lower case letters, digits and '-'",
                id.name
            ),
        );
    }
    let Some(spec) = object.spec else {
        checks.error("spec", "missing");
        return None;
    };
    warn_of_no_effect(&spec, checks);
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    if external_name {
        checks.warn(
            "spec.type",
            "ExternalName services are neither routed nor routed to",
        );
    }
    let cluster_ips = cluster_ips(&spec, checks);
    let ports = spec.ports.unwrap_or_default();
    if ports.is_empty() && !external_name {
        checks.error("spec.ports", "at least one port is needed");
    }
    let named = ports.len() > 1;
    let mut seen = (HashSet::new(), HashSet::new());
    let ports = ports
        .into_iter()
        .enumerate()
        .filter_map(|(index, port)| {
            read_port(
                port,
                &format!("spec.ports[{index}]"),
                named,
                &mut seen,
                checks,
            )
        })
        .collect();
    Some(Service {
        id,
        ports,
        cluster_ips,
        external_name,
    })
}

/// The addresses that clients find; none if that is meant.
fn cluster_ips(spec: &v1::ServiceSpec, checks: &mut Checks) -> Vec<IpAddr> {
    const NONE: &str = "None";
    let one = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(one), Some(first)) = (one, all.first())
        && one != first
    {
        checks.error(
            "spec.clusterIPs[0]",
            format!("'{first}' is not spec.clusterIP, which is '{one}'"),
        );
    }
    let mut texts: Vec<(String, &str)> = all
        .iter()
        .enumerate()
        .map(|(index, text)| (format!("spec.clusterIPs[{index}]"), text.as_str()))
        .collect();
    if texts.is_empty() {
        texts.extend(one.map(|text| ("spec.clusterIP".to_owned(), text)));
    }
    if let [(_, NONE)] = texts.as_slice() {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for (path, text) in texts {
        match text.parse::<IpAddr>() {
            Ok(address) if !address.is_unspecified() => addresses.push(address),
            _ => checks.error(path, format!("'{text}' is no IP address of a service")),
        }
    }
    addresses
}

fn read_port(
    port: v1::ServicePort,
    path: &str,
    named: bool,
    (names, numbers): &mut (HashSet<String>, HashSet<(i32, String)>),
    checks: &mut Checks,
) -> Option<ServicePort> {
    let v1::ServicePort {
        app_protocol,
        name,
        node_port: _,
        port,
        protocol,
        target_port: _,
    } = port;
    let name = name.unwrap_or_default();
    let Some(number) = u16::try_from(port).ok().filter(|number| *number != 0) else {
        checks.error(format!("{path}.port"), format!("{port} is not in 1..65535"));
        return None;
    };
    if named && name.is_empty() {
        checks.error(
            format!("{path}.name"),
            "needed when there are several ports",
        );
    }
    if !name.is_empty() && !metadata::is_label(&name) {
        checks.error(
            format!("{path}.name"),
            format!("'{name}' is not a valid port name"),
        );
    }
    if !name.is_empty() && !names.insert(name.clone()) {
        checks.error(format!("{path}.name"), format!("'{name}' is used twice"));
    }
    let transport = protocol.unwrap_or_else(|| "TCP".to_owned());
    if !numbers.insert((port, transport.clone())) {
        checks.error(format!("{path}.port"), format!("{port} is used twice"));
    }
    match transport.as_str() {
        "TCP" => {}
        "UDP" | "SCTP" => {
            checks.warn(
                format!("{path}.protocol"),
                format!("{transport} ports are not routed"),
            );
            return None;
        }
        other => {
            checks.error(
                format!("{path}.protocol"),
                format!("unknown protocol '{other}'"),
            );
            return None;
        }
    }
    let protocol = AppProtocol::of_port(app_protocol.as_deref(), &name);
    Some(ServicePort {
        name: name.into(),
        number,
        protocol,
    })
}

fn warn_of_no_effect(spec: &v1::ServiceSpec, checks: &mut Checks) {
    let affinity = spec
        .session_affinity
        .as_deref()
        .is_some_and(|affinity| affinity != "None");
    let local = spec
        .internal_traffic_policy
        .as_deref()
        .is_some_and(|policy| policy != "Cluster");
    for (set, field) in [
        (affinity, "sessionAffinity"),
        (local, "internalTrafficPolicy"),
        (spec.traffic_distribution.is_some(), "trafficDistribution"),
    ] {
        if set {
            checks.warn(
                format!("spec.{field}"),
                "has no effect on requests through the mesh",
            );
        }
    }
}
