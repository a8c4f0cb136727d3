//! What the API tells about serving: plain data, as JSON.

use std::{net::SocketAddr, time::SystemTime};

use outrigger_mesh::{
    model::{ObjectRef, policy::on_envoy},
    status::{Condition, ConditionStatus, ParentStatus},
};
use outrigger_proto::{any_to_value, google::protobuf::Any};
use outrigger_xds::{TypeUrl, server::TypeState};
use serde::Serialize;
use serde_json::Value;

use super::{
    Serving, State,
    history::Change,
    nodes::{Entry, News},
};

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    /// Streams opened.
    pub connections: u64,
    /// Responses that proxies took.
    pub acks: u64,
    /// Responses that proxies refused.
    pub nacks: u64,
}

impl Totals {
    pub(super) fn count(&mut self, news: &News) {
        self.acks += news.acks;
        self.nacks += u64::try_from(news.rejected.len()).unwrap_or(u64::MAX);
    }
}

/// A connected proxy.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyView {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// Of its workload.
    pub namespace: String,
    /// The workload, if it said.
    pub workload: String,
    /// The service, if it said.
    pub service: String,
    /// The pod, if it said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The service account that it runs as, if it said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account: String,
    /// Where it connects from.
    pub peer: Option<SocketAddr>,
    /// `sotw` or `delta`.
    pub form: String,
    /// What it runs: `envoy 1.40.0` and the like.
    pub agent: String,
    /// Where its admin endpoint listens, if it says so.
    pub admin: Option<SocketAddr>,
    /// Since when.
    pub connected_at: String,
    /// Whether it has everything of the model's present version.
    pub in_sync: bool,
    /// The last version of the model that it has completely.
    pub model_version: u64,
    /// Since when it has that.
    pub synced_at: Option<String>,
    /// Per type, in the order of sending.
    pub types: Vec<TypeView>,
}

/// Where a proxy stands with one type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeView {
    /// `CDS`, `EDS`, `LDS`, `RDS`, or the type's URL.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the last response.
    pub version_sent: Option<String>,
    /// When that was.
    pub sent_at: Option<String>,
    /// Of the last response that it took.
    pub version_acked: Option<String>,
    /// When it said so.
    pub acked_at: Option<String>,
    /// How many resources it has.
    pub resources: usize,
    /// Whether that is all it is to have.
    pub in_sync: bool,
    /// What it refuses at present.
    pub rejection: Option<RejectionView>,
}

/// A refused response.
#[derive(Clone, Debug, Serialize)]
pub struct RejectionView {
    /// The proxy's own words.
    pub message: String,
    /// The version that it refused.
    pub version: String,
    /// When.
    pub at: String,
}

/// An object with its conditions.
#[derive(Clone, Debug, Serialize)]
pub struct ObjectView {
    /// `HTTPRoute/shop/reviews`.
    pub object: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The file that it comes from.
    pub file: Option<String>,
    /// The version of the model that it last changed in.
    pub version: u64,
    /// Of the object as a whole.
    pub conditions: Vec<Condition>,
    /// Of a route, per parent.
    pub parents: Vec<ParentStatus>,
}

/// A change of the model.
#[derive(Clone, Debug, Serialize)]
pub struct ChangeView {
    /// The version that it made.
    pub version: u64,
    /// When the first sign of it came (the edit, as the kernel told of it).
    pub noticed_at: String,
    /// When it was given to the streams.
    pub published_at: String,
    /// What is new, different or gone.
    pub objects: Vec<ObjectRef>,
    /// How many proxies had to take something.
    pub proxies: usize,
    /// How many have.
    pub acked: usize,
    /// How many have not answered yet.
    pub pending: usize,
    /// How many went away before they answered.
    pub gone: usize,
    /// Who refuses, and why.
    pub rejected: Vec<ProxyRejection>,
    /// From the first sign to the last proxy's ACK; none while proxies are missing.
    pub ack_ms: Option<f64>,
    /// When the last proxy's ACK came.
    pub acked_at: Option<String>,
}

/// A proxy and why it refuses.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyRejection {
    /// `node.id`.
    pub proxy: String,
    /// The proxy's own words.
    pub message: String,
}

/// What one proxy is to have.
#[derive(Clone, Debug, Serialize)]
pub struct NodeConfig {
    /// `node.id`.
    pub id: String,
    /// The node as the control plane understands it.
    pub metadata: outrigger_mesh::scope::NodeMetadata,
    /// All resources, as proto3 JSON.
    pub resources: Vec<Value>,
}

impl Serving {
    /// The present version of the model.
    pub fn version(&self) -> u64 {
        self.lock().generation.model().version
    }

    /// Counters since the start.
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    /// Connected proxies, sorted by id.
    pub fn proxies(&self) -> Vec<ProxyView> {
        let mut proxies: Vec<_> = self.lock().nodes.values().map(ProxyView::of).collect();
        proxies.sort_by(|one, other| one.id.cmp(&other.id));
        proxies
    }

    /// How many proxies are connected, and how many of them are in sync.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (
            state.nodes.len(),
            state.nodes.values().filter(|entry| entry.in_sync).count(),
        )
    }

    /// Every object with its conditions.
    pub fn objects(&self) -> Vec<ObjectView> {
        let state = self.lock();
        let model = state.generation.model();
        model
            .statuses()
            .iter()
            .map(|(object, status)| {
                let version = state.objects.get(object).copied().unwrap_or_default();
                let on_envoy = model.objects().get(object).and_then(|o| on_envoy(o));
                let programmed = programmed(&state, version, status.is_accepted(), on_envoy);
                let mut conditions = status.conditions.clone();
                let mut parents = status.parents.clone();
                if parents.is_empty() {
                    conditions.push(programmed.clone());
                }
                for parent in &mut parents {
                    parent.conditions.push(programmed.clone());
                }
                ObjectView {
                    object: object.to_string(),
                    kind: object.kind.name(),
                    namespace: object.id.namespace.to_string(),
                    name: object.id.name.to_string(),
                    file: None,
                    version,
                    conditions,
                    parents,
                }
            })
            .collect()
    }

    /// Changes of the model, the latest first.
    pub fn changes(&self) -> Vec<ChangeView> {
        self.lock()
            .changes
            .iter()
            .rev()
            .map(ChangeView::of)
            .collect()
    }

    /// What the proxies with this id are to have.
    pub fn config(&self, id: &str) -> Option<NodeConfig> {
        let (metadata, target) = {
            let state = self.lock();
            let entry = state.nodes.values().find(|entry| entry.node.id == id)?;
            (entry.node.metadata.clone(), entry.target.clone())
        };
        let mut resources = Vec::new();
        for (type_url, of_type) in target.iter().flat_map(|target| target.types()) {
            for (_, resource) in of_type.iter() {
                let type_url = type_url.as_str().to_owned();
                resources.push(any_to_value(&Any {
                    type_url,
                    value: resource.body.to_vec(),
                }));
            }
        }
        Some(NodeConfig {
            id: id.to_owned(),
            metadata,
            resources,
        })
    }
}

/// Whether the proxies have taken an object that last changed in `version`.
fn programmed(
    state: &State,
    version: u64,
    accepted: bool,
    on_envoy: Option<&'static str>,
) -> Condition {
    let kind = Condition::PROGRAMMED;
    if !accepted {
        return Condition::unmet(kind, "NotAccepted", "not accepted, so not sent to proxies");
    }
    let total = state.nodes.len();
    if total == 0 {
        let message = "no proxy is connected".to_owned();
        return Condition {
            kind,
            status: ConditionStatus::Unknown,
            reason: "NoProxies",
            message,
        };
    }
    let have = |entry: &&Entry| entry.version >= version;
    let acked = state.nodes.values().filter(have).count();
    let rejections: Vec<_> = state
        .nodes
        .values()
        .filter(|entry| !have(entry))
        .filter_map(|entry| Some(format!("{}: {}", entry.node.id, entry.rejection()?)))
        .collect();
    let envoys = state
        .nodes
        .values()
        .filter(|entry| entry.info.node.user_agent_name == "envoy")
        .count();
    let counts = match on_envoy {
        Some(does) if envoys > 0 => {
            format!("{acked} of {total} proxies, {envoys} of them Envoy, {does}")
        }
        _ => format!("{acked} of {total} proxies"),
    };
    if acked == total {
        Condition::met(kind, "Programmed", counts)
    } else if rejections.is_empty() {
        Condition::unmet(kind, "Pending", counts)
    } else {
        Condition::unmet(
            kind,
            "Rejected",
            format!("{counts}; {}", rejections.join("; ")),
        )
    }
}

impl ProxyView {
    fn of(entry: &Entry) -> Self {
        let metadata = &entry.node.metadata;
        Self {
            id: entry.node.id.clone(),
            cluster: entry.node.cluster.clone(),
            namespace: metadata.namespace.clone(),
            workload: metadata.workload.clone(),
            service: metadata.service.clone(),
            pod: metadata.pod.clone(),
            service_account: metadata.service_account.clone(),
            peer: entry.info.peer,
            form: entry.info.form.to_string(),
            agent: agent(&entry.info.node),
            admin: metadata.admin,
            connected_at: timestamp(entry.info.connected_at),
            in_sync: entry.in_sync,
            model_version: entry.version,
            synced_at: entry.synced_at.map(timestamp),
            types: entry.types.iter().map(TypeView::of).collect(),
        }
    }
}

impl TypeView {
    fn of(state: &TypeState) -> Self {
        Self {
            kind: short_type(&state.type_url).to_owned(),
            version_sent: state.version_sent.clone(),
            sent_at: state.sent_at.map(timestamp),
            version_acked: state.version_acked.clone(),
            acked_at: state.acked_at.map(timestamp),
            resources: state.resources,
            in_sync: state.in_sync,
            rejection: state.nack.as_ref().map(|nack| RejectionView {
                message: nack.message.clone(),
                version: nack.version.clone(),
                at: timestamp(nack.at),
            }),
        }
    }
}

impl ChangeView {
    fn of(change: &Change) -> Self {
        let rejected = change
            .rejections
            .values()
            .map(|(proxy, message)| ProxyRejection {
                proxy: proxy.clone(),
                message: message.clone(),
            })
            .collect();
        Self {
            version: change.version,
            noticed_at: timestamp(change.noticed_at),
            published_at: timestamp(change.published_at),
            objects: change.objects.clone(),
            proxies: change.proxies,
            acked: change.acked,
            pending: change.pending(),
            gone: change.gone,
            rejected,
            ack_ms: change.done.map(|(took, _)| took.as_secs_f64() * 1000.0),
            acked_at: change.done.map(|(_, at)| timestamp(at)),
        }
    }
}

/// `CDS` and so on; other types by their URL.
pub fn short_type(type_url: &TypeUrl) -> &str {
    match type_url {
        TypeUrl::Cluster => "CDS",
        TypeUrl::Endpoint => "EDS",
        TypeUrl::Secret => "SDS",
        TypeUrl::Listener => "LDS",
        TypeUrl::Route => "RDS",
        other @ TypeUrl::Other(_) => other.as_str(),
    }
}

fn agent(node: &outrigger_xds::Node) -> String {
    use outrigger_proto::envoy::config::core::v3::node::UserAgentVersionType as Version;
    let version = match &node.user_agent_version_type {
        Some(Version::UserAgentVersion(version)) => version.clone(),
        Some(Version::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
            .unwrap_or_default(),
        None => String::new(),
    };
    format!("{} {version}", node.user_agent_name)
        .trim()
        .to_owned()
}

/// RFC 3339, to the microsecond.
fn timestamp(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map(|at| format!("{at:.6}"))
        .unwrap_or_default()
}
