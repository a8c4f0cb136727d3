//! The HTTP connection manager at run time: its configuration with what was resolved from it once.

use std::sync::Arc;

use super::stats::{HcmStats, ListenerHttpStats, RouterStats};
use crate::{
    config::http_connection_manager::HttpConnectionManager, listener::Build, router,
};

/// One connection manager; shared by all connections of its listener.
#[derive(Debug)]
pub struct HcmRuntime {
    /// What it was built from.
    pub config: Arc<HttpConnectionManager>,
    /// `http.<stat_prefix>.…`
    pub stats: HcmStats,
    /// Of its router filter, same scope.
    pub router_stats: RouterStats,
    /// `listener.<address>.http.<stat_prefix>.…`
    pub listener_stats: ListenerHttpStats,
    /// The compiled table of an inline route configuration; others are in the snapshot.
    pub inline_routes: Option<Arc<router::Table>>,
}

impl HcmRuntime {
    /// Resolves what request code needs.
    #[must_use]
    pub fn new(
        config: Arc<HttpConnectionManager>,
        inline_routes: Option<Arc<router::Table>>,
        build: &Build,
        listener_scope: &str,
    ) -> Self {
        let registry = &build.registry;
        let prefix = format!("http.{}", config.stat_prefix);
        let listener_prefix = format!("{listener_scope}.{prefix}");
        Self {
            stats: HcmStats::new(registry, &prefix),
            router_stats: RouterStats::new(registry, &prefix),
            listener_stats: ListenerHttpStats::new(registry, &listener_prefix),
            inline_routes,
            config,
        }
    }
}
