//! Accepting: one task per listening socket.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, spawn_local},
};

use super::{Worker, dispatch};
use crate::listener::{Active, Sockets, prepare_accepted};

/// How long accepting pauses when there are no file descriptors: closing connections frees them.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A listening socket of this worker.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) sockets: Arc<Sockets>,
    shared: Rc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    socket: TcpListener,
    /// What accepted connections get; exchanged when the listener changes.
    listener: RefCell<Arc<Active>>,
}

impl Acceptor {
    /// Starts to listen; none if the socket was taken before.
    pub(super) fn start(
        worker: &Rc<Worker>,
        sockets: &Arc<Sockets>,
        listener: &Arc<Active>,
    ) -> io::Result<Option<Self>> {
        let Some(socket) = sockets.take(worker.index)? else {
            return Ok(None);
        };
        let shared = Rc::new(Shared {
            socket: TcpListener::from_std(socket)?,
            listener: RefCell::new(Arc::clone(listener)),
        });
        let task = spawn_local(accept(Rc::clone(worker), Rc::clone(&shared))).abort_handle();
        Ok(Some(Self {
            sockets: Arc::clone(sockets),
            shared,
            task,
        }))
    }

    /// What accepted connections get now.
    pub(super) fn listener(&self) -> Arc<Active> {
        Arc::clone(&self.shared.listener.borrow())
    }

    /// New connections get this version of the listener.
    pub(super) fn update(&self, listener: &Arc<Active>) {
        *self.shared.listener.borrow_mut() = Arc::clone(listener);
    }

    /// Stops listening. What already waits in the queue is still served: closing the socket would reset
    /// it.
    pub(super) fn stop(self, worker: &Rc<Worker>) {
        self.task.abort();
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Ok((stream, remote))) =
            self.shared.socket.poll_accept(&mut task)
        {
            start(worker, &self.shared, stream, remote);
        }
    }
}

async fn accept(worker: Rc<Worker>, shared: Rc<Shared>) {
    let mut timer = worker.timers.timer();
    loop {
        match shared.socket.accept().await {
            Ok((stream, remote)) => start(&worker, &shared, stream, remote),
            Err(error) if is_exhausted(&error) => {
                tracing::warn!(%error, "cannot accept connections, pausing");
                timer.until(Instant::now() + EXHAUSTED).await;
            }
            // A connection that was gone before it was accepted.
            Err(error) => tracing::debug!(%error, "accepting failed"),
        }
    }
}

/// Out of file descriptors or memory: asking again at once would only burn time.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

fn start(worker: &Rc<Worker>, shared: &Shared, stream: TcpStream, remote: SocketAddr) {
    let listener = Arc::clone(&shared.listener.borrow());
    let prepared = prepare_accepted(&stream, &listener.config).and_then(|()| stream.local_addr());
    // An error means that the client has gone already.
    if let Ok(local) = prepared {
        let (remote, local) = (as_ipv4(remote), as_ipv4(local));
        dispatch::start(worker, listener, stream, remote, local);
    }
}

/// A client of IPv4 is one, also where an IPv6 socket took it.
fn as_ipv4(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => (ip, address.port()).into(),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}
