//! Ports that flags name.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use tokio::net::TcpListener;

/// Listens on the port of a flag; 0 is any free one.
///
/// # Errors
/// Names the flag, and what can be done.
pub async fn bind(ip: IpAddr, port: u16, flag: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "{flag} {port}: cannot listen on {address}; choose another port, or 0 for any free one"
        )
    })
}
