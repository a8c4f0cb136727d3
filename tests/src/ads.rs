//! A fake xDS server: aggregated discovery in both forms, serving exactly what a test sets, and
//! recording every request. It applies no sense of its own, so it can push what no real control
//! plane would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Response, Status, Streaming};

use crate::resources::{self, Any};
use crate::wait;

/// A running server; dropping it ends it and its streams.
#[derive(Debug)]
pub struct AdsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// One request of a client, of either form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The resource type asked for.
    pub type_url: String,
    /// The nonce it answers; empty on the first of a type.
    pub nonce: String,
    /// Why the answered response was rejected, if it was.
    pub error: Option<String>,
    /// Names asked for (delta: newly asked for).
    pub names: Vec<String>,
    /// Delta only: what the client already has, by name.
    pub initial_versions: BTreeMap<String, String>,
    /// The node id, when the client sent one.
    pub node: Option<String>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    types: BTreeMap<String, TypeState>,
    requests: Vec<Request>,
}

#[derive(Debug, Default)]
struct TypeState {
    version: u64,
    resources: BTreeMap<String, Any>,
    removed: BTreeSet<String>,
}

impl AdsServer {
    /// Starts one on a free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let service = AggregatedDiscoveryServiceServer::new(Service(Arc::clone(&shared)));
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        // Fails only with its listener, which lives as long as the task.
        let task = tokio::spawn(async { _ = serving.await });
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces all resources of a type (short name) and sends them to whoever asked for it.
    /// Gives the nonce of the responses that carry them.
    pub fn set(&self, type_name: &str, resources: Vec<(String, Any)>) -> String {
        let type_url = resources::type_url(type_name);
        let mut state = self.shared.lock();
        let entry = state.types.entry(type_url.clone()).or_default();
        let old: BTreeSet<String> = entry.resources.keys().cloned().collect();
        entry.version += 1;
        entry.resources = resources.into_iter().collect();
        entry.removed = old
            .into_iter()
            .filter(|name| !entry.resources.contains_key(name))
            .collect();
        let nonce = nonce(&type_url, entry.version);
        drop(state);
        self.shared.changed.send_modify(|count| *count += 1);
        nonce
    }

    /// Everything that clients asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Waits for the answer to a nonce: `None` when it was accepted, else the reason.
    pub async fn answer(&self, nonce: &str) -> Result<Option<String>> {
        wait::until(
            "the answer to a response",
            Duration::from_secs(10),
            async || {
                let requests = self.requests();
                let answer = requests.iter().rev().find(|request| request.nonce == nonce);
                Ok(answer
                    .with_context(|| format!("{nonce} in {requests:#?}"))?
                    .error
                    .clone())
            },
        )
        .await
    }

    /// Waits until a type (short name) was asked for.
    pub async fn asked(&self, type_name: &str) -> Result<Request> {
        let type_url = resources::type_url(type_name);
        wait::until(type_name, Duration::from_secs(10), async || {
            let requests = self.requests();
            let found = requests
                .into_iter()
                .find(|request| request.type_url == type_url);
            found.context("not asked for")
        })
        .await
    }
}

impl Drop for AdsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nonce(type_url: &str, version: u64) -> String {
    format!(
        "{}-{version}",
        type_url.rsplit('.').next().unwrap_or(type_url)
    )
}

/// What one stream wants of one type.
#[derive(Default)]
struct Subscription {
    names: BTreeSet<String>,
    wildcard: bool,
    sent: u64,
}

impl Subscription {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

struct Service(Arc<Shared>);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Replies<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Replies<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let incoming = request
            .into_inner()
            .map(|message| message.map(Incoming::from));
        Ok(Response::new(serve(
            Arc::clone(&self.0),
            incoming,
            whole_state,
        )))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let incoming = request
            .into_inner()
            .map(|message| message.map(Incoming::from));
        Ok(Response::new(serve(Arc::clone(&self.0), incoming, delta)))
    }
}

/// A request of either form.
struct Incoming {
    request: Request,
    unsubscribe: Vec<String>,
    delta: bool,
}

impl From<DiscoveryRequest> for Incoming {
    fn from(message: DiscoveryRequest) -> Self {
        let request = Request {
            type_url: message.type_url,
            nonce: message.response_nonce,
            error: message.error_detail.map(|error| error.message),
            names: message.resource_names,
            initial_versions: BTreeMap::new(),
            node: message.node.map(|node| node.id),
        };
        Self {
            request,
            unsubscribe: Vec::new(),
            delta: false,
        }
    }
}

impl From<DeltaDiscoveryRequest> for Incoming {
    fn from(message: DeltaDiscoveryRequest) -> Self {
        let request = Request {
            type_url: message.type_url,
            nonce: message.response_nonce,
            error: message.error_detail.map(|error| error.message),
            names: message.resource_names_subscribe,
            initial_versions: message.initial_resource_versions.into_iter().collect(),
            node: message.node.map(|node| node.id),
        };
        Self {
            request,
            unsubscribe: message.resource_names_unsubscribe,
            delta: true,
        }
    }
}

/// Makes one response: type, its state, who asks, and whether all of it is due.
type Respond<T> = fn(&str, &TypeState, &Subscription, &[String]) -> T;

fn serve<T: Send + 'static>(
    shared: Arc<Shared>,
    mut incoming: impl Stream<Item = Result<Incoming, Status>> + Send + Unpin + 'static,
    respond: Respond<T>,
) -> Replies<T> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut subscriptions: BTreeMap<String, Subscription> = BTreeMap::new();
        let mut changed = shared.changed.subscribe();
        loop {
            let due: Vec<T> = tokio::select! {
                message = incoming.next() => {
                    let Some(Ok(message)) = message else { return };
                    receive(&shared, &mut subscriptions, &message, respond).into_iter().collect()
                }
                change = changed.changed() => {
                    if change.is_err() { return }
                    pushes(&shared, &mut subscriptions, respond)
                }
            };
            for reply in due {
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Takes in a request; gives the response that it calls for now.
fn receive<T>(
    shared: &Shared,
    subscriptions: &mut BTreeMap<String, Subscription>,
    message: &Incoming,
    respond: Respond<T>,
) -> Option<T> {
    let request = &message.request;
    let mut state = shared.lock();
    state.requests.push(request.clone());
    let first = !subscriptions.contains_key(&request.type_url);
    let subscription = subscriptions.entry(request.type_url.clone()).or_default();
    let asked: BTreeSet<String> = request.names.iter().cloned().collect();
    let new: Vec<String> = asked.difference(&subscription.names).cloned().collect();
    if message.delta {
        subscription.names.extend(asked);
        subscription
            .names
            .retain(|name| !message.unsubscribe.contains(name));
    } else {
        subscription.names = asked;
    }
    if first {
        subscription.wildcard = request.names.is_empty();
    }
    subscription.wildcard |= request.names.iter().any(|name| name == "*");
    if !first && new.is_empty() {
        return None;
    }
    let entry = state.types.get(&request.type_url)?;
    subscription.sent = entry.version;
    Some(respond(&request.type_url, entry, subscription, &new))
}

fn pushes<T>(
    shared: &Shared,
    subscriptions: &mut BTreeMap<String, Subscription>,
    respond: Respond<T>,
) -> Vec<T> {
    let state = shared.lock();
    let mut due = Vec::new();
    for (type_url, subscription) in subscriptions {
        if let Some(entry) = state.types.get(type_url)
            && entry.version > subscription.sent
        {
            subscription.sent = entry.version;
            due.push(respond(type_url, entry, subscription, &[]));
        }
    }
    due
}

fn whole_state(
    type_url: &str,
    entry: &TypeState,
    subscription: &Subscription,
    _new: &[String],
) -> DiscoveryResponse {
    let wanted = entry
        .resources
        .iter()
        .filter(|(name, _)| subscription.wants(name));
    DiscoveryResponse {
        version_info: entry.version.to_string(),
        resources: wanted.map(|(_, resource)| resource.clone()).collect(),
        type_url: type_url.to_owned(),
        nonce: nonce(type_url, entry.version),
        ..DiscoveryResponse::default()
    }
}

fn delta(
    type_url: &str,
    entry: &TypeState,
    subscription: &Subscription,
    new: &[String],
) -> DeltaDiscoveryResponse {
    let wanted = entry
        .resources
        .iter()
        .filter(|(name, _)| subscription.wants(name));
    let missing = new
        .iter()
        .filter(|name| *name != "*" && !entry.resources.contains_key(*name));
    let removed = entry.removed.iter().filter(|name| subscription.wants(name));
    DeltaDiscoveryResponse {
        system_version_info: entry.version.to_string(),
        resources: wanted
            .map(|(name, resource)| Resource {
                name: name.clone(),
                version: entry.version.to_string(),
                resource: Some(resource.clone()),
                ..Resource::default()
            })
            .collect(),
        type_url: type_url.to_owned(),
        removed_resources: removed.chain(missing).cloned().collect(),
        nonce: nonce(type_url, entry.version),
        ..DeltaDiscoveryResponse::default()
    }
}
