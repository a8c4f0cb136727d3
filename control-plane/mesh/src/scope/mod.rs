//! What one proxy is, by the metadata of its node, and what it may see of the mesh.

mod interception;

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use outrigger_proto::{
    envoy::config::core::v3 as core,
    google::protobuf::{Struct, value::Kind},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::NamespacedName;
pub use interception::{
    INBOUND_PORT, Interception, MARK, Mode, OUTBOUND_PORT, OutboundPolicy, TO_WORKLOAD,
};

/// The field of `node.metadata` that all of this is in.
pub const METADATA_KEY: &str = "outrigger";

/// What the control plane knows about a proxy before it serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `node.id`, unique in the mesh.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// Its metadata.
    pub metadata: NodeMetadata,
}

/// `node.metadata.outrigger`. Unknown fields are errors, as everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeMetadata {
    /// Where its workload lives; `default` if empty.
    pub namespace: String,
    /// The workload's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// The service that the workload serves; names its spans.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// The workload's version, for display.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Where the workload sends its requests to: an HTTP listener that routes by host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<SocketAddr>,
    /// Where requests for the workload arrive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<Inbound>,
    /// Its connections are taken over by rules in its network namespace; then there is neither
    /// `outbound` nor `inbound`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interception: Option<Interception>,
    /// The pod's name, for display.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The service account that it runs as.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account: String,
    /// The pod's labels, for display.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Spans, if wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// A file that both listeners log requests to, such as `/dev/stdout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<String>,
    /// Which services it calls: `NAMESPACE/NAME`, `NAMESPACE/*`, `*/NAME`, `./NAME`, `./*`. Without
    /// the list, all of them; none if it has only `inbound`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
    /// Where its admin endpoint listens: `outrigger status` asks it for what it limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
}

/// One port of a workload behind its sidecar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Where the sidecar listens: what a service's endpoints point at.
    pub listen: SocketAddr,
    /// Where the workload listens.
    pub app: SocketAddr,
    /// What is spoken to the workload.
    #[serde(default)]
    pub protocol: InboundProtocol,
}

/// What is spoken to the workload.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum InboundProtocol {
    /// Whatever the caller speaks.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// Where spans go and how many.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// A cluster of the bootstrap that speaks OTLP over gRPC.
    pub cluster: String,
    /// Percent of requests traced at random, 0 to 100.
    #[serde(default = "all")]
    pub sampling: u8,
}

const fn all() -> u8 {
    100
}

/// A node that cannot be served, with the path of what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct NodeError {
    /// Within the node.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl Node {
    /// Reads the node of a first request. A node without our metadata is a proxy that only wants
    /// clusters and routes by name, seen from the namespace `default`.
    ///
    /// # Errors
    /// When the metadata does not fit.
    pub fn from_proto(node: &core::Node) -> Result<Self, NodeError> {
        let metadata = node
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.fields.get(METADATA_KEY))
            .map_or_else(|| Value::Object(serde_json::Map::new()), to_json);
        let prefix = |path: &str| match path {
            "." => format!("node.metadata.{METADATA_KEY}"),
            path => format!("node.metadata.{METADATA_KEY}.{path}"),
        };
        let mut metadata: NodeMetadata =
            serde_path_to_error::deserialize(metadata).map_err(|error| NodeError {
                path: prefix(&error.path().to_string()),
                message: error.inner().to_string(),
            })?;
        if metadata.namespace.is_empty() {
            metadata.namespace = "default".to_owned();
        }
        if let Some(tracing) = metadata
            .tracing
            .as_ref()
            .filter(|tracing| tracing.sampling > 100)
        {
            return Err(NodeError {
                path: prefix("tracing.sampling"),
                message: format!("{} is not in 0..100", tracing.sampling),
            });
        }
        if metadata.interception.is_some() {
            let listed = [
                ("outbound", metadata.outbound.is_some()),
                ("inbound", !metadata.inbound.is_empty()),
            ];
            if let Some((field, _)) = listed.iter().find(|(_, is_set)| *is_set) {
                return Err(NodeError {
                    path: prefix(field),
                    message: "cannot be set with interception, which takes every connection"
                        .to_owned(),
                });
            }
        }
        let node = Self {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            metadata,
        };
        Egress::read(&node.metadata).map_err(|(index, message)| NodeError {
            path: prefix(&format!("egress[{index}]")),
            message,
        })?;
        Ok(node)
    }

    /// What it sees of the mesh. Nodes with equal scopes share clusters, endpoints and routes.
    pub fn scope(&self) -> Scope {
        let NodeMetadata {
            outbound,
            inbound,
            interception,
            egress,
            ..
        } = &self.metadata;
        let only_serves = outbound.is_none() && egress.is_none() && !inbound.is_empty();
        Scope {
            intercepted: interception.is_some(),
            namespace: self.metadata.namespace.as_str().into(),
            egress: if only_serves {
                // Nobody's addresses are of use to it.
                Egress(Some(Vec::new()))
            } else {
                // Checked when the node was read.
                Egress::read(&self.metadata).unwrap_or_default()
            },
        }
    }
}

/// What a proxy sees of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Where it looks from: short names are of this namespace, and consumer routes too.
    pub namespace: Arc<str>,
    /// Whether connections are taken over: then the address that is called tells the service, for
    /// any protocol.
    pub intercepted: bool,
    egress: Egress,
}

impl Scope {
    /// Everything, from `namespace`.
    pub fn all(namespace: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            intercepted: false,
            egress: Egress(None),
        }
    }

    /// Whether that service is in it.
    pub fn sees(&self, service: &NamespacedName) -> bool {
        self.egress.0.as_ref().is_none_or(|patterns| {
            patterns.iter().any(|(namespace, name)| {
                namespace
                    .as_ref()
                    .is_none_or(|namespace| *namespace == service.namespace)
                    && name.as_ref().is_none_or(|name| *name == service.name)
            })
        })
    }
}

/// A namespace and a name; `None` is any.
type Pattern = (Option<Arc<str>>, Option<Arc<str>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Egress(Option<Vec<Pattern>>);

impl Egress {
    fn read(metadata: &NodeMetadata) -> Result<Self, (usize, String)> {
        let Some(list) = &metadata.egress else {
            return Ok(Self(None));
        };
        let part = |text: &str| (text != "*").then(|| Arc::from(text));
        let mut patterns = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            let pattern = match text.split_once('/') {
                Some((".", name)) if !name.is_empty() => {
                    (Some(Arc::from(metadata.namespace.as_str())), part(name))
                }
                Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                    (part(namespace), part(name))
                }
                _ => return Err((index, format!("'{text}' is not NAMESPACE/NAME"))),
            };
            patterns.push(pattern);
        }
        patterns.sort();
        Ok(Self(Some(patterns)))
    }
}

fn to_json(value: &outrigger_proto::google::protobuf::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        // Whole numbers must deserialise as such.
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the fraction is checked to be zero"
        )]
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => {
            Value::from(*number as i64)
        }
        Some(Kind::NumberValue(number)) => Value::from(*number),
        Some(Kind::StringValue(text)) => Value::from(text.as_str()),
        Some(Kind::BoolValue(flag)) => Value::from(*flag),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
    }
}

fn object(fields: &Struct) -> Value {
    Value::Object(
        fields
            .fields
            .iter()
            .map(|(key, value)| (key.clone(), to_json(value)))
            .collect(),
    )
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.namespace)
    }
}
