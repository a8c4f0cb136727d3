//! `OutlierDetection`.

use std::time::Duration;

use outrigger_proto::{
    envoy::config::cluster::v3::OutlierDetection as Proto, google::protobuf::BoolValue,
};

use crate::{
    config::outlier_detection::{
        Detector, EjectOne, FailurePercentage, OutlierDetection, SuccessRate,
    },
    convert::{Cx, bool_or, u32_or},
    unsupported,
};

/// Envoy's defaults.
const INTERVAL: Duration = Duration::from_secs(10);
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
const MAX_EJECTION_PERCENT: u32 = 10;

pub(super) fn outlier_detection(cx: &Cx<'_>, proto: Proto) -> OutlierDetection {
    cx.converts::<Proto>();
    let Proto {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        max_ejection_time,
        max_ejection_time_jitter,
        successful_active_health_check_uneject_host,
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
    } = proto;
    let detect_degraded_hosts = detect_degraded_hosts.filter(|BoolValue { value }| *value);
    unsupported!(cx, Proto, [monitors, detect_degraded_hosts]);
    let eject_one = match (&always_eject_one_host, &max_ejection_percent) {
        (Some(BoolValue { value: true }), _) => EjectOne::Always,
        (None, None) => EjectOne::OfSeveral,
        _ => EjectOne::Never,
    };
    let base = positive(
        cx,
        "base_ejection_time",
        base_ejection_time,
        BASE_EJECTION_TIME,
    );
    let max = positive(
        cx,
        "max_ejection_time",
        max_ejection_time,
        MAX_EJECTION_TIME.max(base),
    );
    if max < base {
        cx.field("max_ejection_time")
            .error("max_ejection_time cannot be smaller than base_ejection_time");
    }
    OutlierDetection {
        consecutive_5xx: Detector {
            threshold: u32_or(consecutive_5xx, 5),
            enforcing: u32_or(enforcing_consecutive_5xx, 100),
        },
        consecutive_gateway_failure: Detector {
            threshold: u32_or(consecutive_gateway_failure, 5),
            enforcing: u32_or(enforcing_consecutive_gateway_failure, 0),
        },
        consecutive_local_origin_failure: Detector {
            threshold: u32_or(consecutive_local_origin_failure, 5),
            enforcing: u32_or(enforcing_consecutive_local_origin_failure, 100),
        },
        success_rate: SuccessRate {
            minimum_hosts: u32_or(success_rate_minimum_hosts, 5),
            request_volume: u32_or(success_rate_request_volume, 100),
            stdev_factor: u32_or(success_rate_stdev_factor, 1900),
            enforcing: u32_or(enforcing_success_rate, 100),
            enforcing_local_origin: u32_or(enforcing_local_origin_success_rate, 100),
        },
        failure_percentage: FailurePercentage {
            minimum_hosts: u32_or(failure_percentage_minimum_hosts, 5),
            request_volume: u32_or(failure_percentage_request_volume, 50),
            threshold: u32_or(failure_percentage_threshold, 85),
            enforcing: u32_or(enforcing_failure_percentage, 0),
            enforcing_local_origin: u32_or(enforcing_failure_percentage_local_origin, 0),
        },
        interval: positive(cx, "interval", interval, INTERVAL),
        base_ejection_time: base,
        max_ejection_time: max,
        max_ejection_time_jitter: cx.duration_or(
            "max_ejection_time_jitter",
            max_ejection_time_jitter,
            Duration::ZERO,
        ),
        max_ejection_percent: u32_or(max_ejection_percent, MAX_EJECTION_PERCENT),
        eject_one,
        split_external_local_origin_errors,
        successful_active_health_check_uneject_host: bool_or(
            successful_active_health_check_uneject_host,
            true,
        ),
    }
}

/// A duration above zero; validation has refused others already.
pub(super) fn positive(
    cx: &Cx<'_>,
    field: &str,
    value: Option<outrigger_proto::google::protobuf::Duration>,
    default: Duration,
) -> Duration {
    let duration = cx.duration_or(field, value, default);
    if duration.is_zero() {
        default
    } else {
        duration
    }
}
