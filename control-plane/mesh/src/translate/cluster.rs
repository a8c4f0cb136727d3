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
pub(super) fn inbound_name(inbound: &Inbound) -> String {
    format!("inbound|{}||", inbound.app.port())
}

/// A service as its callers see it.
pub(super) fn outbound(name: &str, protocol: &AppProtocol, policy: &HostsPolicy) -> api::Cluster {
    use options::explicit_http_config::ProtocolConfig;
    use options::{ExplicitHttpConfig, UpstreamProtocolOptions::ExplicitHttpConfig as Explicit};
    let http2 = *protocol == AppProtocol::Http2;
    let explicit = |protocol| {
        Some(Explicit(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        }))
    };
    let mut options = policy.http_options();
    if http2 {
        options.upstream_protocol_options = explicit(ProtocolConfig::Http2ProtocolOptions(
            core::Http2ProtocolOptions::default(),
        ));
    } else if options != HttpProtocolOptions::default() {
        // One of them must be said as soon as there are options at all.
        options.upstream_protocol_options = explicit(ProtocolConfig::HttpProtocolOptions(
            core::Http1ProtocolOptions::default(),
        ));
    }
    let mut cluster = api::Cluster {
        eds_cluster_config: Some(api::cluster::EdsClusterConfig {
            eds_config: Some(wire::ads()),
            ..Default::default()
        }),
        cluster_discovery_type: discovery(api::cluster::DiscoveryType::Eds),
        ..cluster(name, options)
    };
    policy.apply(&mut cluster);
    cluster
}

/// The proxy's own workload.
pub(super) fn inbound(inbound: &Inbound) -> api::Cluster {
    use options::explicit_http_config::ProtocolConfig;
    use options::{ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig};
    let http2 = core::Http2ProtocolOptions::default;
    let protocol = match inbound.protocol {
        InboundProtocol::Http1 => None,
        InboundProtocol::Http2 => Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2())),
            },
        )),
        InboundProtocol::Auto => Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                http2_protocol_options: Some(http2()),
                ..Default::default()
            },
        )),
    };
    let name = inbound_name(inbound);
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
