//! The TCP proxy: passes a connection's bytes on to a host of a cluster.

mod connect;
mod connection;
mod early;
mod stats;

use std::sync::Arc;

pub use connect::Origin;
pub use connection::start;
pub use early::Early;
pub use stats::TcpProxyStats;

use crate::{
    config::tcp_proxy::TcpProxy,
    telemetry::{access_log::Loggers, stats::Registry},
};

/// The filter of a chain; shared by all its connections.
#[derive(Debug)]
pub struct TcpProxyRuntime {
    /// What it was built from.
    pub config: Arc<TcpProxy>,
    /// `tcp.<stat_prefix>.…`
    pub stats: TcpProxyStats,
    /// Access logs.
    pub access_logs: Loggers,
}

impl TcpProxyRuntime {
    /// Resolves what connections need.
    #[must_use]
    pub fn new(config: Arc<TcpProxy>, access_logs: Loggers, registry: &Registry) -> Self {
        let scope = registry.scope("tcp").scope(&config.stat_prefix);
        Self {
            stats: TcpProxyStats::new(&scope),
            access_logs,
            config,
        }
    }
}
