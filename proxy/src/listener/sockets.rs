//! Bound sockets of one listener address: one per worker, made on the main thread so that a taken
//! address is an error of the configuration, handed to the workers once the listener is warm.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config;

/// Connections that may wait to be accepted, unless `tcp_backlog_size` says otherwise (Envoy: the
/// system's limit).
const BACKLOG: i32 = libc::SOMAXCONN;

/// The sockets of one address. A changed listener that keeps the address keeps these, so that no
/// connection in a queue is lost.
#[derive(Debug)]
pub struct Sockets {
    /// As configured.
    configured: SocketAddr,
    /// With the port that the system chose.
    address: SocketAddr,
    options: Options,
    /// Bound and not yet listening; each worker takes its own.
    waiting: Mutex<Vec<Option<Socket>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    reuse_port: bool,
    freebind: bool,
    backlog: i32,
    transparent: bool,
    /// An IPv6 socket takes IPv4 too.
    takes_ipv4: bool,
    /// None of it: connections are handed over.
    is_virtual: bool,
}

impl Sockets {
    /// Binds an address for all workers, or takes over those of `previous`.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub fn bind(
        configured: SocketAddr,
        config: &config::listener::Listener,
        workers: usize,
        previous: &[Arc<Self>],
    ) -> Result<Arc<Self>, io::Error> {
        let options = Options {
            reuse_port: config.reuse_port,
            freebind: config.freebind,
            backlog: config
                .tcp_backlog_size
                .map_or(BACKLOG, |size| i32::try_from(size).unwrap_or(i32::MAX)),
            transparent: config.transparent,
            takes_ipv4: config.dual_stack.contains(&configured),
            is_virtual: !config.bind_to_port,
        };
        let same = |old: &&Arc<Self>| old.configured == configured && old.options == options;
        if let Some(old) = previous.iter().find(same) {
            return Ok(Arc::clone(old));
        }
        if options.is_virtual {
            return Ok(Arc::new(Self {
                configured,
                address: configured,
                options,
                waiting: Mutex::new((0..workers).map(|_| None).collect()),
            }));
        }
        let first = options.socket(configured).or_else(|error| {
            let address = options.without_ipv6(configured, &error).ok_or(error)?;
            options.socket(address)
        })?;
        // The port that the system chose for the first is everyone's.
        let address = first
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the socket has no address"))?;
        let mut sockets = Vec::with_capacity(workers);
        for _ in 1..workers {
            let socket = if options.reuse_port {
                options.socket(address)?
            } else {
                first.try_clone()?
            };
            sockets.push(Some(socket));
        }
        sockets.push(Some(first));
        Ok(Arc::new(Self {
            configured,
            address,
            options,
            waiting: Mutex::new(sockets),
        }))
    }

    /// The bound address, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the listener is called by in statistics: Envoy keeps a configured port of 0 there.
    pub(super) fn configured_or_bound(&self) -> SocketAddr {
        self.configured
    }

    /// Begins to listen, on every worker's behalf: from now on the kernel takes connections, and each
    /// worker accepts those of its socket once it has taken it.
    ///
    /// # Errors
    /// When a socket can't listen.
    pub fn listen(&self) -> io::Result<()> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in waiting.iter().flatten() {
            socket.listen(self.options.backlog)?;
        }
        Ok(())
    }

    /// For how many workers there are sockets.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// The listening socket of a worker (from 1); none if it has been taken.
    ///
    /// # Errors
    /// When the socket can't listen.
    pub fn take(&self, worker: usize) -> io::Result<Option<std::net::TcpListener>> {
        let socket = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(worker.wrapping_sub(1))
            .and_then(Option::take);
        let Some(socket) = socket else {
            return Ok(None);
        };
        socket.listen(self.options.backlog)?;
        Ok(Some(socket.into()))
    }
}

impl Options {
    /// What is left of an address for both families where the kernel has no IPv6.
    fn without_ipv6(&self, configured: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
        let is_missing = error.raw_os_error() == Some(libc::EAFNOSUPPORT);
        (is_missing && self.takes_ipv4 && configured.ip().is_unspecified())
            .then(|| (Ipv4Addr::UNSPECIFIED, configured.port()).into())
    }

    fn socket(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(!self.takes_ipv4)?;
        }
        if self.freebind {
            if address.is_ipv6() {
                socket.set_freebind_v6(true)?;
            } else {
                socket.set_freebind_v4(true)?;
            }
        }
        if self.transparent {
            if address.is_ipv6() {
                socket.set_ip_transparent_v6(true)?;
            } else {
                socket.set_ip_transparent_v4(true)?;
            }
        }
        socket.bind(&address.into())?;
        Ok(socket)
    }
}

/// Sets what every accepted socket has: no delay, and keep-alive as configured.
///
/// # Errors
/// When the peer has gone already.
pub fn prepare_accepted(
    stream: &tokio::net::TcpStream,
    config: &config::listener::Listener,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(configured) = &config.tcp_keepalive else {
        return Ok(());
    };
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = configured.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = configured.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = configured.probes {
        keepalive = keepalive.with_retries(probes);
    }
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_for_both_families_needs_only_one() {
        let options = |takes_ipv4| Options {
            reuse_port: false,
            freebind: false,
            backlog: 1,
            transparent: false,
            takes_ipv4,
            is_virtual: false,
        };
        let missing = io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let taken = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let any = "[::]:80".parse().unwrap();
        let ipv4 = "0.0.0.0:80".parse().unwrap();
        assert_eq!(options(true).without_ipv6(any, &missing), Some(ipv4));
        assert_eq!(options(true).without_ipv6(any, &taken), None);
        assert_eq!(options(false).without_ipv6(any, &missing), None);
        let one = "[::1]:80".parse().unwrap();
        assert_eq!(options(true).without_ipv6(one, &missing), None);
    }
}
