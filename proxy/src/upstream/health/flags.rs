//! Why a host does not take requests, or fewer; names and order are Envoy's.

use std::fmt;

use crate::config::cluster::HealthStatus;

/// A set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthFlags(u32);

impl HealthFlags {
    /// It fails active health checks.
    pub const FAILED_ACTIVE_HC: Self = Self(1);
    /// Outlier detection ejected it.
    pub const FAILED_OUTLIER_CHECK: Self = Self(1 << 1);
    /// EDS says that it is unhealthy.
    pub const FAILED_EDS_HEALTH: Self = Self(1 << 2);
    /// Its health checks say that it is degraded.
    pub const DEGRADED_ACTIVE_HC: Self = Self(1 << 3);
    /// EDS says that it is degraded.
    pub const DEGRADED_EDS_HEALTH: Self = Self(1 << 4);
    /// It was taken away while it passed its checks: it stays until it fails one.
    pub const PENDING_DYNAMIC_REMOVAL: Self = Self(1 << 5);
    /// It was not checked yet, and `ignore_new_hosts_until_first_hc` is set.
    pub const PENDING_ACTIVE_HC: Self = Self(1 << 6);
    /// It answered with `x-envoy-immediate-health-check-fail`.
    pub const EXCLUDED_VIA_IMMEDIATE_HC_FAIL: Self = Self(1 << 7);
    /// Its last health check ran out of time.
    pub const ACTIVE_HC_TIMEOUT: Self = Self(1 << 8);
    /// EDS says that it drains.
    pub const EDS_STATUS_DRAINING: Self = Self(1 << 9);

    const NAMES: [(Self, &'static str); 10] = [
        (Self::FAILED_ACTIVE_HC, "/failed_active_hc"),
        (Self::FAILED_OUTLIER_CHECK, "/failed_outlier_check"),
        (Self::FAILED_EDS_HEALTH, "/failed_eds_health"),
        (Self::DEGRADED_ACTIVE_HC, "/degraded_active_hc"),
        (Self::DEGRADED_EDS_HEALTH, "/degraded_eds_health"),
        (Self::PENDING_DYNAMIC_REMOVAL, "/pending_dynamic_removal"),
        (Self::PENDING_ACTIVE_HC, "/pending_active_hc"),
        (
            Self::EXCLUDED_VIA_IMMEDIATE_HC_FAIL,
            "/excluded_via_immediate_hc_fail",
        ),
        (Self::ACTIVE_HC_TIMEOUT, "/active_hc_timeout"),
        (Self::EDS_STATUS_DRAINING, "/eds_status_draining"),
    ];

    /// The reasons that EDS gives.
    pub(in crate::upstream) fn of_eds(status: HealthStatus) -> Self {
        match status {
            HealthStatus::Unknown | HealthStatus::Healthy => Self::default(),
            HealthStatus::Unhealthy | HealthStatus::Timeout => Self::FAILED_EDS_HEALTH,
            HealthStatus::Draining => Self::EDS_STATUS_DRAINING,
            HealthStatus::Degraded => Self::DEGRADED_EDS_HEALTH,
        }
    }

    pub(in crate::upstream) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(in crate::upstream) const fn bits(self) -> u32 {
        self.0
    }

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `others` is in the set.
    #[must_use]
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// As `/clusters` shows it.
impl fmt::Display for HealthFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("healthy");
        }
        Self::NAMES
            .iter()
            .filter(|(flag, _)| self.has(*flag))
            .try_for_each(|(_, name)| f.write_str(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_shown_as_in_envoy() {
        assert_eq!(HealthFlags::default().to_string(), "healthy");
        let both = HealthFlags::ACTIVE_HC_TIMEOUT.and(HealthFlags::FAILED_ACTIVE_HC);
        assert_eq!(both.to_string(), "/failed_active_hc/active_hc_timeout");
        let eds = HealthFlags::of_eds(HealthStatus::Timeout);
        assert_eq!(eds.to_string(), "/failed_eds_health");
        assert!(!eds.has(both));
    }
}
