//! The filter at work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, StatusCode, request::Parts};

use super::{Config, Mode, RouteConfig};
use crate::{
    filters::http::{FilterBuild, FilterCx, Flow, HttpFilter, RouteBuild},
    http::{LocalReply, Response, StreamCx},
    router::matcher::{View, header_matches},
    telemetry::{stats::Counter, stream_info::ResponseFlags},
    upstream::Health,
};

static CHECKED_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
static IMMEDIATE_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
static DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");

/// The filter.
#[derive(Debug)]
pub struct Filter {
    config: Arc<Config>,
    cache: Option<Cache>,
    request_total: Counter,
    ok: Counter,
    failed: Counter,
    cached_response: Counter,
    degraded: Counter,
    cluster_not_found: Counter,
    cluster_empty: Counter,
    cluster_unhealthy: Counter,
}

/// There are no per-route settings.
#[derive(Clone, Copy, Debug)]
pub enum Route {}

/// The upstream's last answer. It counts to the end of the period in which it came.
#[derive(Debug)]
struct Cache {
    start: Instant,
    period: Duration,
    /// Period (from 1), status, and whether it was degraded.
    answer: AtomicU64,
}

/// What the proxy says of itself.
struct Verdict {
    status: StatusCode,
    details: &'static str,
    reason: Option<String>,
    is_degraded: bool,
}

impl Filter {
    /// With its statistics.
    #[must_use]
    pub fn new(config: &Arc<Config>, build: FilterBuild<'_>) -> Self {
        let scope = build.registry.scope(build.scope).scope("health_check");
        let cache = match config.mode {
            Mode::PassThrough(period) => period.map(|period| Cache {
                start: Instant::now(),
                period,
                answer: AtomicU64::new(0),
            }),
            Mode::Own(_) => None,
        };
        Self {
            config: Arc::clone(config),
            cache,
            request_total: scope.counter("request_total"),
            ok: scope.counter("ok"),
            failed: scope.counter("failed"),
            cached_response: scope.counter("cached_response"),
            degraded: scope.counter("degraded"),
            cluster_not_found: scope.counter("failed_cluster_not_found"),
            cluster_empty: scope.counter("failed_cluster_empty"),
            cluster_unhealthy: scope.counter("failed_cluster_unhealthy"),
        }
    }

    fn verdict(&self, stream: &StreamCx, cached: Option<(StatusCode, bool)>) -> Verdict {
        let mut verdict = Verdict {
            status: StatusCode::OK,
            details: "health_check_ok",
            reason: None,
            is_degraded: false,
        };
        if stream.worker().is_failing_health_checks() {
            verdict.status = StatusCode::SERVICE_UNAVAILABLE;
            verdict.details = "health_check_failed";
            verdict.reason = Some("health-check failed by /healthcheck/fail".to_owned());
            return verdict;
        }
        if let Some((status, is_degraded)) = cached {
            self.cached_response.inc();
            verdict.status = status;
            verdict.details = "health_check_cached";
            verdict.is_degraded = is_degraded;
            return verdict;
        }
        let Mode::Own(clusters) = &self.config.mode else {
            return verdict;
        };
        if !clusters.is_empty() {
            verdict.details = "health_check_ok_cluster_healthy";
        }
        for (name, percentage) in clusters {
            let Some((details, reason, counter)) = self.check(stream, name, *percentage) else {
                continue;
            };
            counter.inc();
            verdict.status = StatusCode::SERVICE_UNAVAILABLE;
            verdict.details = details;
            verdict.reason = Some(reason);
            break;
        }
        verdict
    }

    /// Why a cluster is not well enough.
    fn check(
        &self,
        stream: &StreamCx,
        name: &str,
        percentage: u32,
    ) -> Option<(&'static str, String, &Counter)> {
        let Some(cluster) = stream.snapshot.cluster(name) else {
            return Some((
                "health_check_failed_no_cluster_found",
                format!("health-check no cluster '{name}'"),
                &self.cluster_not_found,
            ));
        };
        let set = cluster.hosts.load();
        let total = set.hosts.len() as u64;
        let usable = set
            .hosts
            .iter()
            .filter(|host| host.coarse_health() != Health::Unhealthy)
            .count() as u64;
        if total == 0 {
            return (percentage > 0).then(|| {
                let reason = format!("health-check no host in cluster {name}");
                (
                    "health_check_failed_cluster_empty",
                    reason,
                    &self.cluster_empty,
                )
            });
        }
        (100 * usable < total * u64::from(percentage)).then(|| {
            let reason = format!(
                "health-check {usable} of {total} hosts of cluster {name}, min_healthy={percentage}%"
            );
            ("health_check_failed_cluster_unhealthy", reason, &self.cluster_unhealthy)
        })
    }

    fn answer(&self, stream: &StreamCx, cached: Option<(StatusCode, bool)>) -> LocalReply {
        self.request_total.inc();
        let verdict = self.verdict(stream, cached);
        let mut reply = LocalReply::new(verdict.status, "", verdict.details);
        if verdict.status.is_success() {
            self.ok.inc();
        } else {
            self.failed.inc();
            reply = reply.with_flags(ResponseFlags::FAILED_LOCAL_HEALTH_CHECK);
        }
        if verdict.is_degraded {
            self.degraded.inc();
            reply = reply.with_header(DEGRADED.clone(), HeaderValue::from_static(""));
        }
        match verdict.reason {
            Some(reason) => reply.with_reason(reason),
            None => reply,
        }
    }
}

impl Route {
    /// Never called: there are no settings to build it from.
    #[must_use]
    pub fn new(config: &RouteConfig, _: RouteBuild<'_>) -> Self {
        match *config {}
    }
}

impl Cache {
    fn period_now(&self) -> u64 {
        let elapsed = self.start.elapsed().as_nanos() / self.period.as_nanos().max(1);
        u64::try_from(elapsed).unwrap_or(u64::MAX >> 17) + 1
    }

    fn read(&self) -> Option<(StatusCode, bool)> {
        let answer = self.answer.load(Relaxed);
        if answer >> 17 != self.period_now() & (u64::MAX >> 17) {
            return None;
        }
        let status = u16::try_from(answer >> 1 & 0xffff).ok()?;
        Some((StatusCode::from_u16(status).ok()?, answer & 1 == 1))
    }

    fn write(&self, status: StatusCode, is_degraded: bool) {
        let answer =
            self.period_now() << 17 | u64::from(status.as_u16()) << 1 | u64::from(is_degraded);
        self.answer.store(answer, Relaxed);
    }
}

impl HttpFilter for Filter {
    /// Whether the request is a health check.
    type State = bool;
    type Route = Route;

    fn request_headers(&self, head: &mut Parts, cx: &mut FilterCx<'_, Self>) -> Flow {
        let view = View::new(head, &cx.stream.scheme);
        let mut headers = self.config.headers.iter();
        if !headers.all(|matcher| header_matches(matcher, &view)) {
            return Flow::Continue;
        }
        *cx.state = true;
        cx.stream.info.is_health_check = true;
        let cached = self.cache.as_ref().and_then(Cache::read);
        let is_ours = matches!(self.config.mode, Mode::Own(_))
            || cached.is_some()
            || cx.stream.worker().is_failing_health_checks();
        match is_ours {
            true => Flow::Reply(self.answer(cx.stream, cached)),
            false => Flow::Continue,
        }
    }

    fn response_headers(&self, response: &mut Response, cx: &mut FilterCx<'_, Self>) -> Flow {
        if *cx.state {
            let status = response.status();
            let headers = response.headers_mut();
            if let Some(cache) = &self.cache {
                cache.write(status, headers.contains_key(&DEGRADED));
            }
            let cluster = HeaderValue::from_str(&cx.stream.hcm().service_cluster);
            if let Ok(cluster) = cluster {
                headers.insert(&CHECKED_CLUSTER, cluster);
            }
        } else if cx.stream.worker().is_failing_health_checks() {
            response
                .headers_mut()
                .insert(&IMMEDIATE_FAIL, HeaderValue::from_static("true"));
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod cache_tests {
    use super::*;

    #[test]
    fn an_answer_counts_to_the_end_of_its_period() {
        let mut cache = Cache {
            start: Instant::now(),
            period: Duration::from_secs(1000),
            answer: AtomicU64::new(0),
        };
        assert!(cache.read().is_none());
        cache.write(StatusCode::SERVICE_UNAVAILABLE, true);
        assert_eq!(cache.read(), Some((StatusCode::SERVICE_UNAVAILABLE, true)));
        cache.period = Duration::from_nanos(1);
        assert!(cache.read().is_none());
    }
}
