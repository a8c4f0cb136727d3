//! TCP connections to hosts, from the source address that their cluster has for them.

use std::{io, net::SocketAddr};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use crate::{config::cluster::Sources, telemetry::stream_info::Source};

/// Connects from the client's own address, to a port of the kernel's choice.
///
/// # Errors
/// Whatever the kernel says: it takes `CAP_NET_ADMIN`.
pub(super) async fn dial_from(to: SocketAddr, source: Source) -> io::Result<TcpStream> {
    let socket = socket(to)?;
    let reference = SockRef::from(&socket);
    if to.is_ipv4() {
        reference.set_ip_transparent_v4(true)?;
    } else {
        reference.set_ip_transparent_v6(true)?;
    }
    if source.mark != 0 {
        reference.set_mark(source.mark)?;
    }
    let from = SocketAddr::new(source.address, 0);
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    bind(&socket, from)?;
    socket.connect(to).await
}

/// Connects. As in Envoy, a host of a family that the cluster has no source address of cannot be reached.
///
/// # Errors
/// Whatever the kernel says.
pub(crate) async fn dial(to: SocketAddr, sources: &Sources) -> io::Result<TcpStream> {
    let of_family = |source: &&SocketAddr| source.is_ipv4() == to.is_ipv4();
    let source = match (sources.0.iter().find(of_family), sources.0.first()) {
        (Some(source), _) => *source,
        (None, None) => return TcpStream::connect(to).await,
        (None, Some(source)) => {
            let reason = "Address family not supported by protocol";
            return Err(unbound(*source, reason));
        }
    };
    let socket = socket(to)?;
    if source.port() == 0 {
        // The kernel chooses a port when it knows where to, so that each host has all of them.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
    }
    bind(&socket, source)?;
    socket.connect(to).await
}

fn socket(to: SocketAddr) -> io::Result<TcpSocket> {
    if to.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
}

fn bind(socket: &TcpSocket, source: SocketAddr) -> io::Result<()> {
    socket
        .bind(source)
        .map_err(|error| unbound(source, &system_text(&error)))
}

/// As Envoy says it. No other error is of this kind, but for ports that have run out, which is the same trouble.
fn unbound(source: SocketAddr, reason: &str) -> io::Error {
    let text = format!("failed to bind to {source}: {reason}");
    io::Error::new(io::ErrorKind::AddrNotAvailable, text)
}

/// `Connection refused`, without the number that the standard library adds.
pub(super) fn system_text(error: &io::Error) -> Box<str> {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().into()
}
