//! How long a request may take: the route's timeout, what headers say, the cluster's limit.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::matcher::is_grpc;
use crate::{config::route::Forward, upstream::pool::UploadState, worker::Timer};

static TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
static TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
static EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The time for the whole response, counted from the end of the request; none is no limit.
///
/// Headers that override the route's value are taken out, and the upstream is told what it has.
pub(super) fn route_timeout(route: &Forward, headers: &mut HeaderMap) -> Option<Duration> {
    let mut timeout = route.timeout;
    if let Some(value) = headers.remove(&TIMEOUT)
        && let Some(millis) = integer(&value)
    {
        timeout = Duration::from_millis(millis);
    }
    headers.remove(&TRY_TIMEOUT);
    let timeout = (!timeout.is_zero()).then_some(timeout);
    if let Some(timeout) = timeout {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        headers.insert(&EXPECTED, expected(millis));
    }
    timeout
}

/// The limit of a stream's life that a route sets: `max_stream_duration`, or what a `grpc-timeout`
/// header asks for within `grpc_timeout_header_max`.
#[must_use]
pub fn max_stream_duration(route: &Forward, headers: &HeaderMap) -> Option<Duration> {
    if let Some(max) = route.grpc_timeout_header_max
        && is_grpc(headers)
        && let Some(asked) = headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout)
    {
        let mut timeout = asked;
        if !max.is_zero() {
            timeout = timeout.min(max);
        }
        if let Some(offset) = route.grpc_timeout_header_offset
            && offset < timeout
        {
            timeout -= offset;
        }
        return Some(timeout);
    }
    route.max_stream_duration
}

/// The value of a `grpc-timeout` header: up to eight digits and a unit.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

fn integer(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.trim().parse().ok()
}

/// The header value of a number; Envoy's default timeout is not made anew for each request.
fn expected(millis: u64) -> HeaderValue {
    match millis {
        15_000 => HeaderValue::from_static("15000"),
        _ => HeaderValue::from(millis),
    }
}

/// The deadlines of one request, from its sending to the end of its response.
pub(super) struct Deadlines {
    timer: Timer,
    timeout: Option<Duration>,
    /// When `timeout` runs out; it starts at the end of the request.
    route: Option<Instant>,
    life: Option<Instant>,
    upload: Option<Rc<UploadState>>,
}

/// Which deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The route's timeout.
    Route,
    /// The cluster's `max_stream_duration`.
    Life,
}

impl Deadlines {
    /// `timeout` from the end of `upload` (from now on without one), `life` from now on.
    pub(super) fn new(
        timer: Timer,
        now: Instant,
        timeout: Option<Duration>,
        life: Option<Duration>,
        upload: Option<Rc<UploadState>>,
    ) -> Self {
        let route = match &upload {
            Some(_) => None,
            None => timeout.map(|timeout| now + timeout),
        };
        Self {
            timer,
            timeout,
            route,
            life: life.map(|life| now + life),
            upload,
        }
    }

    /// Ready when a deadline passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        if self.route.is_none()
            && let (Some(timeout), Some(upload)) = (self.timeout, &self.upload)
            && upload.poll_done(cx).is_ready()
        {
            self.route = Some(Instant::now() + timeout);
        }
        let (deadline, which) = match (self.route, self.life) {
            (None, None) => return Poll::Pending,
            (Some(route), Some(life)) if life < route => (life, Expired::Life),
            (Some(route), _) => (route, Expired::Route),
            (None, Some(life)) => (life, Expired::Life),
        };
        self.timer.poll_until(deadline, cx).map(|()| which)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route::{ClusterSpecifier, Priority};

    fn route() -> Forward {
        Forward {
            cluster: ClusterSpecifier::Cluster("c".into()),
            cluster_not_found_status: http::StatusCode::SERVICE_UNAVAILABLE,
            path_rewrite: None,
            host_rewrite: None,
            append_x_forwarded_host: false,
            timeout: Duration::from_secs(15),
            idle_timeout: None,
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            grpc_timeout_header_offset: None,
            priority: Priority::Default,
            hash_policy: Vec::new(),
            mirrors: std::sync::Arc::from([]),
        }
    }

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let value = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        all.iter().map(value).collect()
    }

    #[test]
    fn the_upstream_is_told_the_timeout() {
        let mut told = HeaderMap::new();
        assert_eq!(
            route_timeout(&route(), &mut told),
            Some(Duration::from_secs(15))
        );
        assert_eq!(told[&EXPECTED], "15000");

        let unlimited = Forward {
            timeout: Duration::ZERO,
            ..route()
        };
        let mut told = HeaderMap::new();
        assert_eq!(route_timeout(&unlimited, &mut told), None);
        assert!(told.is_empty());
    }

    #[test]
    fn a_header_overrides_the_timeout_and_goes_no_further() {
        let mut told = headers(&[
            ("x-envoy-upstream-rq-timeout-ms", "250"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "100"),
        ]);
        assert_eq!(
            route_timeout(&route(), &mut told),
            Some(Duration::from_millis(250))
        );
        assert_eq!(told[&EXPECTED], "250");
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn grpc_timeouts_count_within_their_maximum() {
        let grpc = |value| {
            headers(&[
                ("content-type", "application/grpc"),
                ("grpc-timeout", value),
            ])
        };
        let limited = Forward {
            grpc_timeout_header_max: Some(Duration::from_secs(2)),
            grpc_timeout_header_offset: Some(Duration::from_millis(10)),
            max_stream_duration: Some(Duration::from_secs(9)),
            ..route()
        };
        for (value, expected) in [
            ("1S", 990),
            ("500m", 490),
            ("1H", 1990),
            ("5m", 5),
            ("123456789S", 9000),
            ("1x", 9000),
        ] {
            assert_eq!(
                max_stream_duration(&limited, &grpc(value)),
                Some(Duration::from_millis(expected)),
                "{value}"
            );
        }
        assert_eq!(
            max_stream_duration(&limited, &HeaderMap::new()),
            limited.max_stream_duration
        );
    }
}
