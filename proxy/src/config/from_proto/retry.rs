//! `RetryPolicy` and the limits of what is kept for another try.

use std::time::Duration;

use outrigger_proto::{
    envoy::{
        config::route::v3::{
            RetryPolicy as Proto,
            retry_policy::{
                RateLimitedRetryBackOff, ResetHeader as ResetHeaderProto, ResetHeaderFormat,
                RetryBackOff, RetryHostPredicate, retry_host_predicate::ConfigType,
            },
        },
        extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate,
    },
    google::protobuf::{UInt32Value, UInt64Value},
};
use prost::Name as _;

use super::matcher;
use crate::{
    config::retry::{BufferLimit, RateLimitedBackOff, ResetHeader, RetryOn, RetryPolicy},
    convert::{Cx, u32_or},
    no_effect, unsupported,
};

/// Envoy's defaults.
const BASE_INTERVAL: Duration = Duration::from_millis(25);
const RESET_MAX_INTERVAL: Duration = Duration::from_secs(300);

pub(super) fn policy(cx: &Cx<'_>, policy: Proto) -> RetryPolicy {
    cx.converts::<Proto>();
    cx.partly::<Proto>(
        "retry_on",
        "every condition of Envoy 1.40; an unknown name is refused",
    );
    let Proto {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = policy;
    unsupported!(cx, Proto, [retry_priority, retry_options_predicates]);
    no_effect!(
        cx,
        Proto,
        "only cluster specifier plugins can choose anew, and those are refused",
        [refresh_cluster_on_retry]
    );
    let avoids_previous_hosts = host_predicates(cx, retry_host_predicate);
    let attempts = match u32::try_from(host_selection_retry_max_attempts) {
        Ok(0) => 1,
        Ok(attempts) => attempts,
        Err(_) => {
            cx.field("host_selection_retry_max_attempts")
                .error("must be a number from 0 to 4294967295");
            1
        }
    };
    let (base_interval, max_interval) = back_off(&cx.field("retry_back_off"), retry_back_off);
    let codes_cx = cx.field("retriable_status_codes");
    let codes = retriable_status_codes.into_iter().enumerate();
    let headers_cx = cx.field("retriable_headers");
    let request_headers_cx = cx.field("retriable_request_headers");
    RetryPolicy {
        on: conditions(&cx.field("retry_on"), &retry_on),
        num_retries: u32_or(num_retries, 1),
        per_try_timeout: cx
            .optional_duration("per_try_timeout", per_try_timeout)
            .filter(|timeout| !timeout.is_zero()),
        per_try_idle_timeout: cx
            .optional_duration("per_try_idle_timeout", per_try_idle_timeout)
            .filter(|timeout| !timeout.is_zero()),
        retriable_status_codes: codes
            .filter_map(|(index, code)| match u16::try_from(code) {
                Ok(code @ 100..600) => Some(code),
                _ => {
                    codes_cx
                        .index(index)
                        .error("value must be inside range [100, 600)");
                    None
                }
            })
            .collect(),
        retriable_headers: retriable_headers
            .into_iter()
            .enumerate()
            .filter_map(|(index, proto)| matcher::header_matcher(&headers_cx.index(index), proto))
            .collect(),
        retriable_request_headers: retriable_request_headers
            .into_iter()
            .enumerate()
            .filter_map(|(index, proto)| {
                matcher::header_matcher(&request_headers_cx.index(index), proto)
            })
            .collect(),
        base_interval,
        max_interval,
        rate_limited: rate_limited_retry_back_off
            .map(|proto| rate_limited(&cx.field("rate_limited_retry_back_off"), proto)),
        avoids_previous_hosts,
        host_selection_attempts: attempts,
    }
}

/// Envoy passes over names that it does not know; a typing error would then switch retries off.
fn conditions(cx: &Cx<'_>, text: &str) -> RetryOn {
    let mut on = RetryOn::default();
    for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        match RetryOn::http(name).or_else(|| RetryOn::grpc(name)) {
            Some(condition) => on |= condition,
            None => cx.error(format!("`{name}` is not a known condition")),
        }
    }
    on
}

/// Whether hosts that were tried are avoided.
fn host_predicates(cx: &Cx<'_>, predicates: Vec<RetryHostPredicate>) -> bool {
    cx.partly::<Proto>("retry_host_predicate", "PreviousHostsPredicate");
    let list = cx.field("retry_host_predicate");
    let mut avoids_previous_hosts = false;
    for (index, predicate) in predicates.into_iter().enumerate() {
        let at = list.index(index);
        at.converts::<RetryHostPredicate>();
        let RetryHostPredicate { name, config_type } = predicate;
        no_effect!(
            at,
            RetryHostPredicate,
            "the type of typed_config says what it is",
            [name]
        );
        let Some(ConfigType::TypedConfig(any)) = at.required("typed_config", config_type) else {
            continue;
        };
        let at = at.field("typed_config");
        if any.type_url != PreviousHostsPredicate::type_url() {
            at.error(format!("`{}` is not supported", any.type_url));
        } else if let Some(PreviousHostsPredicate {}) = at.any::<PreviousHostsPredicate>(&any) {
            at.converts::<PreviousHostsPredicate>();
            avoids_previous_hosts = true;
        }
    }
    avoids_previous_hosts
}

/// The base and the maximum of the back-off; less than a millisecond counts as one.
fn back_off(cx: &Cx<'_>, back_off: Option<RetryBackOff>) -> (Duration, Duration) {
    cx.converts::<RetryBackOff>();
    let default = (BASE_INTERVAL, BASE_INTERVAL * 10);
    let Some(RetryBackOff {
        base_interval,
        max_interval,
    }) = back_off
    else {
        return default;
    };
    let Some(base) = cx
        .required("base_interval", base_interval)
        .and_then(|base| positive(&cx.field("base_interval"), base))
    else {
        return default;
    };
    let max = match max_interval {
        None => base.saturating_mul(10),
        Some(max) => match positive(&cx.field("max_interval"), max) {
            Some(max) if max < base => {
                cx.field("max_interval")
                    .error("must be greater than or equal to the base_interval");
                base
            }
            Some(max) => max,
            None => base,
        },
    };
    (base, max)
}

fn positive(
    cx: &Cx<'_>,
    duration: outrigger_proto::google::protobuf::Duration,
) -> Option<Duration> {
    let duration = cx.duration(duration)?;
    if duration.is_zero() {
        cx.error("value must be greater than 0s");
        return None;
    }
    Some(duration.max(Duration::from_millis(1)))
}

fn rate_limited(cx: &Cx<'_>, proto: RateLimitedRetryBackOff) -> RateLimitedBackOff {
    cx.converts::<RateLimitedRetryBackOff>();
    let RateLimitedRetryBackOff {
        reset_headers,
        max_interval,
    } = proto;
    let list = cx.field("reset_headers");
    if reset_headers.is_empty() {
        list.error("value must contain at least 1 item");
    }
    RateLimitedBackOff {
        headers: reset_headers
            .into_iter()
            .enumerate()
            .filter_map(|(index, header)| reset_header(&list.index(index), header))
            .collect(),
        max_interval: max_interval
            .and_then(|max| positive(&cx.field("max_interval"), max))
            .unwrap_or(RESET_MAX_INTERVAL),
    }
}

fn reset_header(cx: &Cx<'_>, header: ResetHeaderProto) -> Option<ResetHeader> {
    cx.converts::<ResetHeaderProto>();
    let ResetHeaderProto { name, format } = header;
    let is_timestamp = match cx.enumeration("format", format)? {
        ResetHeaderFormat::Seconds => false,
        ResetHeaderFormat::UnixTimestamp => true,
    };
    Some(ResetHeader {
        name: cx.field("name").header_name(&name)?,
        is_timestamp,
    })
}

/// The limit that a route or virtual host sets; only one of the two forms may be used.
pub(super) fn buffer_limit(
    cx: &Cx<'_>,
    per_request: Option<UInt32Value>,
    request_body: Option<UInt64Value>,
) -> Option<BufferLimit> {
    match (per_request, request_body) {
        (None, None) => None,
        (Some(UInt32Value { value }), None) => Some(BufferLimit::AtMost(value)),
        (None, Some(UInt64Value { value })) => Some(BufferLimit::Bytes(value)),
        (Some(_), Some(_)) => {
            cx.field("request_body_buffer_limit").error(
                "Only one of request_body_buffer_limit and per_request_buffer_limit_bytes can be specified",
            );
            None
        }
    }
}
