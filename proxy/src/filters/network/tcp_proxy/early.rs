//! A connection to a host that is made before it is clear that this filter gets the downstream connection. Nothing
//! is sent on it and nothing is read from it before.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::ReadBuf;

use super::{
    TcpProxyRuntime,
    connect::{Connect, Found, Origin},
};
use crate::{upstream::pool::tcp::TcpUpstream, worker::Worker};

/// The connection, or its making. Dropping it closes it, as one that nobody used.
pub struct Early {
    proxy: Arc<TcpProxyRuntime>,
    found: Rc<RefCell<Found>>,
    state: State,
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Early")
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

enum State {
    Connecting(Pin<Box<dyn Future<Output = Option<TcpUpstream>>>>),
    /// It has said nothing yet.
    Connected(TcpUpstream),
    /// It has closed its half, without a word.
    Closed(TcpUpstream),
    /// It has reset the connection.
    Broken(TcpUpstream),
    Failed,
}

/// What became of an early connection.
pub(super) enum Made {
    Connected(TcpUpstream),
    /// The host had reset it already.
    Broken(TcpUpstream),
    Failed,
}

impl Early {
    /// Begins to connect; not if the cluster is not there, or would refuse one more connection: that is only
    /// counted when a connection is really wanted.
    #[must_use]
    pub fn start(
        worker: &Rc<Worker>,
        proxy: &Arc<TcpProxyRuntime>,
        origin: Origin,
    ) -> Option<Self> {
        let connect = Connect::new(worker, proxy, origin);
        if !connect.has_room() {
            return None;
        }
        let found = Rc::new(RefCell::default());
        let shared = Rc::clone(&found);
        Some(Self {
            proxy: Arc::clone(proxy),
            found,
            state: State::Connecting(Box::pin(async move { connect.run(&shared).await })),
        })
    }

    /// Whether it was made for this filter.
    #[must_use]
    pub fn is_for(&self, proxy: &Arc<TcpProxyRuntime>) -> bool {
        Arc::ptr_eq(&self.proxy, proxy)
    }

    /// Ready once the host has spoken.
    pub fn poll_speaks(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if let State::Connecting(connecting) = &mut self.state {
            self.state = match ready!(connecting.as_mut().poll(task)) {
                Some(upstream) => State::Connected(upstream),
                None => State::Failed,
            };
        }
        let State::Connected(upstream) = &self.state else {
            return Poll::Pending;
        };
        let mut byte = [0];
        let peeked = ready!(
            upstream
                .stream
                .poll_peek(task, &mut ReadBuf::new(&mut byte))
        );
        if matches!(peeked, Ok(1..)) {
            return Poll::Ready(());
        }
        let State::Connected(upstream) = std::mem::replace(&mut self.state, State::Failed) else {
            return Poll::Pending;
        };
        self.state = match peeked {
            Ok(_) => State::Closed(upstream),
            Err(_) => State::Broken(upstream),
        };
        Poll::Pending
    }

    /// What is known of the way to the host.
    pub(super) fn found(&self) -> Rc<RefCell<Found>> {
        Rc::clone(&self.found)
    }

    /// The connection, once it is made.
    pub(super) async fn finish(self) -> Made {
        match self.state {
            State::Connecting(connecting) => match connecting.await {
                Some(upstream) => Made::Connected(upstream),
                None => Made::Failed,
            },
            State::Connected(upstream) | State::Closed(upstream) => Made::Connected(upstream),
            State::Broken(upstream) => Made::Broken(upstream),
            State::Failed => Made::Failed,
        }
    }
}
