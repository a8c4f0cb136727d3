//! `Cluster`s, named as Istio names them.

use std::time::Duration;

use outrigger_proto::{
    envoy::{
        config::{cluster::v3 as api, core::v3 as core},
        extensions::upstreams::http::v3::{HttpProtocolOptions, http_protocol_options as options},
    },
    google::protobuf::Any,
};

use super::{endpoint, wire};
use crate::{
    model::AppProtocol,
    resolve::ServiceAddress,
    scope::{Inbound, InboundProtocol},
};

/// Envoy's own name of the extension.
const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Within one data centre a connection that takes longer is better tried elsewhere.
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
pub(super) fn outbound(name: &str, protocol: &AppProtocol) -> api::Cluster {
    use options::explicit_http_config::ProtocolConfig;
    use options::{ExplicitHttpConfig, UpstreamProtocolOptions::ExplicitHttpConfig as Explicit};
    let http2 = *protocol == AppProtocol::Http2;
    let protocol = http2.then(|| {
        Explicit(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                core::Http2ProtocolOptions::default(),
            )),
        })
    });
    api::Cluster {
        eds_cluster_config: Some(api::cluster::EdsClusterConfig {
            eds_config: Some(wire::ads()),
            ..Default::default()
        }),
        cluster_discovery_type: discovery(api::cluster::DiscoveryType::Eds),
        lb_policy: api::cluster::LbPolicy::LeastRequest.into(),
        ..cluster(name, protocol)
    }
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
        ..cluster(&name, protocol)
    }
}

fn cluster(name: &str, protocol: Option<options::UpstreamProtocolOptions>) -> api::Cluster {
    let typed = protocol.map(|protocol| {
        let options = HttpProtocolOptions {
            upstream_protocol_options: Some(protocol),
            ..Default::default()
        };
        (HTTP_PROTOCOL_OPTIONS.to_owned(), wire::any(&options))
    });
    api::Cluster {
        name: name.to_owned(),
        connect_timeout: Some(wire::duration(CONNECT_TIMEOUT)),
        typed_extension_protocol_options: typed.into_iter().collect::<Options>(),
        ..Default::default()
    }
}

type Options = std::collections::HashMap<String, Any>;

fn discovery(kind: api::cluster::DiscoveryType) -> Option<api::cluster::ClusterDiscoveryType> {
    Some(api::cluster::ClusterDiscoveryType::Type(kind.into()))
}
