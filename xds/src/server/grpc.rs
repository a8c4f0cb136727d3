//! The tonic service: each ADS stream of either form is a task around a [`Stream`].

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{Snapshot, Stream, TypeState};
use crate::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use crate::{Form, Node, Request, Response, discovery};

/// How often a stream with unanswered responses looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Requests larger than this are refused: names and versions only, even for huge meshes.
const MAX_REQUEST: usize = 64 << 20;

/// Names one stream, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One connected client.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// The stream.
    pub id: StreamId,
    /// Who it says it is.
    pub node: Node,
    /// Where it comes from, unless that is a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The form it speaks.
    pub form: Form,
    /// When its first request came.
    pub connected_at: SystemTime,
}

/// What a control plane must offer. Calls come from stream tasks and must not block.
pub trait Application: Send + Sync + 'static {
    /// A stream's first request came. Returns what it is served from: nothing is sent while the
    /// value is `None`, each new value is compared with what the client holds.
    ///
    /// # Errors
    /// The status with which to refuse the stream.
    fn connected(
        &self,
        stream: &StreamInfo,
    ) -> Result<watch::Receiver<Option<Arc<Snapshot>>>, tonic::Status>;

    /// The state of a stream changed: something was sent, ACKed, NACKed or subscribed to.
    /// `snapshot` is what it is being served from, so what `in_sync` is about.
    fn observed(&self, id: StreamId, snapshot: Option<&Arc<Snapshot>>, state: Vec<TypeState>);

    /// The stream ended; no more calls for it follow.
    fn disconnected(&self, id: StreamId, reason: &str);
}

/// The service. Clones share the application.
#[derive(Debug)]
pub struct Service<A> {
    application: Arc<A>,
    streams: Arc<AtomicU64>,
}

impl<A: Application> Service<A> {
    /// A service of that application.
    #[must_use]
    pub fn new(application: Arc<A>) -> Self {
        Self {
            application,
            streams: Arc::default(),
        }
    }

    /// For `tonic::transport::Server::add_service`.
    #[must_use]
    pub fn into_server(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(usize::MAX)
    }

    fn start<Q, P>(
        &self,
        form: Form,
        request: tonic::Request<tonic::Streaming<Q>>,
        wrap: fn(Q) -> Request,
        unwrap: fn(Response) -> Option<P>,
    ) -> tonic::Response<Responses<P>>
    where
        Q: Send + 'static,
        P: Send + 'static,
    {
        let peer = request.remote_addr();
        let requests = request
            .into_inner()
            .map(move |request| request.map(wrap))
            .boxed();
        // One response may wait in the channel: more would be built from a state that is old when
        // the client is slow to read.
        let (responses, receiver) = mpsc::channel(1);
        let task = Task {
            application: Arc::clone(&self.application),
            id: StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1),
            peer,
            form,
            stream: Stream::new(form),
            snapshots: None,
            responses,
            unwrap,
        };
        tokio::spawn(task.run(requests));
        tonic::Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

type Requests = Pin<Box<dyn futures_util::Stream<Item = Result<Request, tonic::Status>> + Send>>;
type Responses<P> = Pin<Box<dyn futures_util::Stream<Item = Result<P, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl<A: Application> AggregatedDiscoveryService for Service<A> {
    type StreamAggregatedResourcesStream = Responses<discovery::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<discovery::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<tonic::Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, tonic::Status> {
        Ok(self.start(
            Form::Sotw,
            request,
            Request::Sotw,
            |response| match response {
                Response::Sotw(response) => Some(response),
                Response::Delta(_) => None,
            },
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<tonic::Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, tonic::Status> {
        Ok(self.start(
            Form::Delta,
            request,
            Request::Delta,
            |response| match response {
                Response::Delta(response) => Some(response),
                Response::Sotw(_) => None,
            },
        ))
    }
}

/// One stream's life.
struct Task<A, P> {
    application: Arc<A>,
    id: StreamId,
    peer: Option<SocketAddr>,
    form: Form,
    stream: Stream,
    snapshots: Option<watch::Receiver<Option<Arc<Snapshot>>>>,
    responses: mpsc::Sender<Result<P, tonic::Status>>,
    unwrap: fn(Response) -> Option<P>,
}

impl<A: Application, P: Send + 'static> Task<A, P> {
    async fn run(mut self, mut requests: Requests) {
        let end = self.serve(&mut requests).await;
        let reason = match &end {
            Ok(()) => "the client closed the stream".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        if self.snapshots.is_some() {
            self.application.disconnected(self.id, &reason);
        }
        tracing::debug!(id = self.id.0, "xDS stream ended: {reason}");
        if let Err(status) = end {
            // The client may be gone already.
            drop(self.responses.send(Err(status)).await);
        }
    }

    async fn serve(&mut self, requests: &mut Requests) -> Result<(), tonic::Status> {
        loop {
            let mut is_news = true;
            tokio::select! {
                request = requests.next() => {
                    let Some(request) = request else {
                        return Ok(());
                    };
                    let request = request?;
                    self.stream
                        .on_request(request, SystemTime::now())
                        .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
                    self.connect()?;
                }
                changed = changed(self.snapshots.as_mut()) => {
                    if changed.is_err() {
                        return Err(tonic::Status::unavailable("the control plane is stopping"));
                    }
                    self.take_snapshot();
                }
                () = tokio::time::sleep(LOOK_AGAIN), if self.stream.is_waiting() => {
                    is_news = false;
                }
                () = self.responses.closed() => return Ok(()),
            }
            self.respond(is_news).await?;
        }
    }

    /// Tells the application of the stream, once its node is known.
    fn connect(&mut self) -> Result<(), tonic::Status> {
        let (None, Some(node)) = (&self.snapshots, self.stream.node()) else {
            return Ok(());
        };
        let info = StreamInfo {
            id: self.id,
            node: node.clone(),
            peer: self.peer,
            form: self.form,
            connected_at: SystemTime::now(),
        };
        self.snapshots = Some(self.application.connected(&info)?);
        self.take_snapshot();
        Ok(())
    }

    fn take_snapshot(&mut self) {
        let Some(snapshots) = &mut self.snapshots else {
            return;
        };
        if let Some(snapshot) = snapshots.borrow_and_update().clone() {
            self.stream.set_snapshot(snapshot);
        }
    }

    async fn respond(&mut self, mut is_news: bool) -> Result<(), tonic::Status> {
        while let Some(response) = self.stream.poll_response(SystemTime::now()) {
            is_news = true;
            if let Some(response) = (self.unwrap)(response)
                && self.responses.send(Ok(response)).await.is_err()
            {
                return Err(tonic::Status::cancelled("the client closed the stream"));
            }
        }
        if is_news && self.snapshots.is_some() {
            let snapshot = self.stream.snapshot();
            self.application
                .observed(self.id, snapshot, self.stream.state());
        }
        Ok(())
    }
}

async fn changed(
    snapshots: Option<&mut watch::Receiver<Option<Arc<Snapshot>>>>,
) -> Result<(), watch::error::RecvError> {
    match snapshots {
        Some(snapshots) => snapshots.changed().await,
        None => std::future::pending().await,
    }
}
