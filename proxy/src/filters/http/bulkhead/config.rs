//! `outrigger.extensions.filters.http.bulkhead.v1alpha1`.

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use outrigger_proto::outrigger::extensions::filters::http::bulkhead::v1alpha1::{
    Bulkhead as Proto, BulkheadPerRoute, PriorityLanes, bulkhead, bulkhead_per_route,
};

use crate::{convert::Cx, filters::http::FilterConfig};

/// How many lanes a queue has.
pub(super) const LANES: usize = 8;

const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TRACKED_CALLERS: u32 = 1024;

/// Which requests count, as whose, and the limits that they share.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name in statistics; bulkheads of the same name are one.
    pub name: Arc<str>,
    /// Who is a caller.
    pub key: Key,
    /// Which lane a request waits in; none: the first.
    pub lanes: Option<Lanes>,
    /// Only requests to this cluster count.
    pub cluster: Option<Arc<str>>,
    /// What all of its name share.
    pub limits: Limits,
}

/// The limits of a bulkhead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The object that it was made from, else its name.
    pub origin: Arc<str>,
    /// Requests in progress.
    pub max_concurrent: u32,
    /// Requests that wait.
    pub max_queued: u32,
    /// How long one waits.
    pub queue_timeout: Duration,
    /// Requests in progress of one caller.
    pub max_concurrent_per_caller: Option<u32>,
    /// Callers that are told apart; 0 without a key.
    pub max_tracked_callers: u32,
}

/// Who is a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// All are one.
    All,
    /// By the first value of a header.
    Header(HeaderName),
    /// By the address of the client, after `x-forwarded-for` was taken into account.
    SourceAddress,
}

/// Lanes by the first value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lanes {
    header: HeaderName,
    /// Sorted by value.
    by_value: Box<[(Box<[u8]>, u8)]>,
    default: u8,
}

impl Lanes {
    /// The lane of a request.
    #[must_use]
    pub fn of(&self, headers: &http::HeaderMap) -> u8 {
        let lane = headers.get(&self.header).and_then(|value| {
            let found = self
                .by_value
                .binary_search_by(|(known, _)| (**known).cmp(value.as_bytes()));
            self.by_value.get(found.ok()?)
        });
        lane.map_or(self.default, |(_, lane)| *lane)
    }
}

/// The override on a virtual host, a route or a weighted cluster.
#[derive(Clone, Debug)]
pub enum RouteConfig {
    /// Requests pass.
    Disabled,
    /// This one instead of the filter's.
    Bulkhead(Config),
}

impl FilterConfig for Config {
    type Proto = Proto;
    type RouteProto = BulkheadPerRoute;
    type RouteConfig = RouteConfig;

    fn from_proto(cx: &Cx<'_>, proto: Proto) -> Option<Self> {
        config(cx, proto)
    }

    fn route_from_proto(cx: &Cx<'_>, proto: BulkheadPerRoute) -> Option<RouteConfig> {
        cx.converts::<BulkheadPerRoute>();
        let BulkheadPerRoute { r#override } = proto;
        match r#override {
            Some(bulkhead_per_route::Override::Disabled(_)) => Some(RouteConfig::Disabled),
            Some(bulkhead_per_route::Override::Bulkhead(proto)) => {
                config(&cx.field("bulkhead"), proto).map(RouteConfig::Bulkhead)
            }
            // The schema's rules have said so.
            None => None,
        }
    }
}

/// Ranges are the rules' of the schema; here is what lies between fields.
fn config(cx: &Cx<'_>, proto: Proto) -> Option<Config> {
    cx.converts::<Proto>();
    cx.refuses::<Proto>(&["caller_identity"]);
    let Proto {
        stat_prefix,
        origin,
        max_concurrent,
        max_queued,
        queue_timeout,
        max_concurrent_per_caller,
        max_tracked_callers,
        priority,
        cluster,
        key,
    } = proto;
    let key = match key {
        None => Some(Key::All),
        Some(bulkhead::Key::CallerHeader(name)) => cx
            .field("caller_header")
            .header_name(&name)
            .map(Key::Header),
        Some(bulkhead::Key::CallerSourceAddress(_)) => Some(Key::SourceAddress),
        Some(bulkhead::Key::CallerIdentity(_)) => {
            cx.field("caller_identity")
                .error("not supported: there is no TLS yet that tells a peer's identity");
            None
        }
    };
    if key == Some(Key::All) {
        let needs_key = [
            ("max_concurrent_per_caller", max_concurrent_per_caller),
            ("max_tracked_callers", max_tracked_callers),
        ];
        for (field, _) in needs_key.iter().filter(|(_, value)| *value != 0) {
            cx.field(field)
                .error("needs to know callers: set caller_header or caller_source_address");
        }
    }
    if max_queued == 0 && queue_timeout.is_some() {
        cx.field("queue_timeout")
            .error("has no effect without max_queued");
    }
    let queue_timeout = cx.duration_or("queue_timeout", queue_timeout, QUEUE_TIMEOUT);
    let lanes = priority.map(|proto| lanes(&cx.field("priority"), proto));
    let lanes = match lanes {
        Some(lanes) => Some(lanes?),
        None => None,
    };
    let key = key?;
    Some(Config {
        limits: Limits {
            origin: if origin.is_empty() {
                stat_prefix.as_str().into()
            } else {
                origin.into()
            },
            max_concurrent,
            max_queued,
            queue_timeout,
            max_concurrent_per_caller: (max_concurrent_per_caller != 0)
                .then_some(max_concurrent_per_caller),
            max_tracked_callers: match (&key, max_tracked_callers) {
                (Key::All, _) => 0,
                (_, 0) => MAX_TRACKED_CALLERS,
                (_, max) => max,
            },
        },
        name: stat_prefix.into(),
        key,
        lanes,
        cluster: (!cluster.is_empty()).then(|| cluster.into()),
    })
}

fn lanes(cx: &Cx<'_>, proto: PriorityLanes) -> Option<Lanes> {
    cx.converts::<PriorityLanes>();
    let PriorityLanes {
        header,
        lanes,
        default_lane,
    } = proto;
    let lane = |cx: Cx<'_>, lane: u32| match u8::try_from(lane) {
        Ok(lane) if usize::from(lane) < LANES => Some(lane),
        _ => {
            cx.error(format!("value must be less than {LANES}"));
            None
        }
    };
    let at = cx.field("lanes");
    // A map of this type is in order already, which is the order of bytes.
    let by_value: Option<Vec<_>> = lanes
        .into_iter()
        .map(|(value, number)| {
            Some((
                value.clone().into_bytes().into(),
                lane(at.key(&value), number)?,
            ))
        })
        .collect();
    Some(Lanes {
        header: cx.field("header").header_name(&header)?,
        by_value: by_value?.into(),
        default: lane(cx.field("default_lane"), default_lane)?,
    })
}
