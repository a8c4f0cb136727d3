//! The TCP proxy (`envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`).

use std::{sync::Arc, time::Duration};

use super::access_log::AccessLog;

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Clone, Debug)]
pub struct TcpProxy {
    /// `tcp.<stat_prefix>.…`
    pub stat_prefix: Arc<str>,
    /// Names and weights; at least one, and their sum is not zero.
    pub clusters: Vec<(Arc<str>, u32)>,
    /// Nothing moved for that long. Default 1 h; none is no limit.
    pub idle_timeout: Option<Duration>,
    /// At least 1, the default.
    pub max_connect_attempts: u32,
    /// From the acceptance on.
    pub max_downstream_connection_duration: Option<Duration>,
    /// `hash_policy` with `source_ip`.
    pub hashes_source_ip: bool,
    /// Lines for each connection.
    pub access_log: Vec<AccessLog>,
}

impl TcpProxy {
    /// The sum of weights.
    #[must_use]
    pub fn total_weight(&self) -> u64 {
        self.clusters
            .iter()
            .map(|(_, weight)| u64::from(*weight))
            .sum()
    }

    /// The cluster that a random number falls on.
    #[must_use]
    pub fn choose(&self, random: u64) -> Option<&Arc<str>> {
        let mut point = match &self.clusters[..] {
            [(only, _)] => return Some(only),
            _ => random % self.total_weight().max(1),
        };
        for (name, weight) in &self.clusters {
            match point.checked_sub(u64::from(*weight)) {
                Some(rest) => point = rest,
                None => return Some(name),
            }
        }
        None
    }
}
