//! Listeners at run time: bound sockets, statistics, and what accepted connections are given to.

mod stats;

use std::sync::Arc;

pub use stats::ListenerStats;

use crate::{config, http::connection_manager::HcmRuntime};

/// One listener of a snapshot.
#[derive(Debug)]
pub struct Active {
    /// What it was built from.
    pub config: Arc<config::listener::Listener>,
    /// `listener.<address>.…`
    pub stats: ListenerStats,
    /// The connection manager of its filter chain.
    pub hcm: Arc<HcmRuntime>,
}
