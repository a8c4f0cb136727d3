//! The file that a sidecar starts with: who it is and where its control plane is. Everything else
//! comes over xDS. It is the same for our proxy and for Envoy.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::scope::{METADATA_KEY, NodeMetadata};

/// The cluster of the bootstrap that leads to the control plane's xDS.
pub const XDS_CLUSTER: &str = "outrigger-xds";
/// The cluster of the bootstrap that leads to the control plane's OTLP receiver. A node's
/// `tracing.cluster` names it.
pub const OTLP_CLUSTER: &str = "outrigger-otlp";

/// What a sidecar's bootstrap is made of.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// `node.id`, unique in the mesh.
    pub id: String,
    /// `node.cluster`, by habit the service's name.
    pub cluster: String,
    /// What the control plane is to know.
    pub metadata: NodeMetadata,
    /// Where the admin interface listens; port 0 is chosen by the system.
    pub admin: SocketAddr,
    /// The control plane's xDS port.
    pub xds: SocketAddr,
    /// The control plane's OTLP port, if spans are sent there.
    pub otlp: Option<SocketAddr>,
    /// `DELTA_GRPC` instead of `GRPC`.
    pub delta: bool,
}

impl Sidecar {
    /// As YAML text.
    pub fn to_yaml(&self) -> String {
        serde_norway::to_string(&self.to_value()).expect("JSON values are YAML")
    }

    /// As JSON, in Envoy's proto3 mapping.
    pub fn to_value(&self) -> Value {
        let ads = json!({"ads": {}, "resource_api_version": "V3"});
        let mut clusters = vec![grpc_cluster(XDS_CLUSTER, self.xds)];
        clusters.extend(self.otlp.map(|otlp| grpc_cluster(OTLP_CLUSTER, otlp)));
        // A port that the system chooses is not known before the start.
        let mut metadata = self.metadata.clone();
        if metadata.admin.is_none() && self.admin.port() != 0 {
            metadata.admin = Some(self.admin);
        }
        json!({
            "node": {
                "id": self.id,
                "cluster": self.cluster,
                "metadata": { METADATA_KEY: metadata },
            },
            "admin": { "address": address(self.admin) },
            "dynamic_resources": {
                "ads_config": {
                    "api_type": if self.delta { "DELTA_GRPC" } else { "GRPC" },
                    "transport_api_version": "V3",
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": XDS_CLUSTER } }],
                    // The node is the same in every request of a stream.
                    "set_node_on_first_message_only": true,
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": { "clusters": clusters },
        })
    }
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

fn grpc_cluster(name: &str, to: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                // Pings find a control plane that went away without closing its connection.
                "explicit_http_config": { "http2_protocol_options": {
                    "connection_keepalive": { "interval": "30s", "timeout": "5s" },
                } },
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(to) } }] }],
        },
    })
}
