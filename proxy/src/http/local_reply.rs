//! The only place that makes a response ourselves.

use std::{
    borrow::Cow,
    fmt,
    ops::{Deref, DerefMut},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use smallvec::SmallVec;

use super::{Body, Response};
use crate::telemetry::stream_info::ResponseFlags;

/// An answer of the proxy itself; every one says why. One word wide, so that the request path, which
/// hands it up as an error, does not carry it along.
pub struct LocalReply(Box<Reply>);

/// What a [`LocalReply`] holds.
pub struct Reply {
    /// Status for HTTP; for gRPC it is mapped.
    pub status: StatusCode,
    /// Text; may be empty.
    pub body: Bytes,
    /// More headers (`location`, `x-envoy-overloaded` …).
    pub headers: SmallVec<[(HeaderName, HeaderValue); 1]>,
    /// Envoy's response flags.
    pub flags: ResponseFlags,
    /// `grpc-status` for gRPC, where the status does not say it.
    pub grpc_status: Option<u16>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// A response that a filter made whole: neither mapped for gRPC nor changed by the route.
    pub is_whole: bool,
    /// The route itself says so: its header changes apply, also where it leads to no cluster.
    pub is_of_route: bool,
    /// `x-outrigger-reason`: object, rule and limit; none for plain answers such as redirects.
    pub reason: Option<Box<str>>,
}

impl LocalReply {
    /// A reply without flags, headers and reason.
    #[must_use]
    pub fn new(
        status: StatusCode,
        body: impl Into<Bytes>,
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Reply {
            status,
            body: body.into(),
            headers: SmallVec::new(),
            flags: ResponseFlags::default(),
            grpc_status: None,
            details: details.into(),
            is_whole: false,
            is_of_route: false,
            reason: None,
        }))
    }

    /// With these response flags.
    #[must_use]
    pub fn with_flags(mut self, flags: ResponseFlags) -> Self {
        self.flags = flags;
        self
    }

    /// With this `grpc-status` for gRPC.
    #[must_use]
    pub fn with_grpc_status(mut self, status: u16) -> Self {
        self.grpc_status = Some(status);
        self
    }

    /// A whole response: neither mapped for gRPC nor changed by the route.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.is_whole = true;
        self
    }

    /// The route's own answer.
    #[must_use]
    pub fn of_route(mut self) -> Self {
        self.is_of_route = true;
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With a text for `x-outrigger-reason`.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Box<str>>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl Deref for LocalReply {
    type Target = Reply;

    fn deref(&self) -> &Reply {
        &self.0
    }
}

impl DerefMut for LocalReply {
    fn deref_mut(&mut self) -> &mut Reply {
        &mut self.0
    }
}

impl fmt::Debug for LocalReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalReply")
            .field("status", &self.status)
            .field("details", &self.details)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// What a local reply is made for.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    /// The request was gRPC (`content-type: application/grpc…`).
    pub is_grpc: bool,
    /// Say why in `x-outrigger-reason`.
    pub shows_reason: bool,
}

/// Whether a request is gRPC.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// Makes the response; `reply`'s flags, details and reason are for the stream's record.
#[must_use]
pub fn into_response(reply: &mut LocalReply, to: ReplyTo) -> Response {
    let body = std::mem::take(&mut reply.body);
    let mut response = if to.is_grpc && !reply.is_whole {
        grpc_response(reply, &body)
    } else {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = reply.status;
        if !body.is_empty() {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            *response.body_mut() = Body::Full(body);
        }
        response
    };
    for (name, value) in std::mem::take(&mut reply.headers) {
        response.headers_mut().append(name, value);
    }
    if to.shows_reason
        && let Some(reason) = &reply.reason
        && let Ok(reason) = HeaderValue::from_str(reason)
    {
        response.headers_mut().insert(REASON, reason);
    }
    response
}

const REASON: HeaderName = HeaderName::from_static("x-outrigger-reason");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Trailers only: what gRPC clients understand of an HTTP status.
fn grpc_response(reply: &Reply, body: &[u8]) -> Response {
    let code = reply
        .grpc_status
        .unwrap_or_else(|| grpc_status(reply.status));
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    if !body.is_empty()
        && let Ok(message) = HeaderValue::try_from(escape(body))
    {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

/// `grpc-status` for an HTTP status, as in gRPC's own mapping.
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Percent-encoding of `grpc-message`.
fn escape(body: &[u8]) -> String {
    let mut out = String::with_capacity(body.len());
    for &byte in body {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_requests_get_trailers_only() {
        let mut reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no \u{fc}", "x");
        let response = into_response(
            &mut reply,
            ReplyTo {
                is_grpc: true,
                shows_reason: true,
            },
        );
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[GRPC_STATUS], "14");
        assert_eq!(response.headers()[GRPC_MESSAGE], "no %C3%BC");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let mut headers = HeaderMap::new();
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
    }

    #[test]
    fn the_reason_is_shown_where_wanted() {
        let reply = || LocalReply::new(StatusCode::NOT_FOUND, "gone", "x").with_reason("route a");
        let to = |shows_reason| ReplyTo {
            is_grpc: false,
            shows_reason,
        };
        let shown = into_response(&mut reply(), to(true));
        assert_eq!(shown.headers()[REASON], "route a");
        assert_eq!(shown.headers()[header::CONTENT_LENGTH], "4");
        assert!(
            !into_response(&mut reply(), to(false))
                .headers()
                .contains_key(REASON)
        );
    }
}
