//! `grpc.health.v1.Health/Check`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::PathAndQuery};

use super::{Answer, Broken, Connection, Target, http2::Ask};
use crate::{
    config::health_check::GrpcCheck,
    upstream::health::{message, session::Verdict},
};

/// A health response is a few bytes.
const LARGEST_MESSAGE: usize = 1024;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// In milliseconds, or in the finest unit that eight digits hold.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    const LARGEST: u128 = 99_999_999;
    let seconds = u128::from(timeout.as_secs());
    let units = [
        (timeout.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
        (seconds / 3600, 'H'),
    ];
    let (count, unit) = units
        .into_iter()
        .find(|(count, _)| *count <= LARGEST)
        .unwrap_or((LARGEST, 'H'));
    HeaderValue::try_from(format!("{count}{unit}")).unwrap_or(HeaderValue::from_static("99999999H"))
}

pub(super) async fn check(
    check: &GrpcCheck,
    timeout: Duration,
    to: &Target,
    kept: Connection,
) -> Result<(Verdict, Connection), Broken> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(&GRPC_TIMEOUT, grpc_timeout(timeout));
    let ask = Ask {
        method: &Method::POST,
        path: &PathAndQuery::from_static("/grpc.health.v1.Health/Check"),
        headers,
        changes: &check.metadata,
        body: message::request(&check.service_name),
        wanted: LARGEST_MESSAGE,
    };
    let (answer, connection) = ask.send(to, kept).await?;
    let verdict = match is_serving(&answer) {
        true => Verdict::Passed { is_degraded: false },
        false => Verdict::Failed {
            is_retriable: false,
            status: 0,
            is_excluded: false,
        },
    };
    Ok((verdict, connection))
}

fn is_serving(answer: &Answer) -> bool {
    // Nobody else's `grpc-status` counts.
    let is_grpc = answer
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| is_grpc(kind.as_bytes()));
    let status = answer.trailers.as_ref().unwrap_or(&answer.headers);
    let is_ok = status
        .get("grpc-status")
        .is_some_and(|status| status == "0");
    answer.status == StatusCode::OK
        && is_grpc
        && is_ok
        && message::status(&answer.body) == Some(message::SERVING)
}

/// `application/grpc`, or that with a format.
fn is_grpc(kind: &[u8]) -> bool {
    kind.strip_prefix(b"application/grpc")
        .is_some_and(|format| format.is_empty() || format.starts_with(b"+"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn answer(kind: &'static str, body: &'static [u8], status: &'static str) -> Answer {
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
        let trailers = [(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from_static(status),
        )];
        Answer {
            status: StatusCode::OK,
            headers: headers.into_iter().collect(),
            body: Bytes::from_static(body),
            trailers: Some(trailers.into_iter().collect()),
        }
    }

    #[test]
    fn only_a_whole_answer_that_says_so_is_serving() {
        let serving = b"\0\0\0\0\x02\x08\x01";
        assert!(is_serving(&answer("application/grpc", serving, "0")));
        assert!(is_serving(&answer("application/grpc+proto", serving, "0")));
        assert!(!is_serving(&answer("application/grpcx", serving, "0")));
        assert!(!is_serving(&answer("text/plain", serving, "0")));
        assert!(!is_serving(&answer("application/grpc", serving, "5")));
        let not_serving = b"\0\0\0\0\x02\x08\x02";
        assert!(!is_serving(&answer("application/grpc", not_serving, "0")));
        let compressed = b"\x01\0\0\0\x02\x08\x01";
        assert!(!is_serving(&answer("application/grpc", compressed, "0")));
        let short = b"\0\0\0\0\x03\x08\x01";
        assert!(!is_serving(&answer("application/grpc", short, "0")));
        assert!(!is_serving(&answer("application/grpc", b"", "0")));
        let mut other = answer("application/grpc", serving, "0");
        other.status = StatusCode::NO_CONTENT;
        assert!(!is_serving(&other));
    }

    #[test]
    fn timeouts_take_the_finest_unit_that_fits() {
        assert_eq!(grpc_timeout(Duration::from_millis(1500)), "1500m");
        assert_eq!(grpc_timeout(Duration::from_secs(200_000)), "200000S");
        assert_eq!(grpc_timeout(Duration::MAX), "99999999H");
    }
}
