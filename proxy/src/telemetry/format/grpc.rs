//! gRPC status of a stream.

use http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};

use super::Context;
use crate::config::format::GrpcStatusFormat;

/// `grpc-status`.
pub(super) static STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Camel-case and snake-case names by number.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The status of a gRPC request: from trailers, headers, or the HTTP status where the upstream gave
/// none.
pub(crate) fn status(cx: &Context<'_>) -> Option<u64> {
    let request = cx.request?;
    let content_type = request.headers.get(CONTENT_TYPE)?.as_bytes();
    let rest = content_type.strip_prefix(b"application/grpc")?;
    if !matches!(rest.first(), None | Some(b'+' | b';')) {
        return None;
    }
    let number = |value: &HeaderValue| value.to_str().ok()?.trim().parse().ok();
    let sent = |headers: Option<&http::HeaderMap>| headers?.get(&STATUS).and_then(number);
    sent(cx.trailers)
        .or_else(|| sent(cx.response))
        .or_else(|| cx.info.response_code.map(from_http))
}

/// The mapping of gRPC's HTTP specification.
fn from_http(status: StatusCode) -> u64 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Appends the status; false if the stream has none.
pub(super) fn write(cx: &Context<'_>, format: GrpcStatusFormat, out: &mut Vec<u8>) -> bool {
    let Some(status) = status(cx) else {
        return false;
    };
    let names = usize::try_from(status)
        .ok()
        .and_then(|index| NAMES.get(index));
    let name = match (format, names) {
        (GrpcStatusFormat::CamelCase, Some((camel, _))) => camel,
        (GrpcStatusFormat::SnakeCase, Some((_, snake))) => snake,
        (GrpcStatusFormat::Number, _) | (_, None) => {
            out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
            return true;
        }
    };
    out.extend_from_slice(name.as_bytes());
    true
}
