//! What a scripted upstream answers, and its default: the echo.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Received, SCRIPT};

/// One scripted answer; every field may be left out.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// The status, 200 by default.
    pub status: Option<u16>,
    /// Headers to add.
    pub headers: Vec<(String, String)>,
    /// The body instead of the echo.
    pub body: Option<String>,
    /// A body of that many bytes instead of the echo.
    pub body_size: Option<usize>,
    /// Into how many frames or chunks the body is cut.
    pub chunks: usize,
    /// Trailers; over HTTP/1 they need a request with `te: trailers`.
    pub trailers: Vec<(String, String)>,
    /// Time before the head.
    pub delay_ms: u64,
    /// Time before each frame of the body.
    pub frame_delay_ms: u64,
    /// Break the exchange off.
    pub reset: Option<Reset>,
    /// Answer at once, without reading the request's body.
    pub early: bool,
    /// Answer with headers only (HTTP/2: END_STREAM on the head).
    pub no_body: bool,
    /// What follows when the same request comes again (a retry); the last one stays.
    pub then: Vec<Self>,
    /// Only the upstream of this name follows the script; others echo.
    pub only: Option<String>,
}

/// Where a scripted upstream breaks off.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// Instead of a head: HTTP/1 closes, HTTP/2 resets the stream.
    BeforeHeaders,
    /// After the head and the body's first half.
    MidBody,
    /// HTTP/2 only: REFUSED_STREAM instead of a head.
    Refused,
}

impl Script {
    /// What a request asks of the upstream `identity` that has seen it `before` so many times.
    pub(super) fn for_request(mut self, identity: &str, before: usize) -> Self {
        if self.only.as_deref().is_some_and(|only| only != identity) {
            return Self::default();
        }
        let last = self.then.len();
        match before.min(last).checked_sub(1) {
            Some(index) => self.then.swap_remove(index),
            None => self,
        }
    }

    /// The script that a request carries, if it does.
    pub(super) fn of(headers: &http::HeaderMap) -> Self {
        let Some(value) = headers.get(SCRIPT) else {
            return Self::default();
        };
        serde_json::from_slice(value.as_bytes()).unwrap_or_else(|error| Self {
            status: Some(599),
            body: Some(format!("bad {SCRIPT}: {error}")),
            ..Self::default()
        })
    }

    /// The body's frames.
    pub(super) fn frames(&self, received: &Received) -> Vec<Bytes> {
        if self.no_body {
            return Vec::new();
        }
        let body = match (&self.body, self.body_size) {
            (Some(body), _) => Bytes::from(body.clone()),
            (None, Some(size)) => Bytes::from(pattern(size)),
            (None, None) => echo(received),
        };
        if body.is_empty() {
            return Vec::new();
        }
        let size = body.len().div_ceil(self.chunks.max(1));
        body.chunks(size).map(Bytes::copy_from_slice).collect()
    }
}

fn echo(received: &Received) -> Bytes {
    let text = serde_json::to_vec(received).expect("strings and lists always serialise");
    text.into()
}

/// Text in which a lost or repeated piece shows.
pub(crate) fn pattern(size: usize) -> String {
    let mut text = String::with_capacity(size + 8);
    while text.len() < size {
        text.push_str(&format!("{:07} ", text.len()));
    }
    text.truncate(size);
    text
}

/// A body for comparison: as text when short, else its length and a checksum.
pub(crate) fn summary(body: &[u8]) -> String {
    if body.len() <= 4096 {
        return String::from_utf8_lossy(body).into_owned();
    }
    let sum = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{} bytes, checksum {sum:016x}", body.len())
}
