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
static ALT_RESPONSE: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response");
static ALT_STAT_NAME: HeaderName = HeaderName::from_static("x-envoy-upstream-alt-stat-name");
static EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether a request has headers that steer the router: one look over all of them is cheaper than
/// asking for each.
pub(super) fn has_controls(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        name.as_str().strip_prefix("x-envoy-").is_some_and(|rest| {
            ["upstream-", "retr", "max-retries", "hedge-on-"]
                .iter()
                .any(|start| rest.starts_with(start))
        })
    })
}

/// How long a request may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// The whole response with all tries, counted from the end of the request; none is no limit.
    pub(super) global: Option<Duration>,
    /// Each try, from the end of the request or the connection, whichever is later.
    pub(super) per_try: Option<Duration>,
    /// The same without progress, until the response is complete.
    pub(super) per_try_idle: Option<Duration>,
    /// The client wants 204 rather than 504.
    pub(super) alt_response: bool,
    /// `grpc-timeout` says what is left too.
    pub(super) tells_grpc: bool,
}

impl Limits {
    /// The route's limits. Headers that override them are taken out (`has_controls`: there may be
    /// some).
    pub(super) fn of(route: &Forward, headers: &mut HeaderMap, has_controls: bool) -> Self {
        let mut timeout = route.timeout;
        let tells_grpc = route.max_grpc_timeout.is_some() && is_grpc(headers);
        if let Some(max) = route.max_grpc_timeout.filter(|_| tells_grpc) {
            let asked = headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout);
            timeout = within_offset(asked.unwrap_or_default(), route.grpc_timeout_offset);
            if !max.is_zero() && (timeout.is_zero() || timeout > max) {
                timeout = max;
            }
        }
        let policy = route.retry.as_deref();
        let mut per_try = policy.and_then(|policy| policy.per_try_timeout);
        let mut alt_response = false;
        if has_controls {
            if let Some(value) = headers.remove(&TIMEOUT)
                && let Some(millis) = integer(&value)
            {
                timeout = Duration::from_millis(millis);
            }
            if let Some(value) = headers.remove(&TRY_TIMEOUT)
                && let Some(millis) = integer(&value)
            {
                per_try = Some(Duration::from_millis(millis));
            }
            alt_response = headers.remove(&ALT_RESPONSE).is_some();
            // Envoy counts under this name too. It must not go on to the upstream there either.
            headers.remove(&ALT_STAT_NAME);
        }
        let global = (!timeout.is_zero()).then_some(timeout);
        Self {
            global,
            // One that is not shorter than the whole is none.
            per_try: per_try
                .filter(|try_| !try_.is_zero() && global.is_none_or(|global| *try_ < global)),
            per_try_idle: policy.and_then(|policy| policy.per_try_idle_timeout),
            alt_response,
            tells_grpc,
        }
    }

    /// Those of a request that is never complete: they begin at its end.
    pub(super) fn of_endless(&self) -> Self {
        Self {
            global: None,
            per_try: None,
            per_try_idle: None,
            ..self.clone()
        }
    }

    /// Tells the upstream how long it has, `elapsed` after the end of the request.
    pub(super) fn tell(&self, elapsed: Duration, headers: &mut HeaderMap) {
        let Some(mut expected) = self.per_try.or(self.global) else {
            return;
        };
        if let Some(global) = self.global {
            // Zero would be no limit.
            let left = global.saturating_sub(elapsed);
            expected = expected.min(left.max(Duration::from_millis(1)));
        }
        let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        headers.insert(&EXPECTED, expected_value(millis));
        if self.tells_grpc {
            headers.insert(&GRPC_TIMEOUT, grpc_timeout_value(millis));
        }
    }
}

/// A timeout less its offset, unless nothing would be left.
fn within_offset(timeout: Duration, offset: Option<Duration>) -> Duration {
    match offset {
        Some(offset) if offset < timeout => timeout - offset,
        _ => timeout,
    }
}

/// The value of `grpc-timeout`: at most eight digits, with a unit that makes them enough.
fn grpc_timeout_value(millis: u64) -> HeaderValue {
    const MOST: u64 = 99_999_999;
    let (mut value, mut unit) = (millis, 'm');
    for (step, next) in [(1000, 'S'), (60, 'M'), (60, 'H')] {
        if value > MOST {
            (value, unit) = (value / step, next);
        }
    }
    HeaderValue::try_from(format!("{}{unit}", value.min(MOST)))
        .unwrap_or_else(|_| HeaderValue::from_static("99999999H"))
}

/// The limit of a stream's life that a route sets: `max_stream_duration`, or what a `grpc-timeout`
/// header asks for within `grpc_timeout_header_max`.
#[must_use]
pub fn max_stream_duration(route: &Forward, headers: &mut HeaderMap) -> Option<Duration> {
    if let Some(max) = route.grpc_timeout_header_max
        && let Some(asked) = headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout)
    {
        let timeout = match max.is_zero() {
            true => asked,
            false => asked.min(max),
        };
        let timeout = within_offset(timeout, route.grpc_timeout_header_offset);
        // The upstream is told what is left of it.
        if timeout != asked && is_grpc(headers) {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            headers.insert(&GRPC_TIMEOUT, grpc_timeout_value(millis));
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
fn expected_value(millis: u64) -> HeaderValue {
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
    max_life: Option<Duration>,
    /// When this try must be over.
    life: Option<Instant>,
    /// The request's body on its way in this try, until its end was seen.
    upload: Option<Rc<UploadState>>,
    per_try: Option<Box<PerTry>>,
}

/// The limits of each try.
struct PerTry {
    timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    is_connected: bool,
    deadline: Option<Instant>,
    idle: Option<Instant>,
}

/// Which deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The route's timeout.
    Route,
    /// The cluster's `max_stream_duration`.
    Life,
    /// `per_try_timeout`.
    PerTry,
    /// `per_try_idle_timeout`.
    PerTryIdle,
}

impl Deadlines {
    /// Within `limits`; `life` is the cluster's `max_stream_duration`, which each try has.
    pub(super) fn new(timer: Timer, limits: &Limits, life: Option<Duration>) -> Self {
        let per_try = (limits.per_try.is_some() || limits.per_try_idle.is_some()).then(|| {
            Box::new(PerTry {
                timeout: limits.per_try,
                idle_timeout: limits.per_try_idle,
                is_connected: false,
                deadline: None,
                idle: None,
            })
        });
        Self {
            timer,
            timeout: limits.global,
            route: None,
            max_life: life,
            life: None,
            upload: None,
            per_try,
        }
    }

    /// A try begins. The request's end is that of `upload`, if it was not seen before; without one it
    /// is now.
    pub(super) fn begin_try(&mut self, now: Instant, upload: Option<Rc<UploadState>>) {
        self.upload = upload;
        if self.upload.is_none() {
            self.complete_request(now);
        }
    }

    /// The try has its connection.
    pub(super) fn connected(&mut self, now: Instant) {
        self.life = self.max_life.map(|life| now + life);
        if let Some(per_try) = &mut self.per_try {
            per_try.is_connected = true;
            if self.upload.is_none() {
                per_try.arm(now);
            }
        }
    }

    /// The response goes to the client: the try counts no more.
    pub(super) fn respond(&mut self) {
        if let Some(per_try) = &mut self.per_try {
            per_try.deadline = None;
        }
    }

    /// When the response must be complete, whatever its reader does.
    pub(super) fn response(&self) -> Option<(Instant, Expired)> {
        let route = self.route.map(|at| (at, Expired::Route));
        let life = self.life.map(|at| (at, Expired::Life));
        [route, life]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// When the cluster's `max_stream_duration` is over.
    pub(super) fn life(&self) -> Option<Instant> {
        self.life
    }

    /// Something of the response came.
    pub(super) fn touch(&mut self) {
        if let Some(per_try) = &mut self.per_try
            && per_try.idle.is_some()
        {
            per_try.idle = per_try.idle_timeout.map(|idle| Instant::now() + idle);
        }
    }

    /// The try is over, for another one.
    pub(super) fn end_try(&mut self) {
        self.life = None;
        self.upload = None;
        if let Some(per_try) = &mut self.per_try {
            per_try.is_connected = false;
            per_try.deadline = None;
            per_try.idle = None;
        }
    }

    fn complete_request(&mut self, now: Instant) {
        if self.route.is_none() {
            self.route = self.timeout.map(|timeout| now + timeout);
        }
        if let Some(per_try) = &mut self.per_try
            && per_try.is_connected
        {
            per_try.arm(now);
        }
    }

    /// Ready when a deadline passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        if let Some(upload) = &self.upload
            && (self.timeout.is_some() || self.per_try.is_some())
            && upload.poll_done(cx).is_ready()
        {
            self.upload = None;
            self.complete_request(Instant::now());
        }
        let per_try = self.per_try.as_ref();
        let all = [
            (self.route, Expired::Route),
            (self.life, Expired::Life),
            (per_try.and_then(|try_| try_.deadline), Expired::PerTry),
            (per_try.and_then(|try_| try_.idle), Expired::PerTryIdle),
        ];
        let next = all
            .into_iter()
            .filter_map(|(deadline, which)| deadline.map(|deadline| (deadline, which)))
            .min_by_key(|(deadline, _)| *deadline);
        match next {
            Some((deadline, which)) => self.timer.poll_until(deadline, cx).map(|()| which),
            None => Poll::Pending,
        }
    }
}

impl PerTry {
    fn arm(&mut self, now: Instant) {
        self.deadline = self.timeout.map(|timeout| now + timeout);
        self.idle = self.idle_timeout.map(|timeout| now + timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        retry::BufferLimit,
        route::{ClusterSpecifier, Priority},
    };

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
            retry: None,
            buffer_limit: BufferLimit::Connection,
            max_grpc_timeout: None,
            grpc_timeout_offset: None,
            upgrades: Vec::new(),
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

    fn limits(route: &Forward, headers: &mut HeaderMap) -> Limits {
        let has_controls = has_controls(headers);
        let limits = Limits::of(route, headers, has_controls);
        limits.tell(Duration::ZERO, headers);
        limits
    }

    #[test]
    fn the_upstream_is_told_the_timeout() {
        let mut told = HeaderMap::new();
        let global = Some(Duration::from_secs(15));
        assert_eq!(limits(&route(), &mut told).global, global);
        assert_eq!(told[&EXPECTED], "15000");

        let unlimited = Forward {
            timeout: Duration::ZERO,
            ..route()
        };
        let mut told = HeaderMap::new();
        assert_eq!(limits(&unlimited, &mut told).global, None);
        assert!(told.is_empty());
    }

    #[test]
    fn headers_override_the_timeouts_and_go_no_further() {
        let mut told = headers(&[
            ("x-envoy-upstream-rq-timeout-ms", "250"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "100"),
        ]);
        let limits = limits(&route(), &mut told);
        assert_eq!(limits.global, Some(Duration::from_millis(250)));
        assert_eq!(limits.per_try, Some(Duration::from_millis(100)));
        assert_eq!(told[&EXPECTED], "100");
        assert_eq!(told.len(), 1);
        limits.tell(Duration::from_millis(200), &mut told);
        assert_eq!(told[&EXPECTED], "50");
        limits.tell(Duration::from_millis(400), &mut told);
        assert_eq!(told[&EXPECTED], "1");
    }

    #[test]
    fn a_try_of_the_whole_time_is_none() {
        let mut told = headers(&[("x-envoy-upstream-rq-per-try-timeout-ms", "15000")]);
        assert_eq!(limits(&route(), &mut told).per_try, None);
        assert_eq!(told[&EXPECTED], "15000");
    }

    #[test]
    fn grpc_timeouts_are_told_in_eight_digits() {
        for (millis, text) in [
            (0, "0m"),
            (1500, "1500m"),
            (100_000_000, "100000S"),
            (u64::MAX, "99999999H"),
        ] {
            assert_eq!(grpc_timeout_value(millis), text);
        }
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
                max_stream_duration(&limited, &mut grpc(value)),
                Some(Duration::from_millis(expected)),
                "{value}"
            );
        }
        assert_eq!(
            max_stream_duration(&limited, &mut HeaderMap::new()),
            limited.max_stream_duration
        );
    }
}
