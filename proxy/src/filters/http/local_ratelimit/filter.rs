//! The filter at work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER, request::Parts};

use super::{Config, RouteConfig, TokenBucket};
use crate::{
    filters::http::{FilterBuild, FilterCx, Flow, HttpFilter, RouteBuild},
    http::{LocalReply, Response, StreamCx},
    router::{Level, Mutations},
    telemetry::{
        format::{self, Context, Missing, RequestHead},
        stats::{Counter, Registry},
        stream_info::ResponseFlags,
    },
};

static LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RESOURCE_EXHAUSTED: u16 = 8;
const UNAVAILABLE: u16 = 14;

/// Numbers the objects, so that connections tell their buckets apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The filter with its own limit.
#[derive(Debug)]
pub struct Filter(Route);

/// One limit: the filter's, or a route's instead of it.
#[derive(Debug)]
pub struct Route {
    id: u64,
    config: Arc<Config>,
    /// Shared by all workers; none if there is no limit, or each connection has its own.
    bucket: Option<Arc<TokenBucket>>,
    request_headers: Level,
    response_headers: Level,
    enabled: Counter,
    enforced: Counter,
    ok: Counter,
    rate_limited: Counter,
}

impl Filter {
    /// With a full bucket.
    #[must_use]
    pub fn new(config: &Arc<Config>, build: FilterBuild<'_>) -> Self {
        Self(Route::build(config, build.registry))
    }
}

impl Route {
    /// With a full bucket.
    #[must_use]
    pub fn new(config: &Arc<RouteConfig>, build: RouteBuild<'_>) -> Self {
        Self::build(config, build.registry)
    }

    fn build(config: &Arc<Config>, registry: &Registry) -> Self {
        let scope = registry.scope(&format!("{}.http_local_rate_limit", config.stat_prefix));
        let bucket = config.bucket.filter(|_| !config.is_per_connection);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            bucket: bucket.map(|bucket| Arc::new(TokenBucket::new(bucket))),
            request_headers: Mutations::compile(&config.request_headers),
            response_headers: Mutations::compile(&config.response_headers),
            enabled: scope.counter("enabled"),
            enforced: scope.counter("enforced"),
            ok: scope.counter("ok"),
            rate_limited: scope.counter("rate_limited"),
            config: Arc::clone(config),
        }
    }

    /// The bucket of a connection.
    fn connection_bucket(&self, stream: &StreamCx) -> Option<Arc<TokenBucket>> {
        let config = self
            .config
            .bucket
            .filter(|_| self.config.is_per_connection)?;
        let mut buckets = stream.connection.buckets.borrow_mut();
        if let Some((_, bucket)) = buckets.iter().find(|(id, _)| *id == self.id) {
            return Some(Arc::clone(bucket));
        }
        let bucket = Arc::new(TokenBucket::new(config));
        buckets.push((self.id, Arc::clone(&bucket)));
        Some(bucket)
    }

    fn reply(&self, bucket: &TokenBucket, stream: &StreamCx, head: &Parts) -> LocalReply {
        let config = &*self.config;
        let code = match config.is_resource_exhausted {
            true => RESOURCE_EXHAUSTED,
            false => UNAVAILABLE,
        };
        let mut headers = HeaderMap::new();
        if config.sends_retry_after
            && config.status == StatusCode::TOO_MANY_REQUESTS
            && bucket.max() > 0
        {
            let seconds = whole_seconds(bucket.next_token()).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // What is configured replaces what we would say.
        if let Some(mutations) = &self.response_headers {
            let mut own = HeaderMap::new();
            change(
                mutations,
                &mut own,
                stream,
                Some(RequestHead::new(head, &stream.scheme)),
            );
            if own.contains_key(RETRY_AFTER) {
                headers.remove(RETRY_AFTER);
            }
            headers.extend(own);
        }
        let origin = match &stream.matched {
            Some(matched) => &*matched.route.origin,
            None => "no route",
        };
        let mut reply = LocalReply::new(config.status, "local_rate_limited", "local_rate_limited")
            .with_flags(ResponseFlags::RATE_LIMITED)
            .with_grpc_status(code)
            .with_reason(format!(
                "local-rate-limit {} max_tokens={} {} per {:?} ({origin})",
                config.stat_prefix,
                bucket.max(),
                config.bucket.map_or(0, |bucket| bucket.tokens_per_fill),
                config
                    .bucket
                    .map_or(Duration::ZERO, |bucket| bucket.fill_interval),
            ));
        let mut last = None;
        for (name, value) in headers {
            // Further values of a name come without it.
            last = name.or(last);
            if let Some(name) = &last {
                reply.headers.push((name.clone(), value));
            }
        }
        reply
    }
}

fn change(
    mutations: &Mutations,
    headers: &mut HeaderMap,
    stream: &StreamCx,
    request: Option<RequestHead<'_>>,
) {
    mutations.apply(
        headers,
        |headers| headers,
        |_, format, text| {
            let context = Context {
                info: &stream.info,
                request,
                response: None,
                trailers: None,
            };
            format::write(format, &context, Missing::Empty, text);
        },
    );
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl HttpFilter for Filter {
    /// The bucket that the response tells of.
    type State = Option<Arc<TokenBucket>>;
    type Route = Route;

    fn request_headers(&self, head: &mut Parts, cx: &mut FilterCx<'_, Self>) -> Flow {
        let limit = cx.route().unwrap_or(&self.0);
        let stream: &StreamCx = cx.stream;
        let is_due = |fraction: Option<crate::config::fraction::Fraction>| {
            fraction.is_some_and(|fraction| fraction.contains(stream.worker().random()))
        };
        if !is_due(limit.config.enabled) {
            return Flow::Continue;
        }
        limit.enabled.inc();
        let own = limit.connection_bucket(stream);
        let Some(bucket) = own.as_ref().or(limit.bucket.as_ref()) else {
            limit.ok.inc();
            return Flow::Continue;
        };
        let is_allowed = bucket.take();
        if limit.config.sends_ratelimit_headers {
            *cx.state = Some(Arc::clone(bucket));
        }
        if is_allowed {
            limit.ok.inc();
            return Flow::Continue;
        }
        limit.rate_limited.inc();
        if is_due(limit.config.enforced) {
            limit.enforced.inc();
            return Flow::Reply(limit.reply(bucket, stream, head));
        }
        if let Some(mutations) = &limit.request_headers {
            mutations.apply(
                head,
                |head| &mut head.headers,
                |head, format, text| {
                    let context = Context {
                        info: &stream.info,
                        request: Some(RequestHead::new(head, &stream.scheme)),
                        response: None,
                        trailers: None,
                    };
                    format::write(format, &context, Missing::Empty, text);
                },
            );
        }
        Flow::Continue
    }

    fn response_headers(&self, response: &mut Response, cx: &mut FilterCx<'_, Self>) -> Flow {
        if let Some(bucket) = cx.state.take() {
            let headers = response.headers_mut();
            headers.append(&LIMIT, HeaderValue::from(bucket.max()));
            headers.append(&REMAINING, HeaderValue::from(bucket.remaining()));
            let reset = whole_seconds(bucket.next_token());
            headers.append(&RESET, HeaderValue::from(reset));
        }
        Flow::Continue
    }
}
