//! Connections that carry bytes: each is made for one downstream connection and ends with it.

use std::{net::SocketAddr, rc::Rc};

use tokio::net::TcpStream;

use super::{
    ActiveRequest, Base, Failure, HostPool, Limit,
    connect::open,
    guard::{Connection, PendingRequest},
};

/// Makes connections to one host.
#[derive(Debug)]
pub(crate) struct Pool {
    base: Rc<Base>,
}

/// A connection and what counts it.
#[derive(Debug)]
pub(crate) struct TcpUpstream {
    /// The socket.
    pub(crate) stream: TcpStream,
    connection: Connection,
    base: Rc<Base>,
    request: Option<ActiveRequest>,
}

impl HostPool for Pool {
    fn new(base: Base) -> Rc<Self> {
        Rc::new(Self {
            base: Rc::new(base),
        })
    }

    fn base(&self) -> &Rc<Base> {
        &self.base
    }

    /// Nothing is kept, and what is in use goes on.
    fn drain(&self) {
        self.base.is_draining.set(true);
    }
}

impl Pool {
    /// Makes a connection within the circuit breakers; it is not used yet.
    pub(crate) async fn connect(&self) -> Result<TcpUpstream, Failure> {
        let base = &self.base;
        let pending = PendingRequest::new(base).ok_or(Failure::Overflow(Limit::Pending))?;
        if !base.may_connect() {
            pending.settle();
            return Err(Failure::Overflow(Limit::Connections));
        }
        let connection = Connection::new(base, None);
        match open(base).await {
            Ok(stream) => {
                pending.settle();
                connection.connected(stream.local_addr().ok());
                // Unless it is said to end otherwise, we let go of it.
                connection.closed_by_us.set(true);
                Ok(TcpUpstream {
                    stream,
                    connection,
                    base: Rc::clone(base),
                    request: None,
                })
            }
            Err(failure) => {
                pending.settle();
                connection.closed_by_us.set(failure.is_timeout);
                base.stats().upstream_rq_pending_failure_eject.inc();
                Err(Failure::Connect(failure))
            }
        }
    }
}

impl TcpUpstream {
    /// A downstream connection uses it from now on.
    pub(crate) fn begin(&mut self) {
        self.connection.begin_request();
        self.request = Some(ActiveRequest::unlimited(&self.base));
    }

    /// Unique in this process.
    pub(crate) fn id(&self) -> u64 {
        self.connection.id
    }

    /// Our end's address.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.connection.local()
    }

    /// Counts bytes that were read from the host.
    pub(crate) fn received(&self, bytes: u64) {
        self.connection.received(bytes);
    }

    /// Counts bytes that were written to the host.
    pub(crate) fn sent(&self, bytes: u64) {
        self.connection.sent(bytes);
    }

    /// It ends now, because the host closed it or because we do.
    pub(crate) fn end(mut self, by_us: bool) {
        self.connection.closed_by_us.set(by_us);
        // Whoever ended it, its use is over first.
        self.request.take();
        self.connection.end_request();
    }
}
