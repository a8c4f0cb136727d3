//! Which headers a request has.

use http::{HeaderMap, header};

/// Which headers a request came with. One look over all of them is cheaper than asking for each: most
/// requests have none of what must be looked at closely.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// `connection`
    pub connection: bool,
    /// `content-type`
    pub content_type: bool,
    /// `cookie`, more than once
    pub parted_cookies: bool,
    /// `expect`
    pub expect: bool,
    /// `host`
    pub host: bool,
    /// `proxy-connection`
    pub proxy_connection: bool,
    /// `te`
    pub te: bool,
    /// `transfer-encoding`
    pub transfer_encoding: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// `keep-alive`, `http2-settings`
    pub(super) old_hop_by_hop: bool,
    pub(super) forwarded_for: bool,
    pub(super) forwarded_proto: bool,
    pub(super) request_id: bool,
    pub(super) envoy: bool,
}

impl Seen {
    /// What is in `headers`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        let mut has_cookie = false;
        for name in headers.iter().map(|(name, _)| name) {
            match *name {
                header::HOST => seen.host = true,
                header::CONNECTION => seen.connection = true,
                header::CONTENT_TYPE => seen.content_type = true,
                header::COOKIE => {
                    seen.parted_cookies = has_cookie;
                    has_cookie = true;
                }
                header::EXPECT => seen.expect = true,
                header::TE => seen.te = true,
                header::TRANSFER_ENCODING => seen.transfer_encoding = true,
                header::UPGRADE => seen.upgrade = true,
                _ => match name.as_str() {
                    "x-forwarded-for" => seen.forwarded_for = true,
                    "x-forwarded-proto" => seen.forwarded_proto = true,
                    "x-request-id" => seen.request_id = true,
                    "proxy-connection" => seen.proxy_connection = true,
                    "keep-alive" | "http2-settings" => seen.old_hop_by_hop = true,
                    other => seen.envoy |= other.starts_with("x-envoy-"),
                },
            }
        }
        seen
    }
}
