//! Ports for processes that must come back on the port that they had.
//!
//! Everything else binds port 0. A port that is to be free again after a kill must not be one that
//! the kernel gives out by itself in between, so these lie below its range.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address on loopback that nobody listens on, and that no other caller gets.
pub fn reserve() -> Result<SocketAddr> {
    // Test programs that run at the same time start at different places.
    let start = u16::try_from(std::process::id() * 37 % u32::from(COUNT))?;
    (0..COUNT)
        .find_map(|_| {
            let offset = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let port = FIRST + (start + offset) % COUNT;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            TcpListener::bind(address).is_ok().then_some(address)
        })
        .context("no free port")
}
