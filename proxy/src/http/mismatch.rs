//! Clients that speak something else, or nothing, where a port is declared to be HTTP.

use crate::{
    listener::filters::{client_hello, http_head},
    telemetry::stream_info::ConnectionInfo,
};

/// As the inspector's default.
const LONGEST_HELLO: usize = 16 * 1024;

/// What a client speaks instead of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// TLS.
    Tls,
    /// Some other protocol.
    Other,
    /// Nothing at all, to the end of the connection.
    Silent,
}

impl Mismatch {
    /// What the first bytes of a connection are, unless they may be HTTP's.
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        let hello = client_hello::parse(first, LONGEST_HELLO);
        if !first.is_empty() && hello != client_hello::Hello::NotTls {
            return Some(Self::Tls);
        }
        (http_head::parse(first) == http_head::Head::NotHttp).then_some(Self::Other)
    }

    /// What to tell who looks for the reason.
    pub(super) fn reason(self, info: &ConnectionInfo) -> String {
        let what = match self {
            Self::Tls => "the client speaks TLS",
            Self::Other => "the client does not speak HTTP",
            Self::Silent => "the client said nothing; perhaps it waits for the host to speak first",
        };
        let (address, name) = (info.local, &info.listener.name);
        format!("{what}: {address} is declared to be HTTP (listener '{name}')")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_http_is_none() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], None),
            (b"GET / HTTP/1.1\r\nbad header: x\r\n", None),
            (b"G", None),
            (b"", None),
            (http_head::PREFACE, None),
            (b"\x16\x03\x01\x02\x00", Some(Mismatch::Tls)),
            (b"\x16\x03", Some(Mismatch::Tls)),
            (b"\x16\x04\x01", Some(Mismatch::Other)),
            (b"\x00\x01", Some(Mismatch::Other)),
            (b"EHLO example.com\r\n", Some(Mismatch::Other)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Mismatch::Other)),
        ] {
            assert_eq!(Mismatch::of(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
