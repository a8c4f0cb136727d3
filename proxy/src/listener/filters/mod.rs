//! Listener filters: what is found out about a connection before its filter chain is chosen. They look at the
//! first bytes without taking them out of the socket.

pub mod client_hello;
pub mod http_head;
mod original_dst;
mod peek;
mod stats;

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

pub use peek::{is_silent, see_again};
pub use stats::Stats;

use self::{
    client_hello::Hello,
    http_head::Head,
    peek::{Peek, Step},
};
use crate::{
    config::listener::{Listener, ListenerFilter},
    telemetry::stream_info::Source,
};

/// What is known of a connection.
#[derive(Debug)]
pub struct Found {
    /// Where it was going to.
    pub local: SocketAddr,
    /// Whether the kernel said so.
    pub is_redirected: bool,
    /// What connections to hosts are to come from.
    pub source: Option<Source>,
    /// The name that a TLS client asks for, in lower case.
    pub server_name: Option<Box<str>>,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: &'static str,
    /// What a TLS client offers to speak, or what is spoken.
    pub application_protocols: Vec<Box<str>>,
}

/// Why a connection ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The client has closed.
    RemoteClose,
    /// The socket broke.
    Error,
    /// A filter refused it.
    Refused,
}

const TLS: &str = "tls";

impl Found {
    /// Nothing but where the socket is.
    #[must_use]
    pub fn new(local: SocketAddr) -> Self {
        Self {
            local,
            is_redirected: false,
            source: None,
            server_name: None,
            transport_protocol: "raw_buffer",
            application_protocols: Vec::new(),
        }
    }

    /// Whether the client has begun to speak HTTP, for all to see.
    #[must_use]
    pub fn speaks_http(&self) -> bool {
        self.transport_protocol != TLS && !self.application_protocols.is_empty()
    }
}

/// Whether some filter must wait for the first bytes.
#[must_use]
pub fn looks_at_bytes(config: &Listener) -> bool {
    config.listener_filters.iter().any(|filter| match filter {
        ListenerFilter::OriginalDst | ListenerFilter::OriginalSrc { .. } => false,
        ListenerFilter::TlsInspector { .. } | ListenerFilter::HttpInspector => true,
    })
}

/// Runs the filters that only ask the kernel.
pub fn ask_kernel(
    config: &Listener,
    stream: &TcpStream,
    is_transparent: bool,
    remote: IpAddr,
    found: &mut Found,
) {
    for filter in &config.listener_filters {
        match filter {
            ListenerFilter::OriginalDst => {
                if let Some(address) = original_dst::original_dst(stream, is_transparent) {
                    found.local = address;
                    found.is_redirected = true;
                }
            }
            ListenerFilter::OriginalSrc { mark } => {
                found.source = Some(Source {
                    address: remote,
                    mark: *mark,
                });
            }
            ListenerFilter::TlsInspector { .. } | ListenerFilter::HttpInspector => {}
        }
    }
}

/// Runs the filters that look at the first bytes, in their order.
///
/// # Errors
/// The connection does not go on.
pub async fn inspect(
    config: &Listener,
    stats: &Stats,
    stream: &TcpStream,
    found: &mut Found,
) -> Result<(), Stop> {
    let mut peek = Peek::new(stream);
    for filter in &config.listener_filters {
        match filter {
            ListenerFilter::OriginalDst | ListenerFilter::OriginalSrc { .. } => {}
            ListenerFilter::TlsInspector {
                max_client_hello_size,
                closes_on_errors,
            } => {
                let max = *max_client_hello_size;
                let goes_on = peek
                    .until(max.saturating_add(client_hello::FRAMING), |bytes| {
                        tls(bytes, max, *closes_on_errors, stats, found)
                    })
                    .await?;
                if !goes_on {
                    return Err(Stop::Refused);
                }
            }
            // Envoy's too leaves TLS alone: what is within is not to be seen.
            ListenerFilter::HttpInspector if found.transport_protocol == TLS => {}
            ListenerFilter::HttpInspector => {
                peek.until(http_head::LONGEST, |bytes| http(bytes, stats, found))
                    .await?;
            }
        }
    }
    Ok(())
}

/// Whether the connection goes on, once that is clear.
fn tls(
    bytes: &[u8],
    max: usize,
    closes_on_errors: bool,
    stats: &Stats,
    found: &mut Found,
) -> Step<bool> {
    let hello = match client_hello::parse(bytes, max) {
        Hello::More => return Step::More,
        Hello::TooLarge => {
            stats.client_hello_too_large.inc();
            return Step::Done(false);
        }
        Hello::NotTls => {
            stats.tls_not_found.inc();
            return Step::Done(!closes_on_errors);
        }
        Hello::Found(hello) => hello,
    };
    stats.tls_found.inc();
    found.transport_protocol = TLS;
    match hello.server_name {
        Some(name) => {
            stats.sni_found.inc();
            found.server_name = Some(name);
        }
        None => stats.sni_not_found.inc(),
    }
    match hello.protocols.is_empty() {
        true => stats.alpn_not_found.inc(),
        false => {
            stats.alpn_found.inc();
            found.application_protocols = hello.protocols;
        }
    }
    Step::Done(true)
}

fn http(bytes: &[u8], stats: &Stats, found: &mut Found) -> Step<()> {
    let protocol = match http_head::parse(bytes) {
        Head::More if bytes.len() < http_head::LONGEST => return Step::More,
        Head::More | Head::NotHttp => {
            stats.http_not_found.inc();
            return Step::Done(());
        }
        Head::Http10 => {
            stats.http10_found.inc();
            "http/1.0"
        }
        Head::Http11 => {
            stats.http11_found.inc();
            "http/1.1"
        }
        Head::Http2 => {
            stats.http2_found.inc();
            "h2c"
        }
    };
    found.application_protocols = vec![protocol.into()];
    Step::Done(())
}
