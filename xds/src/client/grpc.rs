//! Runs a [`Client`] over tonic: connects, reconnects with back-off for ever, and talks to the
//! application through channels.
//!
//! [`new`] gives three ends: a [`Handle`] for commands, a receiver of [`Event`]s and the [`Driver`]
//! whose future the caller spawns. The driver ends when the last handle is dropped.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{Client, Event, TypeStats, UpdateId, Verdict};
use crate::backoff::Backoff;
use crate::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::{Form, Node, Request, Response, TypeUrl, discovery};

/// Larger responses than this are refused; Envoy has no bound, a broken peer should meet one.
const MAX_RESPONSE: usize = 256 << 20;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Responses = Pin<Box<dyn Stream<Item = Result<Response, tonic::Status>> + Send>>;

/// How a driver reaches its management server.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn(u64) -> BoxFuture<Result<Channel, String>> + Send + Sync>);

impl Connector {
    /// Any way to make a connected channel. The closure gets the number of the attempt, from 1.
    pub fn new<F, R>(connect: F) -> Self
    where
        F: Fn(u64) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Channel, String>> + Send + 'static,
    {
        Self(Arc::new(move |attempt| Box::pin(connect(attempt))))
    }

    /// One or more addresses, tried in turn: `http://host:port`, `host:port` or `unix:/path`.
    ///
    /// # Errors
    /// An address that cannot be read, or an empty list.
    pub fn from_addresses<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        keepalive: Keepalive,
    ) -> Result<Self, String> {
        let endpoints = addresses
            .into_iter()
            .map(|address| endpoint(address.as_ref(), keepalive))
            .collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err("no address of a management server given".to_owned());
        }
        Ok(Self::new(move |attempt| {
            let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(0) % endpoints.len();
            let endpoint = endpoints.get(index).cloned();
            async move {
                let endpoint = endpoint.ok_or("no address")?;
                let connected = endpoint.connect().await;
                connected.map_err(|error| format!("{}: {}", endpoint.uri(), chain(&error)))
            }
        }))
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

/// How a dead peer is noticed on an idle stream.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Between two HTTP/2 pings. gRPC servers close connections that ping more often than they
    /// allow, by default once in five minutes; servers known to allow it may get more.
    pub http2_interval: Option<Duration>,
    /// How long a ping may stay unanswered.
    pub http2_timeout: Duration,
    /// Idle time before TCP probes, which no server counts: these find a dead host quickly.
    pub tcp_idle: Option<Duration>,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            http2_interval: Some(Duration::from_secs(300)),
            http2_timeout: Duration::from_secs(20),
            tcp_idle: Some(Duration::from_secs(20)),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Everything a driver needs to know.
#[derive(Debug)]
pub struct Config {
    /// The form of the protocol.
    pub form: Form,
    /// Who we are; sent in the first request of each stream.
    pub node: Node,
    /// How to reach the server.
    pub connector: Connector,
    /// Waits between attempts.
    pub backoff: Backoff,
}

/// The state of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// An attempt runs.
    Connecting,
    /// A stream is open.
    Connected {
        /// Since when.
        since: SystemTime,
    },
    /// The next attempt waits.
    Disconnected {
        /// Why the last attempt or stream ended.
        reason: String,
        /// When that was.
        since: SystemTime,
        /// How long the next attempt waits from then on.
        retry_in: Duration,
    },
}

/// What a driver tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The connection now.
    pub connection: Connection,
    /// Attempts to connect since the start.
    pub attempts: u64,
    /// Why an attempt or stream ended last, kept after a reconnect.
    pub last_error: Option<String>,
    /// The counts of each type.
    pub types: BTreeMap<TypeUrl, TypeStats>,
}

impl Status {
    /// Whether a stream is open (Envoy's gauge `control_plane.connected_state`).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.connection, Connection::Connected { .. })
    }
}

#[derive(Debug)]
enum Command {
    Subscribe {
        type_url: TypeUrl,
        names: Vec<String>,
        timeout: Option<Duration>,
    },
    Unsubscribe {
        type_url: TypeUrl,
        names: Vec<String>,
    },
    Verdict {
        id: UpdateId,
        verdict: Verdict,
    },
    Pause {
        type_url: TypeUrl,
    },
    Resume {
        type_url: TypeUrl,
    },
}

/// The application's end: commands. They are carried out in order and never block.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<Status>,
}

impl Handle {
    /// See [`Client::subscribe`].
    pub fn subscribe<N: Into<String>>(
        &self,
        type_url: &TypeUrl,
        names: impl IntoIterator<Item = N>,
        initial_fetch_timeout: Option<Duration>,
    ) {
        let (type_url, names) = (
            type_url.clone(),
            names.into_iter().map(Into::into).collect(),
        );
        self.send(Command::Subscribe {
            type_url,
            names,
            timeout: initial_fetch_timeout,
        });
    }

    /// See [`Client::unsubscribe`].
    pub fn unsubscribe<N: Into<String>>(
        &self,
        type_url: &TypeUrl,
        names: impl IntoIterator<Item = N>,
    ) {
        let (type_url, names) = (
            type_url.clone(),
            names.into_iter().map(Into::into).collect(),
        );
        self.send(Command::Unsubscribe { type_url, names });
    }

    /// See [`Client::verdict`].
    pub fn verdict(&self, id: UpdateId, verdict: Verdict) {
        self.send(Command::Verdict { id, verdict });
    }

    /// See [`Client::pause`].
    pub fn pause(&self, type_url: &TypeUrl) {
        self.send(Command::Pause {
            type_url: type_url.clone(),
        });
    }

    /// See [`Client::resume`].
    pub fn resume(&self, type_url: &TypeUrl) {
        self.send(Command::Resume {
            type_url: type_url.clone(),
        });
    }

    /// The state of the connection and the counts, to read or to wait on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    fn send(&self, command: Command) {
        // The driver only ends before its handles when its runtime shuts down: nothing to tell then.
        drop(self.commands.send(command));
    }
}

/// The task. Spawn [`Driver::run`].
#[derive(Debug)]
pub struct Driver {
    client: Client,
    connector: Connector,
    backoff: Backoff,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<Event>,
    status: watch::Sender<Status>,
    requests: Option<Requests>,
}

/// The sending half of the open stream.
#[derive(Debug)]
enum Requests {
    Sotw(mpsc::UnboundedSender<discovery::DiscoveryRequest>),
    Delta(mpsc::UnboundedSender<discovery::DeltaDiscoveryRequest>),
}

/// Makes a driver and its two ends. Events are not bounded by the channel but by the protocol: each
/// type has at most one update without a verdict.
#[must_use]
pub fn new(config: Config) -> (Handle, mpsc::UnboundedReceiver<Event>, Driver) {
    let (command_sender, commands) = mpsc::unbounded_channel();
    let (events, event_receiver) = mpsc::unbounded_channel();
    let (status, status_receiver) = watch::channel(Status {
        connection: Connection::Connecting,
        attempts: 0,
        last_error: None,
        types: BTreeMap::new(),
    });
    let driver = Driver {
        client: Client::new(config.form, config.node),
        connector: config.connector,
        backoff: config.backoff,
        commands,
        events,
        status,
        requests: None,
    };
    (
        Handle {
            commands: command_sender,
            status: status_receiver,
        },
        event_receiver,
        driver,
    )
}

impl Driver {
    /// Connects and keeps connected until every handle is dropped.
    pub async fn run(mut self) {
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.status.send_modify(|status| {
                status.connection = Connection::Connecting;
                status.attempts = attempt;
            });
            let Some(reason) = self.run_stream(attempt).await else {
                return;
            };
            self.requests = None;
            self.client.stream_closed();
            let wait = self.backoff.next_wait();
            tracing::warn!(attempt, ?wait, "xDS stream closed: {reason}");
            self.status.send_modify(|status| {
                let since = SystemTime::now();
                status.last_error = Some(reason.clone());
                status.connection = Connection::Disconnected {
                    reason,
                    since,
                    retry_in: wait,
                };
            });
            if self.meanwhile(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// One stream from connect to end. Returns why it ended, or nothing if the handles are gone.
    async fn run_stream(&mut self, attempt: u64) -> Option<String> {
        let connecting = (self.connector.0)(attempt);
        let channel = match self.meanwhile(connecting).await? {
            Ok(channel) => channel,
            Err(reason) => return Some(reason),
        };
        let (requests, opening) = open(self.client.form(), channel);
        self.requests = Some(requests);
        self.client.stream_opened();
        self.status.send_modify(|status| {
            status.connection = Connection::Connected {
                since: SystemTime::now(),
            };
        });
        // Servers may answer the call only with the first response, so requests flow before that.
        let mut responses = match self.meanwhile(opening).await? {
            Ok(responses) => responses,
            Err(status) => return Some(describe(&status)),
        };
        loop {
            while !self.client.wants_responses() {
                let command = self.commands.recv().await?;
                self.obey(command);
                self.flush();
            }
            match self.meanwhile(responses.next()).await? {
                Some(Ok(response)) => {
                    self.backoff.reset();
                    self.client.on_response(response);
                    self.flush();
                }
                Some(Err(status)) => return Some(describe(&status)),
                None => return Some("the server closed the stream".to_owned()),
            }
        }
    }

    /// Waits for `work` and obeys commands and timers until it is done; nothing if the handles
    /// are gone.
    async fn meanwhile<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        loop {
            self.flush();
            let deadline = self.client.next_deadline();
            let tick = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => {
                    self.obey(command?);
                    while let Ok(command) = self.commands.try_recv() {
                        self.obey(command);
                    }
                }
                () = tick => self.client.on_tick(Instant::now()),
                output = &mut work => return Some(output),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Subscribe {
                type_url,
                names,
                timeout,
            } => {
                self.client
                    .subscribe(&type_url, names, timeout, Instant::now());
            }
            Command::Unsubscribe { type_url, names } => self.client.unsubscribe(&type_url, names),
            Command::Verdict { id, verdict } => {
                if !self.client.verdict(id, &verdict) {
                    tracing::debug!(?id, "verdict for an update that is not waiting for one");
                }
            }
            Command::Pause { type_url } => self.client.pause(&type_url),
            Command::Resume { type_url } => self.client.resume(&type_url),
        }
    }

    /// Sends what the machine has to say, to both sides.
    fn flush(&mut self) {
        while let Some(request) = self.client.poll_request() {
            // A closed channel means that the stream is ending: reading it will tell why.
            match (&self.requests, request) {
                (Some(Requests::Sotw(sender)), Request::Sotw(request)) => {
                    drop(sender.send(request));
                }
                (Some(Requests::Delta(sender)), Request::Delta(request)) => {
                    drop(sender.send(request));
                }
                (_, Request::Sotw(_) | Request::Delta(_)) => {}
            }
        }
        while let Some(event) = self.client.poll_event() {
            if let Event::Malformed {
                type_url,
                nonce,
                reason,
            } = &event
            {
                tracing::warn!(type_url, nonce, "malformed xDS response: {reason}");
            }
            drop(self.events.send(event));
        }
        let client = &self.client;
        self.status.send_if_modified(|status| {
            let mut modified = false;
            for (type_url, stats) in client.stats() {
                if status.types.get(type_url) != Some(stats) {
                    status.types.insert(type_url.clone(), stats.clone());
                    modified = true;
                }
            }
            modified
        });
    }
}

/// Starts the call. The future is the server's answer to it, which may need requests first.
fn open(form: Form, channel: Channel) -> (Requests, BoxFuture<Result<Responses, tonic::Status>>) {
    let mut service = AggregatedDiscoveryServiceClient::new(channel)
        .max_decoding_message_size(MAX_RESPONSE)
        .max_encoding_message_size(MAX_RESPONSE);
    match form {
        Form::Sotw => {
            let (sender, receiver) = mpsc::unbounded_channel();
            let call = async move {
                let requests = UnboundedReceiverStream::new(receiver);
                let responses = service
                    .stream_aggregated_resources(requests)
                    .await?
                    .into_inner();
                Ok(responses
                    .map(|response| response.map(Response::Sotw))
                    .boxed())
            };
            (Requests::Sotw(sender), Box::pin(call))
        }
        Form::Delta => {
            let (sender, receiver) = mpsc::unbounded_channel();
            let call = async move {
                let requests = UnboundedReceiverStream::new(receiver);
                let responses = service
                    .delta_aggregated_resources(requests)
                    .await?
                    .into_inner();
                Ok(responses
                    .map(|response| response.map(Response::Delta))
                    .boxed())
            };
            (Requests::Delta(sender), Box::pin(call))
        }
    }
}

/// What is dialled at an address: `http://host:port`, `host:port` or `unix:/path`.
///
/// # Errors
/// An address that cannot be read.
pub fn endpoint(address: &str, keepalive: Keepalive) -> Result<Endpoint, String> {
    let uri = if address.starts_with("unix:") || address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let mut endpoint = Endpoint::from_shared(uri)
        .map_err(|error| {
            format!("{address}: not an address (http://host:port, unix:/path): {error}")
        })?
        .connect_timeout(keepalive.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(keepalive.tcp_idle)
        .tcp_keepalive_interval(keepalive.tcp_idle.map(|idle| idle / 2))
        .tcp_keepalive_retries(keepalive.tcp_idle.map(|_| 3));
    if let Some(interval) = keepalive.http2_interval {
        endpoint = endpoint
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(keepalive.http2_timeout)
            .keep_alive_while_idle(true);
    }
    Ok(endpoint)
}

fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    if let Some(cause) = std::error::Error::source(status) {
        text = format!("{text}: {}", chain(cause));
    }
    text
}

/// An error with its causes: tonic's own text is only "transport error".
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
