//! Ports for processes that must come back on the port that they had.
//!
//! Everything else binds port 0. A port that is to be free again after a kill must not be one that
//! the kernel gives out by itself in between, so these lie outside of its range. That matters all
//! the more since proxies share their ports (`SO_REUSEPORT`): a second one would not even fail.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result};

/// Below are ports of well-known services.
const FIRST: u16 = 5000;
/// Above are ports that `outrigger demo` takes for the same reason.
const END: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address on loopback that nobody listens on, and that no other caller gets.
pub fn reserve() -> Result<SocketAddr> {
    let count = end().saturating_sub(FIRST).max(1);
    // Test programs that run at the same time start at different places.
    let start = u16::try_from(std::process::id() * 37 % u32::from(count))?;
    (0..count)
        .find_map(|_| {
            let offset = NEXT.fetch_add(1, Ordering::Relaxed) % count;
            let place = (u32::from(start) + u32::from(offset)) % u32::from(count);
            let port = FIRST + u16::try_from(place).ok()?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            TcpListener::bind(address).is_ok().then_some(address)
        })
        .context("no free port")
}

/// Where the kernel's own range begins.
fn end() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next();
    first
        .and_then(|first| first.parse().ok())
        .map_or(END, |first: u16| first.min(END))
}
