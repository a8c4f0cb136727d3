//! Whether a request is traced, as Envoy's connection manager decides: by client, by force, at random;
//! remembered in `x-request-id`.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::REQUEST_ID;
use crate::{
    config::tracing::{RouteTracing, Tracing},
    telemetry::stats::{Counter, Scope},
};

static CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
static FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// Where a UUID's version stands; Envoy keeps the reason there.
const REASON_AT: usize = 14;

/// Why a request is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not.
    NotTraceable,
    /// It was drawn.
    Sampling,
    /// The client asked (`x-client-trace-id`).
    ClientForced,
    /// A service asked (`x-envoy-force-trace`).
    ServiceForced,
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the span is exported, unless the caller decided.
    pub sampled: bool,
    /// Why.
    pub reason: Reason,
}

#[derive(Debug)]
pub(super) struct Stats {
    random_sampling: Counter,
    service_forced: Counter,
    client_enabled: Counter,
    not_traceable: Counter,
}

impl Stats {
    pub(super) fn new(scope: &Scope) -> Self {
        let scope = scope.scope("tracing");
        Self {
            random_sampling: scope.counter("random_sampling"),
            service_forced: scope.counter("service_forced"),
            client_enabled: scope.counter("client_enabled"),
            not_traceable: scope.counter("not_traceable"),
        }
    }

    pub(super) fn count(&self, reason: Reason) {
        match reason {
            Reason::NotTraceable => self.not_traceable.inc(),
            Reason::Sampling => self.random_sampling.inc(),
            Reason::ClientForced => self.client_enabled.inc(),
            Reason::ServiceForced => self.service_forced.inc(),
        }
    }
}

impl Reason {
    fn from_request_id(id: &[u8]) -> Self {
        match id.get(REASON_AT) {
            Some(b'9') => Self::Sampling,
            Some(b'a') => Self::ServiceForced,
            Some(b'b') => Self::ClientForced,
            _ => Self::NotTraceable,
        }
    }

    fn mark(self) -> u8 {
        match self {
            Self::NotTraceable => b'4',
            Self::Sampling => b'9',
            Self::ServiceForced => b'a',
            Self::ClientForced => b'b',
        }
    }
}

/// Decides. The request id, not a new draw, is compared with the percentages, so that all hops that
/// have the same percentage decide alike.
pub(super) fn decide(
    headers: &HeaderMap,
    config: &Tracing,
    route: Option<&RouteTracing>,
) -> Decision {
    let id = headers
        .get(&REQUEST_ID)
        .map(HeaderValue::as_bytes)
        .filter(|id| is_uuid(id));
    let draw = id
        .and_then(draw)
        .unwrap_or_else(|| rand::random::<u32>() % 10_000);
    let percent = |own: f64, of_route: fn(&RouteTracing) -> Option<f64>| {
        route.and_then(of_route).unwrap_or(own)
    };
    let mut reason = id.map_or(Reason::NotTraceable, Reason::from_request_id);
    if reason == Reason::NotTraceable {
        let client = percent(config.client_sampling, |route| route.client_sampling);
        let random = percent(config.random_sampling, |route| route.random_sampling);
        if headers.contains_key(&CLIENT_TRACE_ID)
            && is_within(rand::random::<u32>() % 10_000, client)
        {
            reason = Reason::ClientForced;
        } else if headers.contains_key(&FORCE_TRACE) {
            reason = Reason::ServiceForced;
        } else if is_within(draw, random) {
            reason = Reason::Sampling;
        }
    }
    let overall = percent(config.overall_sampling, |route| route.overall_sampling);
    if !is_within(draw, overall) {
        reason = Reason::NotTraceable;
    }
    Decision {
        sampled: reason != Reason::NotTraceable,
        reason,
    }
}

fn is_within(draw: u32, percent: f64) -> bool {
    f64::from(draw) < percent * 100.0
}

/// The first 32 bits of the UUID, in hundredths of a percent.
fn draw(id: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(id.get(..8)?).ok()?;
    Some(u32::from_str_radix(digits, 16).ok()? % 10_000)
}

fn is_uuid(id: &[u8]) -> bool {
    id.len() == 36
        && id.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Marks the reason in the request id, if that is a UUID.
pub(super) fn mark(headers: &mut HeaderMap, reason: Reason) {
    let Some(value) = headers.get_mut(&REQUEST_ID) else {
        return;
    };
    let id = value.as_bytes();
    if is_uuid(id) && id[REASON_AT] != reason.mark() {
        let mut id = id.to_vec();
        id[REASON_AT] = reason.mark();
        if let Ok(marked) = HeaderValue::from_maybe_shared(bytes::Bytes::from(id)) {
            *value = marked;
        }
    }
}
