//! The messages of the filter.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use outrigger_proto::envoy::{
    config::core::v3::HeaderValueOption,
    extensions::{
        common::ratelimit::v3::XRateLimitHeadersRfcVersion,
        filters::http::local_ratelimit::v3::LocalRateLimit,
    },
    r#type::v3::{HttpStatus, TokenBucket as BucketProto},
};
use outrigger_proto::google::protobuf::BoolValue;

use crate::{
    config::{
        fraction::Fraction,
        from_proto::{fraction, header},
        header::HeaderMutations,
    },
    convert::{Cx, u32_or},
    filters::http::FilterConfig,
    no_effect, unsupported,
};

/// Envoy refuses buckets that are filled more often.
const MIN_FILL_INTERVAL: Duration = Duration::from_millis(50);

/// `LocalRateLimit`
#[derive(Clone, Debug)]
pub struct Config {
    /// `<stat_prefix>.http_local_rate_limit.`
    pub stat_prefix: Arc<str>,
    /// Of a refusal; 429 by default.
    pub status: StatusCode,
    /// None allows everything.
    pub bucket: Option<Bucket>,
    /// Of how many requests tokens are taken; none by default.
    pub enabled: Option<Fraction>,
    /// How many of those beyond the limit are refused; none by default.
    pub enforced: Option<Fraction>,
    /// For requests that are let through beyond the limit.
    pub request_headers: HeaderMutations,
    /// For refusals.
    pub response_headers: HeaderMutations,
    /// Each downstream connection has a bucket of its own.
    pub is_per_connection: bool,
    /// Send `x-ratelimit-limit`, `-remaining` and `-reset`.
    pub sends_ratelimit_headers: bool,
    /// Refuse gRPC with `RESOURCE_EXHAUSTED`, not with `UNAVAILABLE`.
    pub is_resource_exhausted: bool,
    /// Send `retry-after` with 429.
    pub sends_retry_after: bool,
}

/// The same message, which must have a bucket.
pub type RouteConfig = Config;

/// `envoy.type.v3.TokenBucket`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// How many tokens it holds, and has at first.
    pub max_tokens: u32,
    /// Tokens each interval.
    pub tokens_per_fill: u32,
    /// The interval.
    pub fill_interval: Duration,
}

impl FilterConfig for Config {
    type Proto = LocalRateLimit;
    type RouteProto = LocalRateLimit;
    type RouteConfig = Self;

    fn from_proto(cx: &Cx<'_>, proto: LocalRateLimit) -> Option<Self> {
        cx.converts::<LocalRateLimit>();
        let LocalRateLimit {
            stat_prefix,
            status: status_proto,
            token_bucket,
            filter_enabled,
            filter_enforced,
            request_headers_to_add_when_not_enforced,
            response_headers_to_add,
            descriptors,
            stage,
            local_rate_limit_per_downstream_connection,
            local_cluster_rate_limit,
            enable_x_ratelimit_headers,
            vh_rate_limits,
            always_consume_default_token_bucket,
            rate_limited_as_resource_exhausted,
            rate_limits,
            max_dynamic_descriptors,
            enable_retry_after_header,
        } = proto;
        unsupported!(
            cx,
            LocalRateLimit,
            [descriptors, local_cluster_rate_limit, rate_limits]
        );
        let _: Option<BoolValue> = always_consume_default_token_bucket;
        no_effect!(
            cx,
            LocalRateLimit,
            "it only says how descriptors are used, which are refused",
            [
                stage,
                vh_rate_limits,
                always_consume_default_token_bucket,
                max_dynamic_descriptors
            ]
        );
        let sends_ratelimit_headers =
            match cx.enumeration("enable_x_ratelimit_headers", enable_x_ratelimit_headers)? {
                XRateLimitHeadersRfcVersion::Off => false,
                XRateLimitHeadersRfcVersion::DraftVersion03 => true,
            };
        Some(Self {
            stat_prefix: cx.non_empty("stat_prefix", &stat_prefix),
            status: status_proto.map_or(StatusCode::TOO_MANY_REQUESTS, |proto| status(cx, &proto)),
            bucket: match token_bucket {
                Some(proto) => Some(bucket(&cx.field("token_bucket"), proto)?),
                None => None,
            },
            enabled: fraction::runtime_fraction(cx, "filter_enabled", filter_enabled),
            enforced: fraction::runtime_fraction(cx, "filter_enforced", filter_enforced),
            request_headers: additions(
                &cx.field("request_headers_to_add_when_not_enforced"),
                request_headers_to_add_when_not_enforced,
            ),
            response_headers: additions(
                &cx.field("response_headers_to_add"),
                response_headers_to_add,
            ),
            is_per_connection: local_rate_limit_per_downstream_connection,
            sends_ratelimit_headers,
            is_resource_exhausted: rate_limited_as_resource_exhausted,
            sends_retry_after: enable_retry_after_header,
        })
    }

    fn route_from_proto(cx: &Cx<'_>, proto: LocalRateLimit) -> Option<Self> {
        if proto.token_bucket.is_none() {
            cx.field("token_bucket")
                .error("local rate limit token bucket must be set for per filter configs");
        }
        Self::from_proto(cx, proto)
    }
}

/// What is not an error is 429.
fn status(cx: &Cx<'_>, proto: &HttpStatus) -> StatusCode {
    cx.converts::<HttpStatus>();
    let HttpStatus { code } = proto;
    u16::try_from(*code)
        .ok()
        .filter(|code| *code >= 400)
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::TOO_MANY_REQUESTS)
}

fn bucket(cx: &Cx<'_>, proto: BucketProto) -> Option<Bucket> {
    cx.converts::<BucketProto>();
    let BucketProto {
        max_tokens,
        tokens_per_fill,
        fill_interval,
    } = proto;
    let tokens_per_fill = u32_or(tokens_per_fill, 1);
    if tokens_per_fill == 0 {
        cx.field("tokens_per_fill")
            .error("value must be greater than 0");
    }
    let interval = cx.required("fill_interval", fill_interval)?;
    let fill_interval = cx.field("fill_interval").duration(interval)?;
    if fill_interval < MIN_FILL_INTERVAL {
        cx.field("fill_interval")
            .error("local rate limit token bucket fill timer must be >= 50ms");
    }
    Some(Bucket {
        max_tokens,
        tokens_per_fill,
        fill_interval,
    })
}

fn additions(cx: &Cx<'_>, options: Vec<HeaderValueOption>) -> HeaderMutations {
    if options.len() > 10 {
        cx.error("value must contain no more than 10 item(s)");
    }
    HeaderMutations {
        remove: Vec::new(),
        add: options
            .into_iter()
            .enumerate()
            .filter_map(|(index, option)| header::addition(&cx.index(index), option))
            .collect(),
    }
}
