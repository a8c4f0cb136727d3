//! Opens TCP connections to hosts.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{Base, ConnectFailure, guard::Traffic};
use crate::{
    relay::poll_write_buffers,
    telemetry::stats::Counter,
    upstream::dial::{dial, dial_from, system_text},
};

/// Connects to the pool's host within its cluster's `connect_timeout`.
pub(super) async fn connect(
    base: &Rc<Base>,
    traffic: &Rc<Traffic>,
) -> Result<Metered, ConnectFailure> {
    let stream = open(base).await?;
    Ok(Metered::new(base, traffic, stream))
}

/// The same, for bytes that someone else counts.
pub(super) async fn open(base: &Rc<Base>) -> Result<TcpStream, ConnectFailure> {
    // The cluster may be exchanged meanwhile.
    let config = Arc::clone(&base.cluster().config);
    let host = &base.host;
    let dialling = async {
        match host.source {
            None => dial(host.address, &config.sources).await,
            Some(source) => dial_from(host.address, source).await,
        }
    };
    let failure = match tokio::time::timeout(config.connect_timeout, dialling).await {
        Ok(Ok(stream)) => match prepare(base, &stream) {
            Ok(()) => return Ok(stream),
            Err(error) => failed(&error),
        },
        Ok(Err(error)) => failed(&error),
        Err(_elapsed) => ConnectFailure {
            is_timeout: true,
            is_local: false,
            reason: "".into(),
        },
    };
    let stats = base.stats();
    stats.upstream_cx_connect_fail.inc();
    if failure.is_timeout {
        stats.upstream_cx_connect_timeout.inc();
    }
    base.host.stats.cx_connect_fail.fetch_add(1, Relaxed);
    Err(failure)
}

fn prepare(base: &Rc<Base>, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(wanted) = &base.cluster().config.tcp_keepalive {
        let mut keepalive = TcpKeepalive::new();
        if let Some(time) = wanted.time {
            keepalive = keepalive.with_time(time);
        }
        if let Some(interval) = wanted.interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(probes) = wanted.probes {
            keepalive = keepalive.with_retries(probes);
        }
        SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

fn failed(error: &io::Error) -> ConnectFailure {
    ConnectFailure {
        is_timeout: false,
        is_local: error.kind() == io::ErrorKind::AddrNotAvailable,
        reason: system_text(error),
    }
}

/// A connection that counts its bytes.
#[derive(Debug)]
pub(crate) struct Metered {
    stream: TcpStream,
    received: Counter,
    sent: Counter,
    traffic: Rc<Traffic>,
}

impl Metered {
    fn new(base: &Rc<Base>, traffic: &Rc<Traffic>, stream: TcpStream) -> Self {
        let stats = base.stats();
        Self {
            stream,
            received: stats.upstream_cx_rx_bytes_total.clone(),
            sent: stats.upstream_cx_tx_bytes_total.clone(),
            traffic: Rc::clone(traffic),
        }
    }

    pub(super) fn local(&self) -> Option<std::net::SocketAddr> {
        self.stream.local_addr().ok()
    }

    fn sent(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &polled {
            let bytes = *bytes as u64;
            self.sent.add(bytes);
            self.traffic.sent.set(self.traffic.sent.get() + bytes);
        }
        polled
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if polled.is_ready() {
            let bytes = (buffer.filled().len() - before) as u64;
            this.received.add(bytes);
            this.traffic
                .received
                .set(this.traffic.received.get() + bytes);
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, data);
        this.sent(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = poll_write_buffers(Pin::new(&mut this.stream), cx, data);
        this.sent(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
