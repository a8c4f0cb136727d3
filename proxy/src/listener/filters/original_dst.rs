//! Where a redirected connection was going to.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use nix::sys::socket::{
    getsockopt,
    sockopt::{Ip6tOriginalDst, OriginalDst},
};
use tokio::net::TcpStream;

/// The destination that connection tracking has for it; of a socket that takes connections to any address
/// (TPROXY) its own address. None if it was not redirected.
pub(super) fn original_dst(stream: &TcpStream, is_transparent: bool) -> Option<SocketAddr> {
    let mut local = stream.local_addr().ok()?;
    if let IpAddr::V6(ip) = local.ip()
        && let Some(ip) = ip.to_ipv4_mapped()
    {
        local.set_ip(ip.into());
    }
    let tracked = match local {
        SocketAddr::V4(_) => {
            let address = getsockopt(stream, OriginalDst).ok();
            address.map(|address| {
                let ip = u32::from_be(address.sin_addr.s_addr);
                SocketAddr::V4(SocketAddrV4::new(ip.into(), u16::from_be(address.sin_port)))
            })
        }
        SocketAddr::V6(_) => {
            let address = getsockopt(stream, Ip6tOriginalDst).ok();
            address.map(|address| {
                let ip = address.sin6_addr.s6_addr.into();
                let port = u16::from_be(address.sin6_port);
                SocketAddr::V6(SocketAddrV6::new(ip, port, 0, 0))
            })
        }
    };
    tracked.or_else(|| is_transparent.then_some(local))
}
