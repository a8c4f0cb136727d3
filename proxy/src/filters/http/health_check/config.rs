//! The message of the filter.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_proto::{
    envoy::{extensions::filters::http::health_check::v3::HealthCheck, r#type::v3::Percent},
    google::protobuf::{BoolValue, Empty},
};

use crate::{
    config::{from_proto::matcher, matcher::HeaderMatcher},
    convert::Cx,
    filters::http::FilterConfig,
};

/// `HealthCheck`
#[derive(Clone, Debug)]
pub struct Config {
    /// A request that matches all is a health check.
    pub headers: Vec<HeaderMatcher>,
    /// Who answers it.
    pub mode: Mode,
}

/// Who answers health checks.
#[derive(Clone, Debug)]
pub enum Mode {
    /// The proxy: 200 while enough hosts (in percent) of these clusters can take requests.
    Own(Vec<(Arc<str>, u32)>),
    /// The upstream; its answer is given again for this time.
    PassThrough(Option<Duration>),
}

/// There are none.
#[derive(Clone, Copy, Debug)]
pub enum RouteConfig {}

impl FilterConfig for Config {
    type Proto = HealthCheck;
    type RouteProto = Empty;
    type RouteConfig = RouteConfig;

    fn from_proto(cx: &Cx<'_>, proto: HealthCheck) -> Option<Self> {
        cx.converts::<HealthCheck>();
        let HealthCheck {
            pass_through_mode,
            cache_time,
            cluster_min_healthy_percentages,
            headers,
        } = proto;
        let BoolValue { value } = cx.required("pass_through_mode", pass_through_mode)?;
        let cache_time = cx.optional_duration("cache_time", cache_time);
        let mode = if value {
            if !cluster_min_healthy_percentages.is_empty() {
                cx.field("cluster_min_healthy_percentages")
                    .error("has no effect in pass-through mode");
            }
            Mode::PassThrough(cache_time.filter(|time| !time.is_zero()))
        } else {
            if cache_time.is_some_and(|time| !time.is_zero()) {
                cx.field("cache_time")
                    .error("cache_time_ms must not be set when path_through_mode is disabled");
            }
            Mode::Own(percentages(
                &cx.field("cluster_min_healthy_percentages"),
                cluster_min_healthy_percentages,
            ))
        };
        let headers_cx = cx.field("headers");
        Some(Self {
            headers: headers
                .into_iter()
                .enumerate()
                .filter_map(|(index, proto)| {
                    matcher::header_matcher(&headers_cx.index(index), proto)
                })
                .collect(),
            mode,
        })
    }

    fn route_from_proto(cx: &Cx<'_>, Empty {}: Empty) -> Option<RouteConfig> {
        cx.error("this filter has no per-route settings");
        None
    }
}

/// By name; whole percents count, as in Envoy.
fn percentages(cx: &Cx<'_>, protos: HashMap<String, Percent>) -> Vec<(Arc<str>, u32)> {
    let mut all: Vec<_> = protos
        .into_iter()
        .map(|(name, Percent { value })| {
            if !(0.0..=100.0).contains(&value) {
                cx.key(&name)
                    .field("value")
                    .error("value must be inside range [0, 100]");
            }
            (Arc::from(name), whole(value))
        })
        .collect();
    all.sort_unstable();
    all
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 100; anything else was refused"
)]
fn whole(percent: f64) -> u32 {
    percent.clamp(0.0, 100.0) as u32
}
