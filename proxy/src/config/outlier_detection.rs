//! Outlier detection (`envoy.config.cluster.v3.OutlierDetection`).

use std::time::Duration;

/// When a host counts as an outlier, and for how long it is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Server errors in a row; 0 is never.
    pub consecutive_5xx: Detector,
    /// 502, 503 and 504 in a row; 0 is never.
    pub consecutive_gateway_failure: Detector,
    /// Failures on our side in a row, with `split_external_local_origin_errors`.
    pub consecutive_local_origin_failure: Detector,
    /// Hosts whose success rate is far below the others'.
    pub success_rate: SuccessRate,
    /// Hosts whose share of failures is above a threshold.
    pub failure_percentage: FailurePercentage,
    /// Between two sweeps. Default 10 s.
    pub interval: Duration,
    /// Times the number of ejections in a row. Default 30 s.
    pub base_ejection_time: Duration,
    /// No ejection lasts longer, jitter apart. Default 300 s.
    pub max_ejection_time: Duration,
    /// Added to an ejection's time at random. Default 0.
    pub max_ejection_time_jitter: Duration,
    /// How much of a cluster may be ejected at once. Default 10 %.
    pub max_ejection_percent: u32,
    /// Whether the first ejection goes beyond `max_ejection_percent`.
    pub eject_one: EjectOne,
    /// Failures to reach a host count apart from its answers.
    pub split_external_local_origin_errors: bool,
    /// A host that passes an active health check is no longer ejected. Default true.
    pub successful_active_health_check_uneject_host: bool,
}

/// A count or limit, and in how many percent of all cases something comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detector {
    /// Failures in a row.
    pub threshold: u32,
    /// Percent of the detected cases that lead to an ejection.
    pub enforcing: u32,
}

/// Ejection by success rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Hosts with enough requests that are needed. Default 5.
    pub minimum_hosts: u32,
    /// Requests of an interval that are enough. Default 100.
    pub request_volume: u32,
    /// The threshold is the mean less this many thousandths of a standard deviation. Default 1900.
    pub stdev_factor: u32,
    /// `enforcing_success_rate`, default 100.
    pub enforcing: u32,
    /// `enforcing_local_origin_success_rate`, default 100.
    pub enforcing_local_origin: u32,
}

/// Ejection by the share of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Hosts with enough requests that are needed. Default 5.
    pub minimum_hosts: u32,
    /// Requests of an interval that are enough. Default 50.
    pub request_volume: u32,
    /// Failures in percent. Default 85.
    pub threshold: u32,
    /// `enforcing_failure_percentage`, default 0.
    pub enforcing: u32,
    /// `enforcing_failure_percentage_local_origin`, default 0.
    pub enforcing_local_origin: u32,
}

/// Whether a first host may be ejected whatever `max_ejection_percent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectOne {
    /// `always_eject_one_host: true`.
    Always,
    /// Where there is another host. Ours, when neither that field nor `max_ejection_percent` is set: Envoy's
    /// default of 10 % ejects nobody from clusters of fewer than ten.
    OfSeveral,
    /// As the percentage says.
    Never,
}
