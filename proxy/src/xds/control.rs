//! The main thread's loop over everything that changes the configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_xds::{
    TypeUrl, WILDCARD,
    client::{Event, ResourceError, Update, Verdict, grpc},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    ads,
    file_sources::{FileUpdate, Files},
};
use crate::{
    config::{
        bootstrap::Bootstrap,
        source::{ConfigSource, SourceKind},
    },
    convert::ConfigError,
    snapshot::{
        Dump, Origin, Publisher, Resource, State,
        state::{Host, Kind, Rejection},
    },
    upstream::Cluster,
};

/// How far the start has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Every source has answered once (or its time was over) and nothing waits to become warm.
    pub is_initialized: bool,
}

/// Requests of other parts of the main thread.
#[derive(Debug)]
pub enum Command {
    /// Everything that is known, for `/config_dump`.
    Dump(oneshot::Sender<Dump>),
    /// A cluster has become warm.
    Warm,
}

/// The other parts' end.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    progress: watch::Receiver<Progress>,
    status: Option<watch::Receiver<grpc::Status>>,
}

impl Handle {
    /// Everything that is known; empty when the loop has ended.
    pub async fn dump(&self) -> Dump {
        let (sender, receiver) = oneshot::channel();
        drop(self.commands.send(Command::Dump(sender)));
        receiver.await.unwrap_or_default()
    }

    /// How far the start has come, to read or to wait on.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The state of the aggregated stream, where there is one.
    #[must_use]
    pub fn ads_status(&self) -> Option<watch::Receiver<grpc::Status>> {
        self.status.clone()
    }
}

/// A resource that did not come in time.
type Late = (Kind, Arc<str>);

/// The loop and what it owns.
#[derive(Debug)]
pub struct Control<H> {
    state: State,
    host: H,
    publisher: Publisher,
    cds: Option<ConfigSource>,
    lds: Option<ConfigSource>,
    ads: Option<grpc::Handle>,
    ads_events: Option<mpsc::UnboundedReceiver<Event>>,
    subscribed: BTreeMap<Kind, BTreeSet<Arc<str>>>,
    files: Files,
    /// Names wanted from files whose first answer is late.
    expired: (mpsc::UnboundedSender<Late>, mpsc::UnboundedReceiver<Late>),
    commands: mpsc::UnboundedReceiver<Command>,
    progress: watch::Sender<Progress>,
    cds_answered: bool,
    lds_started: bool,
    lds_answered: bool,
}

impl<H: Host> Control<H> {
    /// Takes over the bootstrap. `commands` is the sending half that [`Host::discover`] wakes the
    /// loop with ([`Command::Warm`]).
    ///
    /// # Errors
    /// When a static listener can't be bound.
    pub fn new(
        bootstrap: &Bootstrap,
        state: State,
        host: H,
        publisher: Publisher,
        commands: (
            mpsc::UnboundedSender<Command>,
            mpsc::UnboundedReceiver<Command>,
        ),
    ) -> Result<(Self, Handle), Vec<ConfigError>> {
        let (progress, progress_receiver) = watch::channel(Progress::default());
        let (command_sender, command_receiver) = commands;
        let mut control = Self {
            state,
            host,
            publisher,
            cds: bootstrap.cds.clone(),
            lds: bootstrap.lds.clone(),
            ads: None,
            ads_events: None,
            subscribed: BTreeMap::new(),
            files: Files::new(),
            expired: mpsc::unbounded_channel(),
            commands: command_receiver,
            progress,
            cds_answered: bootstrap.cds.is_none(),
            lds_started: false,
            lds_answered: bootstrap.lds.is_none(),
        };
        if let Some(config) = &bootstrap.ads {
            let clusters = config
                .clusters
                .iter()
                .filter_map(|name| control.state.static_cluster(name))
                .collect::<Vec<Arc<Cluster>>>();
            let (handle, events, driver) =
                grpc::new(ads::config(config, &bootstrap.node, clusters));
            tokio::spawn(driver.run());
            control.ads = Some(handle);
            control.ads_events = Some(events);
        }
        let handle = Handle {
            commands: command_sender,
            progress: progress_receiver,
            status: control.ads.as_ref().map(grpc::Handle::status),
        };
        Ok((control, handle))
    }

    /// Runs until every [`Handle`] is gone.
    pub async fn run(mut self) {
        if let Some(source) = self.cds.clone() {
            self.start(Kind::Cluster, &source);
        }
        self.advance();
        loop {
            let ads = async {
                match &mut self.ads_events {
                    Some(events) => events.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = ads => match event {
                    Some(event) => self.on_event(event),
                    None => self.ads_events = None,
                },
                updates = self.files.changed() => {
                    updates.into_iter().for_each(|update| self.on_file(update));
                }
                Some((kind, name)) = self.expired.1.recv() => self.on_timeout(kind, &name),
                command = self.commands.recv() => match command {
                    Some(Command::Dump(reply)) => drop(reply.send(self.state.dump())),
                    Some(Command::Warm) => {}
                    None => return,
                },
            }
            self.advance();
        }
    }

    /// Begins to want CDS or LDS.
    fn start(&mut self, kind: Kind, source: &ConfigSource) {
        match &source.kind {
            SourceKind::Ads => {
                if let Some(ads) = &self.ads {
                    ads.subscribe(&type_url(kind), [WILDCARD], timeout(source));
                    self.state.count_request(kind, &Arc::from(WILDCARD));
                }
            }
            SourceKind::Path(path) => match self.files.want_all(kind, path) {
                Some(update) => self.on_file(update),
                None => self.expire(kind, WILDCARD, timeout(source)),
            },
        }
    }

    /// Files have no stream that would tell that an answer is late.
    fn expire(&self, kind: Kind, name: &str, timeout: Option<Duration>) {
        let Some(timeout) = timeout.filter(|timeout| !timeout.is_zero()) else {
            return;
        };
        let sender = self.expired.0.clone();
        let name = Arc::from(name);
        tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            drop(sender.send((kind, name)));
        });
    }

    fn on_timeout(&mut self, kind: Kind, name: &str) {
        self.state.count_timeout(kind, &Arc::from(name));
        match kind {
            Kind::Cluster => self.cds_answered = true,
            Kind::Listener => self.lds_answered = true,
            Kind::Endpoints | Kind::Route => self.state.give_up(kind, name),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Update(update) => self.on_update(update),
            Event::InitialFetchTimeout { type_url, name } => {
                let Some(kind) = Kind::of(type_url.as_str()) else {
                    return;
                };
                tracing::warn!(%type_url, name, "no answer within initial_fetch_timeout");
                self.on_timeout(kind, &name);
            }
            // The client has refused it already.
            Event::Malformed { .. } => {}
        }
    }

    fn on_update(&mut self, update: Update) {
        let Update {
            id,
            type_url,
            version,
            nonce: _,
            added,
            removed,
            errors,
        } = update;
        let verdict = match Kind::of(type_url.as_str()) {
            None => Verdict::Nack(format!("{type_url} was not asked for")),
            Some(kind) => {
                for error in errors {
                    tracing::warn!(%type_url, "the management server reports: {error}");
                }
                let now = SystemTime::now();
                let subscribed = self.subscribed.get(&kind);
                let added = added
                    .into_iter()
                    // A server may send more than was asked for, such as what comes from a file here.
                    .filter(|resource| match kind {
                        Kind::Cluster | Kind::Listener => true,
                        Kind::Endpoints | Kind::Route => {
                            subscribed.is_some_and(|names| names.contains(resource.name.as_str()))
                        }
                    })
                    .map(|resource| Resource {
                        name: Arc::from(resource.name),
                        version: Arc::from(resource.version),
                        body: resource.body,
                        origin: Origin::Dynamic,
                        updated: now,
                    })
                    .collect();
                let removed = removed.into_iter().map(Arc::from).collect::<Vec<_>>();
                let rejections = self.state.update(kind, added, &removed, &mut self.host);
                self.answered(kind);
                verdict(&version, kind, &rejections)
            }
        };
        // Names that the update brought are wanted before its ACK leaves, so that one request has them all.
        self.subscribe_wanted();
        if let Some(ads) = &self.ads {
            ads.verdict(id, verdict);
        }
    }

    fn answered(&mut self, kind: Kind) {
        match kind {
            Kind::Cluster => self.cds_answered = true,
            Kind::Listener => self.lds_answered = true,
            Kind::Endpoints | Kind::Route => {}
        }
    }

    /// Takes over what a file says.
    fn on_file(&mut self, update: FileUpdate) {
        let FileUpdate {
            path,
            kind,
            added,
            removed,
        } = update;
        let rejections = self.state.update(kind, added, &removed, &mut self.host);
        for rejection in &rejections {
            tracing::error!("{}: {rejection}", path.display());
        }
        self.answered(kind);
    }

    /// Wants what is named now and no more what is not, then publishes what has become warm.
    fn advance(&mut self) {
        self.subscribe_wanted();
        if let Some(snapshot) = self.state.settle() {
            self.publisher.publish(snapshot);
            // What left with the old version may be wanted no longer.
            self.subscribe_wanted();
        }
        // Listeners are asked for when the first clusters can serve: an inline route must not meet a
        // cluster that is still on its way.
        if !self.lds_started && self.cds_answered && !self.state.is_warming_clusters() {
            self.lds_started = true;
            if let Some(source) = self.lds.clone() {
                self.start(Kind::Listener, &source);
                self.advance();
                return;
            }
        }
        let is_initialized =
            self.lds_started && self.cds_answered && self.lds_answered && !self.state.is_warming();
        if is_initialized && !self.progress.borrow().is_initialized {
            self.progress.send_replace(Progress { is_initialized });
        }
    }

    fn subscribe_wanted(&mut self) {
        for kind in [Kind::Endpoints, Kind::Route] {
            let all = self.state.wanted(kind);
            let (updates, new) = self.files.want(kind, &all);
            for name in new {
                self.expire(kind, &name, self.state.fetch_timeout(kind, &name));
            }
            updates.into_iter().for_each(|update| self.on_file(update));
            let wanted = all
                .into_iter()
                .filter(|(source, _)| source.0 == SourceKind::Ads)
                .map(|(_, name)| name)
                .collect::<BTreeSet<_>>();
            let Some(ads) = &self.ads else { continue };
            let before = self.subscribed.entry(kind).or_default();
            let url = type_url(kind);
            let mut new: BTreeMap<_, Vec<String>> = BTreeMap::new();
            for name in wanted.difference(before) {
                let timeout = self
                    .state
                    .fetch_timeout(kind, name)
                    .filter(|time| !time.is_zero());
                new.entry(timeout).or_default().push(name.to_string());
                self.state.count_request(kind, name);
            }
            for (timeout, names) in new {
                ads.subscribe(&url, names, timeout);
            }
            let gone = before
                .difference(&wanted)
                .map(ToString::to_string)
                .collect::<Vec<_>>();
            if !gone.is_empty() {
                ads.unsubscribe(&url, gone);
            }
            *before = wanted;
        }
    }
}

fn timeout(source: &ConfigSource) -> Option<Duration> {
    Some(source.initial_fetch_timeout).filter(|timeout| !timeout.is_zero())
}

fn type_url(kind: Kind) -> TypeUrl {
    match kind {
        Kind::Cluster => TypeUrl::Cluster,
        Kind::Endpoints => TypeUrl::Endpoint,
        Kind::Listener => TypeUrl::Listener,
        Kind::Route => TypeUrl::Route,
    }
}

fn verdict(version: &str, kind: Kind, rejections: &[Rejection]) -> Verdict {
    if rejections.is_empty() {
        return Verdict::Ack;
    }
    for rejection in rejections {
        tracing::warn!(version, ?kind, "resource refused: {rejection}");
    }
    Verdict::Partial(
        rejections
            .iter()
            .map(|rejection| ResourceError {
                name: rejection.name.to_string(),
                reason: rejection
                    .errors
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
            })
            .collect(),
    )
}
