//! `ClusterLoadAssignment`.

use std::sync::Arc;

use outrigger_proto::{
    envoy::config::{
        core::v3::{HealthStatus as HealthProto, Locality as LocalityProto, Metadata},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint as EndpointProto, LbEndpoint, LocalityLbEndpoints,
            cluster_load_assignment::Policy, lb_endpoint::HostIdentifier,
        },
    },
    google::protobuf::value::Kind,
};

use super::health_check;
use crate::{
    config::cluster::{
        Endpoint, EndpointAddress, HealthCheckTarget, HealthStatus, LoadAssignment, Locality,
        LocalityEndpoints,
    },
    convert::{Cx, HostPort, u32_or},
    no_effect, unsupported,
};

/// Envoy's default of `overprovisioning_factor`, percent.
const OVERPROVISIONING: u32 = 140;
/// Envoy's limit of priorities.
const MAX_PRIORITY: u32 = 128;

/// A whole load assignment; names are kept as names.
pub fn load_assignment(cx: &Cx<'_>, assignment: ClusterLoadAssignment) -> Option<LoadAssignment> {
    cx.converts::<ClusterLoadAssignment>();
    let ClusterLoadAssignment {
        cluster_name,
        endpoints,
        named_endpoints,
        policy,
    } = assignment;
    unsupported!(cx, ClusterLoadAssignment, [named_endpoints]);
    let cluster_name = cx.non_empty("cluster_name", &cluster_name);
    let factor = policy_factor(&cx.field("policy"), policy);
    let list = cx.field("endpoints");
    let localities = endpoints
        .into_iter()
        .enumerate()
        .filter_map(|(index, locality)| locality_endpoints(&list.index(index), locality))
        .collect::<Vec<_>>();
    Some(LoadAssignment {
        cluster_name,
        localities,
        overprovisioning_factor: factor,
    })
}

fn policy_factor(cx: &Cx<'_>, policy: Option<Policy>) -> u32 {
    cx.converts::<Policy>();
    let Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after,
        weighted_priority_health,
    } = policy.unwrap_or_default();
    unsupported!(
        cx,
        Policy,
        [
            drop_overloads,
            endpoint_stale_after,
            weighted_priority_health
        ]
    );
    let factor = u32_or(overprovisioning_factor, OVERPROVISIONING);
    if factor == 0 {
        cx.field("overprovisioning_factor")
            .error("value must be greater than 0");
    }
    factor
}

fn locality_endpoints(cx: &Cx<'_>, locality: LocalityLbEndpoints) -> Option<LocalityEndpoints> {
    cx.converts::<LocalityLbEndpoints>();
    let LocalityLbEndpoints {
        locality,
        metadata,
        lb_endpoints,
        load_balancing_weight,
        priority,
        proximity,
        lb_config,
    } = locality;
    unsupported!(cx, LocalityLbEndpoints, [lb_config]);
    no_effect!(
        cx,
        LocalityLbEndpoints,
        "nothing reads locality metadata yet",
        [metadata]
    );
    no_effect!(
        cx,
        LocalityLbEndpoints,
        "Envoy does not use it either",
        [proximity]
    );
    if priority > MAX_PRIORITY {
        cx.field("priority").error(format!(
            "value must be less than or equal to {MAX_PRIORITY}"
        ));
        return None;
    }
    let list = cx.field("lb_endpoints");
    let endpoints = lb_endpoints
        .into_iter()
        .enumerate()
        .filter_map(|(index, proto)| endpoint(&list.index(index), proto))
        .collect();
    Some(LocalityEndpoints {
        locality: locality.map_or_else(Locality::default, |proto| {
            cx.converts::<LocalityProto>();
            let LocalityProto {
                region,
                zone,
                sub_zone,
            } = proto;
            Locality {
                region: Arc::from(region),
                zone: Arc::from(zone),
                sub_zone: Arc::from(sub_zone),
            }
        }),
        priority,
        weight: load_balancing_weight.map(|wrapper| wrapper.value),
        endpoints,
    })
}

fn endpoint(cx: &Cx<'_>, proto: LbEndpoint) -> Option<Endpoint> {
    cx.converts::<LbEndpoint>();
    cx.refuses::<LbEndpoint>(&["endpoint_name"]);
    let LbEndpoint {
        health_status,
        metadata,
        load_balancing_weight,
        host_identifier,
    } = proto;
    cx.partly::<LbEndpoint>(
        "metadata",
        "`envoy.lb` `hash_key`; subsets and transport socket matches, which read more, are refused",
    );
    let health = match cx.enumeration("health_status", health_status)? {
        HealthProto::Unknown => HealthStatus::Unknown,
        HealthProto::Healthy => HealthStatus::Healthy,
        HealthProto::Unhealthy => HealthStatus::Unhealthy,
        HealthProto::Draining => HealthStatus::Draining,
        HealthProto::Timeout => HealthStatus::Timeout,
        HealthProto::Degraded => HealthStatus::Degraded,
    };
    let weight = u32_or(load_balancing_weight, 1);
    if weight == 0 {
        cx.field("load_balancing_weight")
            .error("value must be greater than or equal to 1");
    }
    let proto = match host_identifier {
        Some(HostIdentifier::Endpoint(proto)) => proto,
        Some(HostIdentifier::EndpointName(_)) => {
            cx.field("endpoint_name").error("not supported");
            return None;
        }
        None => {
            cx.field("endpoint").error("value is required");
            return None;
        }
    };
    let cx = cx.field("endpoint");
    cx.converts::<EndpointProto>();
    let EndpointProto {
        address,
        health_check_config,
        hostname,
        additional_addresses,
        observability_name,
    } = proto;
    unsupported!(cx, EndpointProto, [additional_addresses]);
    no_effect!(
        cx,
        EndpointProto,
        "names statistics only",
        [observability_name]
    );
    let address = cx.required("address", address)?;
    let (address, name) = match cx.field("address").address(address)? {
        HostPort::Socket(address) => (EndpointAddress::Socket(address), None),
        HostPort::Name(host, port) => (
            EndpointAddress::Name {
                host: host.clone(),
                port,
            },
            Some(host),
        ),
    };
    Some(Endpoint {
        address,
        // A resolved host is known by its name unless it says another.
        hostname: match (hostname.is_empty(), name) {
            (true, Some(name)) => name,
            _ => Arc::from(hostname),
        },
        weight,
        health,
        hash_key: metadata.as_ref().and_then(hash_key),
        health_check: health_check_config.map_or_else(HealthCheckTarget::default, |proto| {
            health_check::target(&cx.field("health_check_config"), proto)
        }),
    })
}

/// A value that is no text counts as none, as in Envoy.
fn hash_key(metadata: &Metadata) -> Option<Arc<str>> {
    let fields = &metadata.filter_metadata.get("envoy.lb")?.fields;
    match fields.get("hash_key")?.kind.as_ref()? {
        Kind::StringValue(key) if !key.is_empty() => Some(Arc::from(key.as_str())),
        _ => None,
    }
}
