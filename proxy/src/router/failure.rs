//! From a failed attempt to the answer that the client gets, with Envoy's status, text and flags.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};

use super::timeout::Expired;
use crate::{
    http::LocalReply,
    telemetry::stream_info::ResponseFlags,
    upstream::pool::{ConnectFailure, Failure},
};

static OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// What ended an attempt without a response.
#[derive(Debug)]
pub(super) enum Ended {
    /// In the pool or on the connection.
    Failed(Failure),
    /// A deadline passed.
    Expired(Expired),
}

/// The answer to a request without a response from upstream.
pub(super) fn reply(ended: &Ended, is_request_complete: bool) -> LocalReply {
    match ended {
        Ended::Expired(expired) => expired_reply(*expired, is_request_complete),
        Ended::Failed(failure) => failed_reply(failure),
    }
}

fn expired_reply(expired: Expired, is_request_complete: bool) -> LocalReply {
    match expired {
        Expired::Route => LocalReply::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream request timeout",
            expired_details(expired),
        ),
        Expired::Life => {
            let status = if is_request_complete {
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::REQUEST_TIMEOUT
            };
            LocalReply::new(
                status,
                "upstream max stream duration reached",
                expired_details(expired),
            )
        }
    }
    .with_flags(expired_flags(expired))
}

/// Response flags of a passed deadline.
pub(super) fn expired_flags(expired: Expired) -> ResponseFlags {
    match expired {
        Expired::Route => ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
        Expired::Life => ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED,
    }
}

/// `%RESPONSE_CODE_DETAILS%` of a passed deadline.
pub(super) fn expired_details(expired: Expired) -> &'static str {
    match expired {
        Expired::Route => "response_timeout",
        Expired::Life => "upstream_max_stream_duration_reached",
    }
}

fn failed_reply(failure: &Failure) -> LocalReply {
    let (reason, status) = match failure {
        Failure::Overflow(_) => ("overflow", StatusCode::SERVICE_UNAVAILABLE),
        Failure::Connect(ConnectFailure {
            is_timeout: true, ..
        }) => ("connection timeout", StatusCode::SERVICE_UNAVAILABLE),
        Failure::Connect(_) => ("remote connection failure", StatusCode::SERVICE_UNAVAILABLE),
        Failure::ConnectionTermination | Failure::Request => {
            ("connection termination", StatusCode::SERVICE_UNAVAILABLE)
        }
        Failure::RemoteReset => ("remote reset", StatusCode::SERVICE_UNAVAILABLE),
        Failure::RefusedStream => (
            "remote refused stream reset",
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        Failure::Protocol => ("protocol error", StatusCode::BAD_GATEWAY),
    };
    let body = format!(
        "upstream connect error or disconnect/reset before headers. reset reason: {reason}"
    );
    let mut details = format!("upstream_reset_before_response_started{{{reason}");
    if let Some(transport) = transport_failure(failure) {
        details = format!("{details}|{transport}");
    }
    details.push('}');
    let details = Cow::Owned(details.replace(' ', "_"));
    let reply = LocalReply::new(status, body, details).with_flags(failure_flags(failure));
    match failure {
        Failure::Overflow(_) => {
            reply.with_header(OVERLOADED.clone(), HeaderValue::from_static("true"))
        }
        _ => reply,
    }
}

/// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
pub(super) fn transport_failure(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Connect(failure) if !failure.is_timeout => {
            Some(format!("delayed connect error: {}", failure.reason))
        }
        _ => None,
    }
}

/// Response flags of a failed attempt.
pub(super) fn failure_flags(failure: &Failure) -> ResponseFlags {
    match failure {
        Failure::Overflow(_) => ResponseFlags::UPSTREAM_OVERFLOW,
        Failure::Connect(_) => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
        Failure::ConnectionTermination | Failure::Request => {
            ResponseFlags::UPSTREAM_CONNECTION_TERMINATION
        }
        Failure::RemoteReset | Failure::RefusedStream => ResponseFlags::UPSTREAM_REMOTE_RESET,
        Failure::Protocol => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
    }
}

/// `%RESPONSE_CODE_DETAILS%` when the response had begun.
pub(super) fn late_details(failure: &Failure) -> &'static str {
    match failure {
        Failure::Protocol => "upstream_reset_after_response_started{protocol_error}",
        Failure::RemoteReset | Failure::RefusedStream => {
            "upstream_reset_after_response_started{remote_reset}"
        }
        Failure::Overflow(_)
        | Failure::Connect(_)
        | Failure::ConnectionTermination
        | Failure::Request => "upstream_reset_after_response_started{connection_termination}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::pool::Limit;

    fn connect(is_timeout: bool) -> Failure {
        Failure::Connect(ConnectFailure {
            is_timeout,
            reason: "Connection refused".into(),
        })
    }

    #[test]
    fn failures_read_as_in_envoy() {
        let started = "upstream connect error or disconnect/reset before headers. reset reason: ";
        for (failure, status, text, details, flags) in [
            (
                connect(false),
                503,
                "remote connection failure",
                "remote_connection_failure|delayed_connect_error:_Connection_refused",
                "UF",
            ),
            (
                connect(true),
                503,
                "connection timeout",
                "connection_timeout",
                "UF",
            ),
            (
                Failure::Overflow(Limit::Pending),
                503,
                "overflow",
                "overflow",
                "UO",
            ),
            (
                Failure::ConnectionTermination,
                503,
                "connection termination",
                "connection_termination",
                "UC",
            ),
            (
                Failure::RemoteReset,
                503,
                "remote reset",
                "remote_reset",
                "UR",
            ),
            (
                Failure::RefusedStream,
                503,
                "remote refused stream reset",
                "remote_refused_stream_reset",
                "UR",
            ),
            (
                Failure::Protocol,
                502,
                "protocol error",
                "protocol_error",
                "UPE",
            ),
        ] {
            let is_overflow = matches!(failure, Failure::Overflow(_));
            let reply = reply(&Ended::Failed(failure), true);
            assert_eq!(reply.status, status);
            assert_eq!(reply.body, format!("{started}{text}"));
            assert_eq!(
                reply.details,
                format!("upstream_reset_before_response_started{{{details}}}")
            );
            assert_eq!(reply.flags.to_string(), flags);
            assert_eq!(!reply.headers.is_empty(), is_overflow);
        }
    }

    #[test]
    fn deadlines_read_as_in_envoy() {
        let timeout = reply(&Ended::Expired(Expired::Route), true);
        assert_eq!(timeout.status, 504);
        assert_eq!(timeout.body, "upstream request timeout");
        assert_eq!(timeout.details, "response_timeout");
        let life = |is_complete| reply(&Ended::Expired(Expired::Life), is_complete);
        assert_eq!(
            (life(true).status, life(false).status),
            (504.try_into().unwrap(), 408.try_into().unwrap())
        );
        assert_eq!(life(true).details, "upstream_max_stream_duration_reached");
    }
}
