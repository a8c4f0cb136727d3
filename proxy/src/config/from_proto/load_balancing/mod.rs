//! `lb_policy`, `load_balancing_policy`, `common_lb_config` and their settings.

mod classic;
mod extension;

use std::time::Duration;

use outrigger_proto::{
    envoy::config::{
        cluster::v3::{LoadBalancingPolicy, cluster::LbConfig},
        core::v3::RuntimeDouble,
    },
    google::protobuf::{Duration as ProtoDuration, UInt64Value},
};

pub(super) use classic::common;

use crate::{
    config::load_balancing::{Consistent, LbOptions, LbPolicy, SlowStart},
    convert::Cx,
};

/// Envoy's defaults.
const CHOICE_COUNT: u32 = 2;
const ACTIVE_REQUEST_BIAS: f64 = 1.0;
const MINIMUM_RING_SIZE: u64 = 1024;
const MAXIMUM_RING_SIZE: u64 = 8 * 1024 * 1024;
const MAGLEV_TABLE_SIZE: u64 = 65_537;
const PANIC_THRESHOLD: u32 = 50;
const AGGRESSION: f64 = 1.0;
const MIN_WEIGHT: f64 = 0.1;

/// The algorithm and its settings.
pub(super) struct Balancing {
    pub(super) policy: LbPolicy,
    pub(super) options: LbOptions,
}

/// What of `common_lb_config` counts for a cluster.
#[derive(Default)]
pub(super) struct Common {
    pub(super) panic_threshold: u32,
    pub(super) ignore_new_hosts: bool,
    locality: Locality,
    consistent: Consistent,
}

#[derive(Clone, Copy, Default)]
struct Locality {
    is_weighted: bool,
    fail_traffic_on_panic: bool,
}

/// The policy from whichever form is set; `load_balancing_policy` wins, as in Envoy.
pub(super) fn policy(
    cx: &Cx<'_>,
    policy: i32,
    config: Option<LbConfig>,
    extensible: Option<LoadBalancingPolicy>,
    common: Common,
) -> Option<Balancing> {
    let classic = classic::policy(cx, policy, config, extensible.is_some(), common);
    match extensible {
        Some(list) => extension::policy(&cx.field("load_balancing_policy"), list),
        None => classic,
    }
}

fn least_request(cx: &Cx<'_>, choice_count: u32, bias: Option<RuntimeDouble>) -> LbPolicy {
    if choice_count < 2 {
        cx.field("choice_count")
            .error("value must be greater than or equal to 2");
    }
    let bias = match bias {
        None => ACTIVE_REQUEST_BIAS,
        Some(RuntimeDouble {
            default_value,
            // There is no runtime to read it from: layered_runtime is refused.
            runtime_key: _,
        }) if default_value >= 0.0 => default_value,
        Some(_) => {
            cx.field("active_request_bias")
                .error("default_value must be zero or more");
            ACTIVE_REQUEST_BIAS
        }
    };
    LbPolicy::LeastRequest {
        choice_count: Some(choice_count),
        active_request_bias: bias,
    }
}

/// Both forms of `SlowStartConfig`; a window of zero is none.
fn slow_start(
    cx: &Cx<'_>,
    window: Option<ProtoDuration>,
    aggression: Option<RuntimeDouble>,
    min_weight_percent: Option<f64>,
) -> Option<SlowStart> {
    let window = cx.duration_or("slow_start_window", window, Duration::ZERO);
    let aggression = match aggression {
        None => AGGRESSION,
        Some(RuntimeDouble {
            default_value,
            // There is no runtime to read it from: layered_runtime is refused.
            runtime_key: _,
        }) => default_value,
    };
    if aggression.is_nan() || aggression <= 0.0 {
        // Envoy goes on with 1 and complains in its log.
        cx.field("aggression")
            .error("default_value must be greater than 0");
    }
    let min_weight = min_weight_percent.map_or(MIN_WEIGHT, |percent| percent / 100.0);
    if !(0.0..=1.0).contains(&min_weight) {
        cx.field("min_weight_percent")
            .error("value must be inside range [0, 100]");
    }
    (window.as_millis() > 0).then_some(SlowStart {
        window,
        aggression,
        min_weight,
    })
}

fn ring_sizes(
    cx: &Cx<'_>,
    minimum: Option<UInt64Value>,
    maximum: Option<UInt64Value>,
) -> (u64, u64) {
    let minimum = minimum.map_or(MINIMUM_RING_SIZE, |wrapper| wrapper.value);
    let maximum = maximum.map_or(MAXIMUM_RING_SIZE, |wrapper| wrapper.value);
    if minimum > maximum {
        cx.field("minimum_ring_size").error(format!(
            "ring hash: minimum_ring_size ({minimum}) > maximum_ring_size ({maximum})"
        ));
    }
    for (field, value) in [
        ("minimum_ring_size", minimum),
        ("maximum_ring_size", maximum),
    ] {
        if value > MAXIMUM_RING_SIZE {
            cx.field(field).error(format!(
                "value must be less than or equal to {MAXIMUM_RING_SIZE}"
            ));
        }
    }
    (
        minimum.min(MAXIMUM_RING_SIZE),
        maximum.min(MAXIMUM_RING_SIZE),
    )
}

fn maglev_size(cx: &Cx<'_>, size: Option<UInt64Value>) -> u64 {
    const LARGEST: u64 = 5_000_011;
    let size = size.map_or(MAGLEV_TABLE_SIZE, |wrapper| wrapper.value);
    let is_prime = size > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= size)
            .all(|divisor| !size.is_multiple_of(divisor));
    if size > LARGEST {
        cx.field("table_size")
            .error(format!("value must be less than or equal to {LARGEST}"));
        return MAGLEV_TABLE_SIZE;
    }
    if !is_prime {
        cx.field("table_size")
            .error("The table size of maglev must be prime number");
        return MAGLEV_TABLE_SIZE;
    }
    size
}

fn balance_factor(cx: &Cx<'_>, factor: Option<u32>) -> Option<u32> {
    if factor.is_some_and(|factor| factor < 100) {
        cx.field("hash_balance_factor")
            .error("value must be greater than or equal to 100");
    }
    factor
}

/// A percentage as Envoy rounds it.
fn rounded_percent(cx: &Cx<'_>, field: &str, percent: Option<f64>, default: u32) -> u32 {
    match percent {
        None => default,
        Some(percent) if (0.0..=100.0).contains(&percent) => percent.round() as u32,
        Some(_) => {
            cx.field(field).error("value must be inside range [0, 100]");
            default
        }
    }
}
