//! TCP connections to hosts, from the source address that their cluster has for them.

use std::{io, net::SocketAddr};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::net::{TcpSocket, TcpStream};

use crate::config::cluster::Sources;

/// Connects. As in Envoy, a host of a family that the cluster has no source address of cannot be reached.
///
/// # Errors
/// Whatever the kernel says.
pub(super) async fn dial(to: SocketAddr, sources: &Sources) -> io::Result<TcpStream> {
    let of_family = |source: &&SocketAddr| source.is_ipv4() == to.is_ipv4();
    let source = match (sources.0.iter().find(of_family), sources.0.first()) {
        (Some(source), _) => *source,
        (None, None) => return TcpStream::connect(to).await,
        (None, Some(source)) => {
            let reason = "Address family not supported by protocol";
            return Err(unbound(*source, reason));
        }
    };
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if source.port() == 0 {
        // The kernel chooses a port when it knows where to, so that each host has all of them.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
    }
    socket
        .bind(source)
        .map_err(|error| unbound(source, &system_text(&error)))?;
    socket.connect(to).await
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
