//! `Cluster`s, named as Istio names them.

use std::time::Duration;

use outrigger_proto::{
    envoy::{
        config::{cluster::v3 as api, core::v3 as core},
        extensions::upstreams::http::v3::{HttpProtocolOptions, http_protocol_options as options},
    },
    google::protobuf::Any,
};

use super::{endpoint, traffic::HostsPolicy, wire};
use crate::{
    model::AppProtocol,
    resolve::ServiceAddress,
    scope::{Inbound, InboundProtocol},
};

/// Envoy's own name of the extension.
const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// To the proxy's own workload.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The domain that Kubernetes services are in.
pub(super) const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// `outbound|9080||reviews.shop.svc.cluster.local`.
pub(super) fn outbound_name(address: &ServiceAddress) -> String {
    let ServiceAddress { service, port } = address;
    format!(
        "outbound|{port}||{}.{}.{CLUSTER_DOMAIN}",
        service.name, service.namespace
    )
}

/// `inbound|8080||`.
pub(super) fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// A service as its callers see it. With `by_address` they choose the endpoint themselves, where its protocol
/// leaves them no other way.
pub(super) fn outbound(
    name: &str,
    protocol: &AppProtocol,
    policy: &HostsPolicy,
    by_address: bool,
) -> api::Cluster {
    use options::UpstreamProtocolOptions::ExplicitHttpConfig as Explicit;
    use options::explicit_http_config::ProtocolConfig;
    let explicit = |protocol| {
        Some(Explicit(options::ExplicitHttpConfig {
            protocol_config: Some(protocol),
        }))
    };
    let mut options = policy.http_options();
    match protocol {
        AppProtocol::Http2 => {
            options.upstream_protocol_options = explicit(ProtocolConfig::Http2ProtocolOptions(
                core::Http2ProtocolOptions::default(),
            ));
        }
        AppProtocol::Auto => options.upstream_protocol_options = Some(as_downstream()),
        AppProtocol::Http1 if options != HttpProtocolOptions::default() => {
            // One of them must be said as soon as there are options at all.
            options.upstream_protocol_options = explicit(ProtocolConfig::HttpProtocolOptions(
                core::Http1ProtocolOptions::default(),
            ));
        }
        AppProtocol::Http1 => {}
        AppProtocol::Other(_) => options = HttpProtocolOptions::default(),
    }
    let mut cluster = cluster(name, options);
    policy.apply(&mut cluster);
    if !matches!(protocol, AppProtocol::Http1 | AppProtocol::Http2) {
        // A connection is what others call a request: without a policy there is no limit to them.
        for thresholds in cluster
            .circuit_breakers
            .iter_mut()
            .flat_map(|breakers| &mut breakers.thresholds)
        {
            thresholds
                .max_connections
                .get_or_insert_with(|| wire::number(u32::MAX));
        }
    }
    if by_address && matches!(protocol, AppProtocol::Other(_)) {
        cluster.load_balancing_policy = None;
        to_original_destination(&mut cluster);
    } else {
        cluster.cluster_discovery_type = discovery(api::cluster::DiscoveryType::Eds);
        cluster.eds_cluster_config = Some(api::cluster::EdsClusterConfig {
            eds_config: Some(wire::ads()),
            ..Default::default()
        });
    }
    cluster
}

/// Wherever the client meant to go, without limits of the mesh.
pub(super) fn original_destination(name: &str) -> api::Cluster {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(as_downstream()),
        ..Default::default()
    };
    let unlimited = Some(wire::number(u32::MAX));
    let mut cluster = api::Cluster {
        connect_timeout: Some(wire::duration(CONNECT_TIMEOUT)),
        circuit_breakers: Some(api::CircuitBreakers {
            thresholds: vec![api::circuit_breakers::Thresholds {
                max_connections: unlimited,
                max_pending_requests: unlimited,
                max_requests: unlimited,
                max_retries: unlimited,
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..cluster(name, options)
    };
    to_original_destination(&mut cluster);
    cluster
}

/// Nowhere.
pub(super) fn black_hole(name: &str) -> api::Cluster {
    api::Cluster {
        cluster_discovery_type: discovery(api::cluster::DiscoveryType::Static),
        connect_timeout: Some(wire::duration(CONNECT_TIMEOUT)),
        ..cluster(name, HttpProtocolOptions::default())
    }
}

fn to_original_destination(cluster: &mut api::Cluster) {
    cluster.cluster_discovery_type = discovery(api::cluster::DiscoveryType::OriginalDst);
    cluster.lb_policy = api::cluster::LbPolicy::ClusterProvided.into();
}

fn as_downstream() -> options::UpstreamProtocolOptions {
    options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
        options::UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
            ..Default::default()
        },
    )
}

/// The proxy's own workload.
pub(super) fn inbound(inbound: &Inbound) -> api::Cluster {
    use options::explicit_http_config::ProtocolConfig;
    use options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    let protocol = match inbound.protocol {
        InboundProtocol::Http1 => None,
        InboundProtocol::Http2 => Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                    core::Http2ProtocolOptions::default(),
                )),
            },
        )),
        InboundProtocol::Auto => Some(as_downstream()),
    };
    let name = inbound_name(inbound.app.port());
    api::Cluster {
        cluster_discovery_type: discovery(api::cluster::DiscoveryType::Static),
        load_assignment: Some(endpoint::assignment(&name, &[inbound.app])),
        connect_timeout: Some(wire::duration(CONNECT_TIMEOUT)),
        ..cluster(
            &name,
            HttpProtocolOptions {
                upstream_protocol_options: protocol,
                ..Default::default()
            },
        )
    }
}

fn cluster(name: &str, options: HttpProtocolOptions) -> api::Cluster {
    let typed = (options != HttpProtocolOptions::default())
        .then(|| (HTTP_PROTOCOL_OPTIONS.to_owned(), wire::any(&options)));
    api::Cluster {
        name: name.to_owned(),
        typed_extension_protocol_options: typed.into_iter().collect::<Options>(),
        ..Default::default()
    }
}

type Options = std::collections::HashMap<String, Any>;

fn discovery(kind: api::cluster::DiscoveryType) -> Option<api::cluster::ClusterDiscoveryType> {
    Some(api::cluster::ClusterDiscoveryType::Type(kind.into()))
}
