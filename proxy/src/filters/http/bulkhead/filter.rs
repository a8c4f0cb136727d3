//! Lets requests into their bulkhead, and keeps their permits.

use std::sync::{Arc, OnceLock};

use http::{HeaderName, HeaderValue, StatusCode, request::Parts};

use super::{
    callers::Identity,
    config::{Config, Key, RouteConfig},
    registry::Bulkheads,
    shared::{Bulkhead, Entry, GaveUp, Permit},
};
use crate::{
    filters::http::{FilterBuild, FilterCx, Flow, HttpFilter, Kept, RouteBuild},
    http::LocalReply,
    telemetry::{stats::Registry, stream_info::ResponseFlags},
};

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// The filter of a connection manager.
#[derive(Debug)]
pub struct Filter(Door);

/// The run-time object of a per-route setting; none where it is disabled.
#[derive(Debug)]
pub struct Route(Option<Door>);

/// Which requests go into which bulkhead.
#[derive(Debug)]
struct Door {
    config: Arc<Config>,
    registry: Registry,
    bulkhead: OnceLock<Arc<Bulkhead>>,
}

impl Filter {
    /// Built when its listener is. The bulkhead of a disabled filter is made when a route enables it: it
    /// may be there only for routes that bring their own.
    #[must_use]
    pub fn new(config: &Arc<Config>, build: FilterBuild<'_>) -> Self {
        let door = Door::new(Arc::clone(config), build.registry);
        if !build.is_disabled {
            door.bulkhead();
        }
        Self(door)
    }
}

impl Route {
    /// Built when its route table is.
    #[must_use]
    pub fn new(config: &Arc<RouteConfig>, build: RouteBuild<'_>) -> Self {
        Self(match &**config {
            RouteConfig::Disabled => None,
            RouteConfig::Bulkhead(config) => {
                let door = Door::new(Arc::new(config.clone()), build.registry);
                door.bulkhead();
                Some(door)
            }
        })
    }
}

impl Door {
    fn new(config: Arc<Config>, registry: &Registry) -> Self {
        Self {
            config,
            registry: registry.clone(),
            bulkhead: OnceLock::new(),
        }
    }

    fn bulkhead(&self) -> &Arc<Bulkhead> {
        self.bulkhead.get_or_init(|| {
            let all = self.registry.companion::<Bulkheads>();
            all.get(&self.config, &self.registry)
        })
    }
}

impl Kept for Permit {}

impl HttpFilter for Filter {
    /// The permit of a request that did not have to wait.
    type State = Option<Permit>;
    type Route = Route;

    fn request_headers(&self, head: &mut Parts, cx: &mut FilterCx<'_, Self>) -> Flow {
        let door = match cx.route() {
            Some(Route(None)) => return Flow::Continue,
            Some(Route(Some(door))) => door,
            None => &self.0,
        };
        let config = &door.config;
        if let Some(wanted) = &config.cluster
            && cx.stream.info.cluster_name() != Some(wanted)
        {
            return Flow::Continue;
        }
        let who = match &config.key {
            Key::All => Identity::All,
            Key::Header(name) => {
                Identity::Text(head.headers.get(name).map_or(b"", HeaderValue::as_bytes))
            }
            Key::SourceAddress => Identity::Address(cx.stream.info.downstream_remote.ip()),
        };
        let lane = config
            .lanes
            .as_ref()
            .map_or(0, |lanes| lanes.of(&head.headers));
        let bulkhead = door.bulkhead();
        match bulkhead.enter(who, lane) {
            Entry::Admitted(permit) => {
                *cx.state = Some(permit);
                Flow::Continue
            }
            Entry::Refused => Flow::Reply(refusal(bulkhead, who, None)),
            Entry::Waits(waiting) => {
                let mut timer = cx.stream.worker().timers.timer();
                let bulkhead = Arc::clone(bulkhead);
                // Only who has to wait pays for these.
                let text = match who {
                    Identity::Text(bytes) => Some(Box::<[u8]>::from(bytes)),
                    Identity::All | Identity::Address(_) => None,
                };
                let address = cx.stream.info.downstream_remote.ip();
                let key = config.key.clone();
                Flow::Wait(Box::pin(async move {
                    let waited = match waiting.wait(&mut timer).await {
                        Ok(permit) => return Flow::Keep(Box::new(permit)),
                        Err(GaveUp::Displaced) => None,
                        Err(GaveUp::TimedOut(waited)) => Some(waited),
                    };
                    let who = match key {
                        Key::All => Identity::All,
                        Key::Header(_) => Identity::Text(text.as_deref().unwrap_or_default()),
                        Key::SourceAddress => Identity::Address(address),
                    };
                    Flow::Reply(refusal(&bulkhead, who, waited))
                }))
            }
        }
    }
}

fn refusal(
    bulkhead: &Bulkhead,
    who: Identity<'_>,
    waited: Option<std::time::Duration>,
) -> LocalReply {
    let (body, details) = match waited {
        None => ("bulkhead overflow", "bulkhead_overflow"),
        Some(_) => ("bulkhead queue timeout", "bulkhead_queue_timeout"),
    };
    LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, body, details)
        .with_flags(ResponseFlags::UPSTREAM_OVERFLOW)
        .with_header(OVERLOADED, HeaderValue::from_static("true"))
        .with_reason(bulkhead.reject(who, waited))
}
