//! Where a cluster's hosts come from: its `type` and the fields that belong to it.

use std::{sync::Arc, time::Duration};

use outrigger_proto::envoy::config::{
    cluster::v3::cluster::{
        ClusterDiscoveryType, DiscoveryType, DnsLookupFamily as FamilyProto, EdsClusterConfig,
        OriginalDstLbConfig,
    },
    endpoint::v3::ClusterLoadAssignment,
};

use super::{endpoint, source};
use crate::{
    config::cluster::{
        Discovery, Dns, DnsLookupFamily, EndpointAddress, LoadAssignment, OriginalDst,
    },
    convert::Cx,
    unsupported,
};

const DESTINATION_HEADER: &str = "x-envoy-original-dst-host";

pub(super) struct DnsFields {
    pub(super) refresh_rate: Duration,
    pub(super) respect_ttl: bool,
    pub(super) family: DnsLookupFamily,
}

pub(super) fn lookup_family(cx: &Cx<'_>, family: i32) -> Option<DnsLookupFamily> {
    Some(match cx.enumeration("dns_lookup_family", family)? {
        FamilyProto::Auto => DnsLookupFamily::Auto,
        FamilyProto::V4Only => DnsLookupFamily::V4Only,
        FamilyProto::V6Only => DnsLookupFamily::V6Only,
        FamilyProto::V4Preferred => DnsLookupFamily::V4Preferred,
        FamilyProto::All => DnsLookupFamily::All,
    })
}

pub(super) fn discovery(
    cx: &Cx<'_>,
    name: &Arc<str>,
    kind: Option<ClusterDiscoveryType>,
    assignment: Option<ClusterLoadAssignment>,
    eds: Option<EdsClusterConfig>,
    dns: DnsFields,
    destination: DestinationFields,
) -> Option<Discovery> {
    let kind = match kind {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => cx.enumeration("type", kind)?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            cx.field("cluster_type")
                .error(format!("`{}` is not supported", custom.name));
            return None;
        }
    };
    let at = cx.field("load_assignment");
    if kind != DiscoveryType::OriginalDst && destination.is_provided {
        cx.field("lb_policy").error(format!(
            "cluster provided LB specified but cluster '{name}' did not provide one"
        ));
    }
    if kind != DiscoveryType::OriginalDst && destination.config.is_some() {
        cx.field("original_dst_lb_config")
            .error("not supported: only clusters of type ORIGINAL_DST read it");
    }
    match kind {
        DiscoveryType::OriginalDst => {
            refuse_eds(cx, eds.as_ref());
            if assignment.is_some() {
                at.error("must not be set for an ORIGINAL_DST cluster");
            }
            original_dst(cx, destination)
        }
        DiscoveryType::Static => {
            refuse_eds(cx, eds.as_ref());
            let assignment = static_assignment(&at, assignment)?;
            check_numeric(&at, &assignment);
            Some(Discovery::Static(assignment))
        }
        DiscoveryType::StrictDns => {
            refuse_eds(cx, eds.as_ref());
            Some(Discovery::StrictDns(Dns {
                assignment: static_assignment(&at, assignment)?,
                refresh_rate: dns.refresh_rate,
                respect_ttl: dns.respect_ttl,
                family: dns.family,
            }))
        }
        DiscoveryType::Eds => {
            if assignment.is_some() {
                // Envoy leaves it aside; whoever wrote it expects its hosts to be used.
                at.error("must not be set for an EDS cluster");
            }
            let Some(eds) = eds else {
                cx.field("eds_cluster_config")
                    .error("value is required for an EDS cluster");
                return None;
            };
            let cx = cx.field("eds_cluster_config");
            cx.converts::<EdsClusterConfig>();
            let EdsClusterConfig {
                eds_config,
                service_name,
            } = eds;
            let source = cx.required("eds_config", eds_config)?;
            Some(Discovery::Eds {
                service_name: if service_name.is_empty() {
                    name.clone()
                } else {
                    Arc::from(service_name)
                },
                source: source::config_source(&cx.field("eds_config"), source)?,
            })
        }
        DiscoveryType::LogicalDns => {
            cx.field("type").error(format!(
                "{} is not supported; use STATIC, STRICT_DNS, EDS or ORIGINAL_DST",
                kind.as_str_name()
            ));
            None
        }
    }
}

pub(super) struct DestinationFields {
    pub(super) cleanup_interval: Duration,
    pub(super) config: Option<OriginalDstLbConfig>,
    pub(super) is_provided: bool,
}

fn original_dst(cx: &Cx<'_>, fields: DestinationFields) -> Option<Discovery> {
    if !fields.is_provided {
        cx.field("lb_policy").error(
            "LB policy is not valid for Cluster type ORIGINAL_DST. Only 'CLUSTER_PROVIDED' is allowed with cluster type 'ORIGINAL_DST'",
        );
    }
    let cleanup_interval = fields.cleanup_interval;
    if cleanup_interval.is_zero() {
        cx.field("cleanup_interval")
            .error("value must be greater than 0s");
    }
    let cx = cx.field("original_dst_lb_config");
    cx.converts::<OriginalDstLbConfig>();
    let OriginalDstLbConfig {
        use_http_header,
        http_header_name,
        upstream_port_override,
        metadata_key,
    } = fields.config.unwrap_or_default();
    unsupported!(cx, OriginalDstLbConfig, [metadata_key]);
    let name = match http_header_name.as_str() {
        "" => DESTINATION_HEADER,
        name => name,
    };
    let http_header = cx.field("http_header_name").header_name(name)?;
    let port = upstream_port_override.map(|wrapper| wrapper.value);
    Some(Discovery::OriginalDst(OriginalDst {
        http_header: use_http_header.then_some(http_header),
        port: port.and_then(|port| u16::try_from(port).ok()),
        cleanup_interval,
    }))
}

fn refuse_eds(cx: &Cx<'_>, eds: Option<&EdsClusterConfig>) {
    if eds.is_some() {
        cx.field("eds_cluster_config")
            .error("eds_cluster_config set in a non-EDS cluster");
    }
}

/// Envoy allows a STATIC or STRICT_DNS cluster without load assignment: it has no hosts.
fn static_assignment(
    cx: &Cx<'_>,
    assignment: Option<ClusterLoadAssignment>,
) -> Option<LoadAssignment> {
    match assignment {
        Some(assignment) => endpoint::load_assignment(cx, assignment),
        None => Some(LoadAssignment {
            overprovisioning_factor: 140,
            ..LoadAssignment::default()
        }),
    }
}

/// Only STRICT_DNS resolves names.
pub fn check_numeric(cx: &Cx<'_>, assignment: &LoadAssignment) {
    let localities = cx.field("endpoints");
    for (index, locality) in assignment.localities.iter().enumerate() {
        let at = localities.index(index);
        let endpoints = at.field("lb_endpoints");
        for (place, endpoint) in locality.endpoints.iter().enumerate() {
            if let EndpointAddress::Name { host, .. } = &endpoint.address {
                endpoints
                    .index(place)
                    .field("endpoint.address.socket_address.address")
                    .error(format!(
                        "malformed IP address: {host}. Consider setting the cluster's type to STRICT_DNS"
                    ));
            }
        }
    }
}
