//! From an accepted socket to its filter chain: listener filters, hand-over, the choice of the chain.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use http::Version;
use tokio::{net::TcpStream, task::spawn_local};

use super::{
    Connection, Worker,
    choice::{Choice, Looked},
};
use crate::{
    config::chain_match::Facts,
    filters::network::tcp_proxy::{self, Early, TcpProxyRuntime},
    http::connection,
    listener::{
        Active, ChainFilter,
        filters::{self, Found, Stop},
    },
    telemetry::stream_info::{ConnectionInfo, ResponseFlags, StreamInfo},
};

/// What is done with a connection that was just accepted.
pub(super) fn start(
    worker: &Rc<Worker>,
    listener: Arc<Active>,
    stream: TcpStream,
    remote: SocketAddr,
    local: SocketAddr,
) {
    let accepted = Accepted {
        worker: Rc::clone(worker),
        remote,
        real_local: local,
        is_transparent: listener.config.transparent,
        start: Instant::now(),
        stream,
        early: None,
    };
    let found = Found::new(local);
    if filters::looks_at_bytes(&listener.config) {
        spawn_local(accepted.inspect(listener, found));
    } else {
        accepted.look_at_once(listener, found, true);
    }
}

/// A connection before its chain is known.
pub(super) struct Accepted {
    pub(super) worker: Rc<Worker>,
    pub(super) remote: SocketAddr,
    pub(super) real_local: SocketAddr,
    /// The socket that accepted it takes connections to any address.
    is_transparent: bool,
    start: Instant,
    pub(super) stream: TcpStream,
    /// A connection to the host, made while it was not clear what this one speaks.
    early: Option<Early>,
}

/// A connection that listener filters look at, as the worker knows it: it is waited for when draining.
#[derive(Debug)]
struct Inspected(Arc<Active>);

impl Connection for Inspected {
    fn listener(&self) -> &Arc<Active> {
        &self.0
    }

    fn drain(&self) {}
}

/// Counts a connection while filters look at it.
struct Looking {
    worker: Rc<Worker>,
    listener: Arc<Active>,
    key: usize,
}

impl Looking {
    fn new(worker: &Rc<Worker>, listener: &Arc<Active>) -> Self {
        listener.stats.pre_cx_active.inc();
        let inspected = Rc::new(Inspected(Arc::clone(listener)));
        Self {
            worker: Rc::clone(worker),
            listener: Arc::clone(listener),
            key: worker.connections.insert(inspected),
        }
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.listener.stats.pre_cx_active.dec();
        self.worker.connections.remove(self.key);
    }
}

impl Accepted {
    /// Filters that only ask the kernel; none of them waits.
    fn look_at_once(self, listener: Arc<Active>, mut found: Found, may_hand_over: bool) {
        filters::ask_kernel(
            &listener.config,
            &self.stream,
            self.is_transparent,
            self.remote.ip(),
            &mut found,
        );
        match self.next(&listener, &found, may_hand_over) {
            None => self.serve(&listener, found),
            Some(next) if filters::looks_at_bytes(&next.config) => {
                spawn_local(self.inspect_last(next, found));
            }
            Some(next) => self.look_at_once(next, found, false),
        }
    }

    async fn inspect(mut self, listener: Arc<Active>, mut found: Found) {
        if !self.look(&listener, &mut found, true).await {
            return;
        }
        match self.next(&listener, &found, true) {
            None => self.serve(&listener, found),
            Some(next) => self.inspect_last(next, found).await,
        }
    }

    /// Its filters too, and no further hand-over.
    async fn inspect_last(mut self, listener: Arc<Active>, mut found: Found) {
        if self.look(&listener, &mut found, false).await {
            self.serve(&listener, found);
        }
    }

    /// Runs the filters of a listener; whether the connection goes on.
    async fn look(&mut self, listener: &Arc<Active>, found: &mut Found, may: bool) -> bool {
        let config = &listener.config;
        let remote = self.remote.ip();
        filters::ask_kernel(config, &self.stream, self.is_transparent, remote, found);
        let Some(stats) = &listener.filter_stats else {
            return true;
        };
        let _looking = Looking::new(&self.worker, listener);
        let timeout = config.listener_filters_timeout;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut timer = self.worker.timers.timer();
        // Another listener's chains are none of this one's business.
        let is_handed_over = self.next(listener, found, may).is_some();
        let choice = (!is_handed_over).then(|| Choice::new(self, listener, found));
        let looked = match choice.flatten() {
            Some(choice) => {
                let (looked, early) = choice
                    .run(listener, stats, found, &mut timer, deadline)
                    .await;
                self.early = early;
                looked
            }
            None => {
                let inspect = filters::inspect(config, stats, &self.stream, found);
                match timer.run_until(deadline, inspect).await {
                    Ok(Ok(())) => Looked::Done,
                    Ok(Err(stop)) => Looked::Stopped(stop),
                    Err(_elapsed) => Looked::TimedOut,
                }
            }
        };
        let was_given_up = self.early.is_some() || matches!(looked, Looked::TimedOut);
        let goes_on = match looked {
            Looked::Done => true,
            Looked::Stopped(Stop::RemoteClose) => {
                listener.stats.filter_remote_close.inc();
                false
            }
            Looked::Stopped(Stop::Error) => {
                listener.stats.filter_error.inc();
                false
            }
            Looked::Stopped(Stop::Refused) => false,
            Looked::TimedOut => {
                listener.stats.pre_cx_timeout.inc();
                config.continue_on_listener_filters_timeout
            }
        };
        if goes_on && was_given_up && filters::see_again(&mut self.stream).is_err() {
            listener.stats.filter_error.inc();
            self.take_early(listener, None);
            return false;
        }
        if !goes_on {
            self.take_early(listener, None);
        }
        goes_on
    }

    /// The connection to a host that was made for this filter; one that was made for another is closed.
    fn take_early(
        &mut self,
        listener: &Active,
        proxy: Option<&Arc<TcpProxyRuntime>>,
    ) -> Option<Early> {
        let early = self.early.take()?;
        if proxy.is_some_and(|proxy| early.is_for(proxy)) {
            return Some(early);
        }
        if let Some(stats) = &listener.choice_stats {
            stats.unused.inc();
        }
        None
    }

    /// The listener that the connection is handed over to.
    fn next(&self, listener: &Active, found: &Found, may: bool) -> Option<Arc<Active>> {
        if !may || !listener.config.use_original_dst || !found.is_redirected {
            return None;
        }
        let snapshot = self.worker.snapshot();
        snapshot.listener_at(found.local).map(Arc::clone)
    }

    /// What is known of it, for the choice of the chain.
    pub(super) fn facts<'a>(&self, found: &'a Found) -> Facts<'a> {
        Facts {
            destination: found.local,
            server_name: found.server_name.as_deref().unwrap_or_default(),
            transport_protocol: found.transport_protocol,
            application_protocols: &found.application_protocols,
            direct_source: self.remote,
            source: self.remote,
        }
    }

    /// Gives the connection to its filter chain.
    fn serve(mut self, listener: &Arc<Active>, found: Found) {
        let place = listener.config.matcher.find(&self.facts(&found));
        let chain = place.and_then(|place| listener.chains.get(place));
        let early = match chain {
            Some(ChainFilter::Tcp(proxy)) => self.take_early(listener, Some(proxy)),
            _ => self.take_early(listener, None),
        };
        let info = ConnectionInfo {
            id: self.worker.connection_id(),
            remote: self.remote,
            local: found.local,
            real_local: self.real_local,
            is_redirected: found.is_redirected,
            source: found.source,
            server_name: found.server_name,
            listener: Arc::clone(&listener.config),
            start: self.start,
        };
        let (worker, chain) = (self.worker, chain.cloned());
        let listener = Arc::clone(listener);
        match chain {
            Some(ChainFilter::Http(hcm)) => {
                connection::start(worker, listener, hcm, self.stream, info);
            }
            Some(ChainFilter::Tcp(proxy)) => {
                tcp_proxy::start(worker, listener, proxy, self.stream, info, early);
            }
            None => no_chain(&listener, info),
        }
    }
}

/// The connection is closed, and that is all.
fn no_chain(listener: &Active, info: ConnectionInfo) {
    listener.stats.no_filter_chain_match.inc();
    if listener.access_logs.is_empty() {
        return;
    }
    let mut info = StreamInfo::new(Rc::new(info), Version::HTTP_09);
    info.flags.insert(ResponseFlags::NO_ROUTE_FOUND);
    info.details = Some("filter_chain_not_found".into());
    listener.access_logs.log_connection(&info);
}
