//! Clients of the tests: HTTP/1 and HTTP/2 requests on fresh or kept connections, and raw bytes.

pub mod hello;
mod http1;
mod http2;
pub mod raw;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;

pub use http1::Http1;
pub use http2::Http2;

/// No reply of a test takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target as sent: path and query.
    pub path: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// Headers in order; names may repeat.
    pub headers: Vec<(String, String)>,
    /// The body; `None` sends no body at all.
    pub body: Option<Bytes>,
    /// Into how many frames or chunks the body is cut; 0 sends HTTP/1 bodies with content-length.
    pub chunks: usize,
    /// Trailers; they make an HTTP/1 body chunked.
    pub trailers: Vec<(String, String)>,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The status, or 0 when the connection or stream ended without one.
    pub status: u16,
    /// `HTTP/1.1`, `HTTP/1.0` or `HTTP/2`.
    pub version: String,
    /// Statuses of the interim replies before it (raw conversations only).
    pub interim: Vec<u16>,
    /// Headers in the order received.
    pub headers: Vec<(String, String)>,
    /// The body as far as it came.
    pub body: Bytes,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// Replies after this one on the same connection (raw conversations only).
    pub following: Vec<Self>,
    /// How the exchange ended when it did not end well: `closed`, `reset REASON`, `goaway REASON`.
    pub error: Option<String>,
}

impl Request {
    /// A request without headers or body.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            authority: "test.local".to_owned(),
            headers: Vec::new(),
            body: None,
            chunks: 0,
            trailers: Vec::new(),
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends it over a fresh HTTP/1 connection.
    pub async fn send_h1(self, address: SocketAddr) -> Result<Response> {
        Http1::connect(address).await?.send(self).await
    }

    /// Sends it over a fresh HTTP/2 connection with prior knowledge.
    pub async fn send_h2(self, address: SocketAddr) -> Result<Response> {
        Http2::connect(address).await?.send(self).await
    }

    /// The body cut into its frames.
    fn frames(&self) -> Vec<Bytes> {
        let Some(body) = &self.body else {
            return Vec::new();
        };
        let size = body.len().div_ceil(self.chunks.max(1)).max(1);
        body.chunks(size).map(Bytes::copy_from_slice).collect()
    }
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// One GET over a fresh connection; fails unless a whole reply came.
pub async fn get(address: SocketAddr, path: &str) -> Result<Response> {
    let reply = Request::new("GET", path).send_h1(address).await?;
    let error = reply.error.as_deref().unwrap_or("no status");
    ensure!(
        reply.status != 0 && reply.error.is_none(),
        "GET {path}: {error}"
    );
    Ok(reply)
}

pub(crate) fn pairs(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

pub(crate) fn header_map(pairs: &[(String, String)]) -> Result<http::HeaderMap> {
    let mut map = http::HeaderMap::new();
    for (name, value) in pairs {
        let key = http::HeaderName::from_bytes(name.as_bytes());
        let key = key.with_context(|| format!("header name {name:?}"))?;
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        map.append(
            key,
            value.with_context(|| format!("value of header {name:?}"))?,
        );
    }
    Ok(map)
}
