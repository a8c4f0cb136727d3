//! From a failed attempt to the answer that the client gets, with Envoy's status, text and flags.

use std::{borrow::Cow, time::Duration};

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
    /// There are `max_connection_pools`: the host counts as none.
    NoPool,
}

/// What a reply says besides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) is_request_complete: bool,
    /// It was not the only try.
    pub(super) is_retried: bool,
    /// The client wants 204 rather than 504.
    pub(super) alt_response: bool,
    /// The route's timeout.
    pub(super) timeout: Option<Duration>,
}

/// The answer to a request without a response from upstream.
pub(super) fn reply(ended: &Ended, told: Told) -> LocalReply {
    match ended {
        Ended::Expired(expired) => expired_reply(*expired, told),
        Ended::Failed(failure) => failed_reply(failure, told.is_retried),
        Ended::NoPool => LocalReply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no healthy upstream",
            "no_healthy_upstream",
        )
        .with_flags(ResponseFlags::NO_HEALTHY_UPSTREAM),
    }
}

fn expired_reply(expired: Expired, told: Told) -> LocalReply {
    match expired {
        Expired::Route | Expired::PerTry | Expired::PerTryIdle => {
            let (status, text) = match told.alt_response {
                true => (StatusCode::NO_CONTENT, ""),
                false => (StatusCode::GATEWAY_TIMEOUT, "upstream request timeout"),
            };
            LocalReply::new(status, text, expired_details(expired))
        }
        Expired::Life => {
            let status = if told.is_request_complete {
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
        Expired::Route | Expired::PerTry | Expired::PerTryIdle => {
            ResponseFlags::UPSTREAM_REQUEST_TIMEOUT
        }
        Expired::Life => ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED,
    }
}

/// `%RESPONSE_CODE_DETAILS%` of a passed deadline.
pub(super) fn expired_details(expired: Expired) -> &'static str {
    match expired {
        Expired::Route => "response_timeout",
        Expired::PerTry => "upstream_per_try_timeout",
        Expired::PerTryIdle => "upstream_per_try_idle_timeout",
        Expired::Life => "upstream_max_stream_duration_reached",
    }
}

fn failed_reply(failure: &Failure, is_retried: bool) -> LocalReply {
    let (reason, status) = match failure {
        Failure::Overflow(_) => ("overflow", StatusCode::SERVICE_UNAVAILABLE),
        Failure::Connect(ConnectFailure {
            is_timeout: true, ..
        }) => ("connection timeout", StatusCode::SERVICE_UNAVAILABLE),
        Failure::Connect(ConnectFailure { is_local: true, .. }) => {
            ("local connection failure", StatusCode::SERVICE_UNAVAILABLE)
        }
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
    let retried = if is_retried {
        "retried and the latest "
    } else {
        ""
    };
    let body = format!(
        "upstream connect error or disconnect/reset before headers. {retried}reset reason: {reason}"
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
        Failure::Connect(failure) => failure.transport_failure(),
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
            is_local: false,
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
            let reply = reply(&Ended::Failed(failure), Told::default());
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
        let timeout = reply(&Ended::Expired(Expired::Route), Told::default());
        assert_eq!(timeout.status, 504);
        assert_eq!(timeout.body, "upstream request timeout");
        assert_eq!(timeout.details, "response_timeout");
        let life = |is_request_complete| {
            let told = Told {
                is_request_complete,
                ..Told::default()
            };
            reply(&Ended::Expired(Expired::Life), told)
        };
        assert_eq!(
            (life(true).status, life(false).status),
            (504.try_into().unwrap(), 408.try_into().unwrap())
        );
        assert_eq!(life(true).details, "upstream_max_stream_duration_reached");
    }
}
