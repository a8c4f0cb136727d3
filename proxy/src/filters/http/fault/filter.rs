//! The filter at work.

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, StatusCode, request::Parts};

use super::{Abort, Amount, Config, slow};
use crate::{
    config::fraction::Fraction,
    filters::http::{FilterBuild, FilterCx, Flow, HttpFilter, Kept, RouteBuild},
    http::{LocalReply, Response, StreamCx},
    router::matcher::{View, header_matches},
    telemetry::{
        stats::{Counter, Gauge, Scope},
        stream_info::ResponseFlags,
    },
};

static DOWNSTREAM_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");
static DOWNSTREAM_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-downstream-service-cluster");
static DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
static DELAY_PERCENTAGE: HeaderName =
    HeaderName::from_static("x-envoy-fault-delay-request-percentage");
static ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
static ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
static ABORT_PERCENTAGE: HeaderName =
    HeaderName::from_static("x-envoy-fault-abort-request-percentage");
static RATE: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response");
static RATE_PERCENTAGE: HeaderName =
    HeaderName::from_static("x-envoy-fault-throughput-response-percentage");

/// Callers that are counted by name; what comes from others is in the sums only.
const MAX_CALLERS: usize = 256;

/// The filter with its own faults.
#[derive(Debug)]
pub struct Filter {
    own: Arc<Config>,
    shared: Arc<Shared>,
}

/// The faults of a route, instead of the filter's.
#[derive(Debug)]
pub struct Route(Arc<Config>);

/// What streams take along.
#[derive(Debug)]
struct Shared {
    scope: Scope,
    aborts: Counter,
    delays: Counter,
    response_rates: Counter,
    overflow: Counter,
    active_gauge: Gauge,
    /// Faults of all workers.
    active: AtomicU64,
    /// Only taken while a fault is injected.
    callers: Mutex<HashMap<Box<str>, Arc<Caller>>>,
}

/// Statistics of one caller's faults.
#[derive(Debug)]
struct Caller {
    aborts: Counter,
    delays: Counter,
}

/// One stream that a fault was injected into.
#[derive(Debug)]
struct Active(Arc<Shared>);

impl Filter {
    /// With its statistics.
    #[must_use]
    pub fn new(config: &Arc<Config>, build: FilterBuild<'_>) -> Self {
        let scope = build.registry.scope(build.scope).scope("fault");
        Self {
            own: Arc::clone(config),
            shared: Arc::new(Shared {
                aborts: scope.counter("aborts_injected"),
                delays: scope.counter("delays_injected"),
                response_rates: scope.counter("response_rl_injected"),
                overflow: scope.counter("faults_overflow"),
                active_gauge: scope.gauge("active_faults"),
                active: AtomicU64::new(0),
                callers: Mutex::default(),
                scope,
            }),
        }
    }

    /// The stream's one permit, which counts against the limit once, whatever is injected.
    fn activate(&self, config: &Config, permit: &mut Option<Active>) -> bool {
        if permit.is_some() {
            return true;
        }
        let max = config.max_active_faults.map_or(u64::MAX, u64::from);
        if self.shared.active.load(Relaxed) >= max {
            self.shared.overflow.inc();
            return false;
        }
        self.shared.active.fetch_add(1, Relaxed);
        self.shared.active_gauge.inc();
        *permit = Some(Active(Arc::clone(&self.shared)));
        true
    }
}

impl Route {
    /// The faults.
    #[must_use]
    pub fn new(config: &Arc<Config>, _: RouteBuild<'_>) -> Self {
        Self(Arc::clone(config))
    }
}

impl Kept for Active {}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
        self.0.active_gauge.dec();
    }
}

impl Shared {
    /// The statistics of a caller, if it is to be counted.
    fn caller(&self, config: &Config, headers: &HeaderMap) -> Option<Arc<Caller>> {
        let value = headers.get(&DOWNSTREAM_CLUSTER)?;
        let name = value.to_str().ok().filter(|name| !name.is_empty())?;
        if !config.counts_by_cluster {
            return None;
        }
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = callers.get(name) {
            return Some(Arc::clone(caller));
        }
        if callers.len() >= MAX_CALLERS {
            return None;
        }
        let scope = self.scope.scope(name);
        let caller = Arc::new(Caller {
            aborts: scope.counter("aborts_injected"),
            delays: scope.counter("delays_injected"),
        });
        callers.insert(name.into(), Arc::clone(&caller));
        Some(caller)
    }
}

/// Whether a request is one that faults are meant for.
fn is_meant(config: &Config, head: &Parts, stream: &StreamCx) -> bool {
    if let Some(wanted) = &config.upstream_cluster
        && stream.info.cluster_name() != Some(wanted)
    {
        return false;
    }
    if !config.downstream_nodes.is_empty() {
        let node = head.headers.get(&DOWNSTREAM_NODE);
        if !node.is_some_and(|node| {
            config
                .downstream_nodes
                .iter()
                .any(|one| node == one.as_str())
        }) {
            return false;
        }
    }
    let view = View::new(head, &stream.scheme);
    config
        .headers
        .iter()
        .all(|matcher| header_matches(matcher, &view))
}

/// The number in a header.
fn number<T: FromStr>(headers: &HeaderMap, name: &HeaderName) -> Option<T> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Whether a fault strikes; a header can lower the percentage of what a header controls.
fn strikes(
    percentage: Fraction,
    by_header: Option<(&HeaderMap, &HeaderName)>,
    stream: &StreamCx,
) -> bool {
    let asked = by_header.and_then(|(headers, name)| number::<u32>(headers, name));
    let percentage = Fraction {
        numerator: asked.map_or(percentage.numerator, |asked| {
            asked.min(percentage.numerator)
        }),
        ..percentage
    };
    percentage.numerator > 0 && percentage.contains(stream.worker().random())
}

/// How long the request is to wait.
fn delay_of(config: &Config, head: &Parts, stream: &StreamCx) -> Option<Duration> {
    let (delay, percentage) = config.delay.as_ref()?;
    let (delay, by_header) = match delay {
        Amount::Fixed(delay) => (*delay, None),
        Amount::Header => (
            Duration::from_millis(number(&head.headers, &DELAY)?),
            Some((&head.headers, &DELAY_PERCENTAGE)),
        ),
    };
    (strikes(*percentage, by_header, stream) && !delay.is_zero()).then_some(delay)
}

/// How the request is to be answered: the status, and that of gRPC where it was given.
fn abort_of(config: &Config, head: &Parts, stream: &StreamCx) -> Option<(StatusCode, Option<u16>)> {
    let (abort, percentage) = config.abort.as_ref()?;
    let (answer, by_header) = match abort {
        Abort::Http(status) => ((*status, None), None),
        Abort::Grpc(code) => ((StatusCode::OK, Some(*code)), None),
        Abort::Header => {
            let status = number::<u16>(&head.headers, &ABORT)
                .filter(|status| (200..600).contains(status))
                .and_then(|status| StatusCode::from_u16(status).ok());
            let answer = match status {
                Some(status) => (status, None),
                None => (StatusCode::OK, Some(number(&head.headers, &ABORT_GRPC)?)),
            };
            (answer, Some((&head.headers, &ABORT_PERCENTAGE)))
        }
    };
    strikes(*percentage, by_header, stream).then_some(answer)
}

/// KiB per second of the response's body.
fn rate_of(config: &Config, head: &Parts, stream: &StreamCx) -> Option<u64> {
    let (rate, percentage) = config.response_rate.as_ref()?;
    let (rate, by_header) = match rate {
        Amount::Fixed(rate) => (*rate, None),
        Amount::Header => (
            number(&head.headers, &RATE)?,
            Some((&head.headers, &RATE_PERCENTAGE)),
        ),
    };
    (rate > 0 && strikes(*percentage, by_header, stream)).then_some(rate)
}

impl HttpFilter for Filter {
    /// KiB per second of the response's body.
    type State = Option<u64>;
    type Route = Route;

    fn request_headers(&self, head: &mut Parts, cx: &mut FilterCx<'_, Self>) -> Flow {
        let config: &Config = cx.route().map_or(&self.own, |Route(config)| config);
        if config.delay.is_none() && config.abort.is_none() && config.response_rate.is_none() {
            return Flow::Continue;
        }
        if !is_meant(config, head, cx.stream) {
            return Flow::Continue;
        }
        let mut permit = None;
        if let Some(rate) = rate_of(config, head, cx.stream)
            && self.activate(config, &mut permit)
        {
            self.shared.response_rates.inc();
            *cx.state = Some(rate);
        }
        let abort = abort_of(config, head, cx.stream);
        let delay =
            delay_of(config, head, cx.stream).filter(|_| self.activate(config, &mut permit));
        let abort = abort.filter(|_| self.activate(config, &mut permit));
        // A delay alone is over once the request goes on.
        if (abort.is_some() || cx.state.is_some())
            && let Some(permit) = permit.take()
        {
            cx.stream.keep(Box::new(permit));
        }
        if delay.is_none() && abort.is_none() {
            return Flow::Continue;
        }
        let caller = self.shared.caller(config, &head.headers);
        let reply = abort.map(|answer| reply(config, answer, cx.stream));
        let shared = Arc::clone(&self.shared);
        let Some(delay) = delay else {
            return finish(reply, &shared, caller.as_deref());
        };
        self.shared.delays.inc();
        if let Some(caller) = &caller {
            caller.delays.inc();
        }
        cx.stream.info.flags.insert(ResponseFlags::DELAY_INJECTED);
        let mut timer = cx.stream.worker().timers.timer();
        let until = Instant::now() + delay;
        Flow::Wait(Box::pin(async move {
            timer.until(until).await;
            drop(permit);
            finish(reply, &shared, caller.as_deref())
        }))
    }

    fn response_headers(&self, response: &mut Response, cx: &mut FilterCx<'_, Self>) -> Flow {
        if let Some(rate) = cx.state.take() {
            let body = std::mem::take(response.body_mut());
            *response.body_mut() = slow::body(body, rate, cx.stream.worker().timers.timer());
        }
        Flow::Continue
    }
}

fn reply(
    config: &Config,
    (status, grpc_status): (StatusCode, Option<u16>),
    stream: &StreamCx,
) -> LocalReply {
    // A route's own name says less than the policy that asks for the fault.
    let origin = match (&config.origin, &stream.matched) {
        (Some(origin), _) => origin,
        (None, Some(matched)) => &*matched.route.origin,
        (None, None) => "no route",
    };
    let fault = match grpc_status {
        Some(code) => format!("fault abort grpc_status={code} ({origin})"),
        None => format!("fault abort http_status={} ({origin})", status.as_u16()),
    };
    let reply = LocalReply::new(status, config.body.clone(), "fault_filter_abort")
        .with_flags(ResponseFlags::FAULT_INJECTED)
        .with_reason(fault);
    match grpc_status {
        Some(code) => reply.with_grpc_status(code),
        None => reply,
    }
}

/// Ends the filter's part: with the answer, if there is one.
fn finish(reply: Option<LocalReply>, shared: &Shared, caller: Option<&Caller>) -> Flow {
    let Some(reply) = reply else {
        return Flow::Continue;
    };
    shared.aborts.inc();
    if let Some(caller) = caller {
        caller.aborts.inc();
    }
    Flow::Reply(reply)
}
