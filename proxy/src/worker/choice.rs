//! The choice of a protocol while the host is already being connected: whoever speaks first decides.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use super::{Timer, dispatch::Accepted};
use crate::{
    filters::network::tcp_proxy::{Early, Origin, TcpProxyRuntime},
    listener::{
        Active, ChainFilter,
        filters::{self, Found, Stop},
        protocol_choice::ChoiceStats,
    },
};

/// How the listener filters ended.
pub(super) enum Looked {
    /// They know what there is to know.
    Done,
    /// The connection ends.
    Stopped(Stop),
    /// `listener_filters_timeout` is over.
    TimedOut,
}

/// The choice for one connection.
pub(super) struct Choice<'a> {
    accepted: &'a Accepted,
    stats: &'a ChoiceStats,
    /// Of the chain that is taken if the client says nothing.
    proxy: &'a Arc<TcpProxyRuntime>,
    origin: Origin,
    learn_for: Duration,
    /// When to connect, and whether that is at once because of what was learned.
    connect_at: Instant,
    is_learned: bool,
}

impl<'a> Choice<'a> {
    /// None where the listener does not ask for it, or has no such chain for this connection.
    pub(super) fn new(accepted: &'a Accepted, listener: &'a Active, found: &Found) -> Option<Self> {
        let wanted = listener.config.protocol_choice?;
        let stats = listener.choice_stats.as_ref()?;
        let place = listener.config.matcher.find(&accepted.facts(found))?;
        let ChainFilter::Tcp(proxy) = listener.chains.get(place)? else {
            return None;
        };
        let now = Instant::now();
        let is_learned = accepted.worker.learned.knows(found.local, now);
        Some(Self {
            accepted,
            stats,
            proxy,
            origin: Origin {
                remote: accepted.remote,
                local: found.local,
                real_local: accepted.real_local,
                is_redirected: found.is_redirected,
                source: found.source,
            },
            learn_for: wanted.learn_for,
            connect_at: match is_learned {
                true => now,
                false => now + wanted.connect_after,
            },
            is_learned,
        })
    }

    /// Runs the listener filters until somebody has spoken, or to their deadline. Gives also the connection to
    /// the host, if there is one by then.
    pub(super) async fn run(
        self,
        listener: &Active,
        stats: &filters::Stats,
        found: &mut Found,
        timer: &mut Timer,
        deadline: Option<Instant>,
    ) -> (Looked, Option<Early>) {
        let mut early = None;
        let mut may_start = true;
        let stream = &self.accepted.stream;
        let ended = {
            let mut inspect = pin!(filters::inspect(&listener.config, stats, stream, found));
            poll_fn(|task| {
                if let Poll::Ready(inspected) = inspect.as_mut().poll(task) {
                    return Poll::Ready(Ended::Inspected(inspected));
                }
                if may_start && self.is_due(timer, task) {
                    may_start = false;
                    early = self.start();
                }
                if early.as_mut().map(|early| early.poll_speaks(task)) == Some(Poll::Ready(())) {
                    return Poll::Ready(Ended::ServerFirst);
                }
                match deadline {
                    Some(deadline) if !may_start || deadline < self.connect_at => {
                        timer.poll_until(deadline, task).map(|()| Ended::TimedOut)
                    }
                    // The timer is set to an earlier moment.
                    _ => Poll::Pending,
                }
            })
            .await
        };
        (self.settle(ended, found), early)
    }

    fn is_due(&self, timer: &mut Timer, task: &mut std::task::Context<'_>) -> bool {
        // A moment that is past would still take the timer a millisecond.
        Instant::now() >= self.connect_at || timer.poll_until(self.connect_at, task).is_ready()
    }

    /// Connects, unless the client has begun to speak.
    fn start(&self) -> Option<Early> {
        if !filters::is_silent(&self.accepted.stream) {
            return None;
        }
        let early = Early::start(&self.accepted.worker, self.proxy, self.origin)?;
        self.stats.connected_early.inc();
        if self.is_learned {
            self.stats.learned.inc();
        }
        Some(early)
    }

    /// Counts who has decided, and learns from it.
    fn settle(&self, ended: Ended, found: &Found) -> Looked {
        let learned = &self.accepted.worker.learned;
        match ended {
            Ended::Inspected(Ok(())) if found.speaks_http() => {
                self.stats.http.inc();
                learned.forget(self.origin.local);
                Looked::Done
            }
            // A client that has nothing to say may still want to hear.
            Ended::Inspected(Ok(()) | Err(Stop::RemoteClose)) => {
                self.stats.tcp.inc();
                Looked::Done
            }
            Ended::Inspected(Err(stop)) => Looked::Stopped(stop),
            Ended::ServerFirst => {
                self.stats.server_first.inc();
                if !self.learn_for.is_zero() {
                    let now = Instant::now();
                    learned.learn(self.origin.local, now + self.learn_for, now);
                }
                Looked::Done
            }
            Ended::TimedOut => {
                self.stats.timeout.inc();
                Looked::TimedOut
            }
        }
    }
}

enum Ended {
    Inspected(Result<(), Stop>),
    ServerFirst,
    TimedOut,
}
