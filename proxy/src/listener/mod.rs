//! Listeners at run time: bound sockets, statistics, and what accepted connections are given to.

mod sockets;
mod stats;

use std::{net::IpAddr, sync::Arc};

pub use sockets::{Sockets, prepare_accepted};
pub use stats::ListenerStats;

use crate::{
    config::{
        http_connection_manager::RouteSource,
        listener::{Listener, NetworkFilter},
    },
    http::connection_manager::HcmRuntime,
    router::Table,
    telemetry::{access_log::AccessLogs, otlp::Exporters, stats::Registry},
};

/// What listeners are built with.
#[derive(Debug)]
pub struct Build {
    /// Where statistics live.
    pub registry: Registry,
    /// How many workers take sockets.
    pub workers: usize,
    /// Where access logs go.
    pub access_logs: AccessLogs,
    /// Where spans go.
    pub exporters: Exporters,
    /// This machine's address, appended to `x-forwarded-for` for clients on the loopback.
    pub own_address: IpAddr,
    /// Replies of our own say why in `x-outrigger-reason`.
    pub shows_reasons: bool,
    /// `node.cluster`, for `x-envoy-downstream-service-cluster`.
    pub service_cluster: Arc<str>,
    /// `node.id`, for `x-envoy-downstream-service-node`.
    pub service_node: Arc<str>,
}

/// One listener of a snapshot.
#[derive(Debug)]
pub struct Active {
    /// What it was built from.
    pub config: Arc<Listener>,
    /// `listener.<address>.…`
    pub stats: ListenerStats,
    /// The connection manager of its filter chain.
    pub hcm: Arc<HcmRuntime>,
    /// Its bound sockets, in the order of its addresses.
    pub sockets: Vec<Arc<Sockets>>,
}

impl Active {
    /// Binds the addresses (or takes over the sockets of `previous`) and resolves what connections
    /// need. Nothing listens before a snapshot with it is published.
    ///
    /// # Errors
    /// Says why an address can't be bound or the inline routes can't be compiled.
    pub fn new(
        config: Arc<Listener>,
        previous: Option<&Arc<Self>>,
        build: &Build,
    ) -> Result<Arc<Self>, String> {
        let Some(chain) = config.filter_chains.first() else {
            return Err(format!("listener '{}' has no filter chain", config.name));
        };
        let NetworkFilter::HttpConnectionManager(manager) = &chain.filter;
        let old: &[_] = previous.map_or(&[], |previous| &previous.sockets);
        let mut sockets = Vec::with_capacity(config.addresses.len());
        for address in &config.addresses {
            sockets.push(
                Sockets::bind(*address, &config, build.workers, old).map_err(|error| {
                    format!(
                        "error adding listener '{}': cannot bind '{address}': {error}",
                        config.name
                    )
                })?,
            );
        }
        let inline_routes = match &manager.routes {
            RouteSource::Inline(routes) => {
                let table =
                    Table::compile(Arc::clone(routes), &build.registry).map_err(|errors| {
                        errors
                            .iter()
                            .map(ToString::to_string)
                            .collect::<Vec<_>>()
                            .join("; ")
                    })?;
                Some(Arc::new(table))
            }
            RouteSource::Rds { .. } => None,
        };
        let scope = format!("listener.{}", stat_name(&config, &sockets));
        let hcm = HcmRuntime::new(
            Arc::clone(manager),
            inline_routes,
            build,
            config.direction,
            &scope,
        )?;
        Ok(Arc::new(Self {
            stats: ListenerStats::new(&build.registry.scope(&scope)),
            hcm: Arc::new(hcm),
            sockets,
            config,
        }))
    }
}

impl Active {
    /// How many workers accept its connections.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.sockets.first().map_or(1, |sockets| sockets.workers())
    }
}

/// The listener's name in statistics: `stat_prefix`, or its first address with `_` for `:`.
fn stat_name(config: &Listener, sockets: &[Arc<Sockets>]) -> String {
    match (&config.stat_prefix, sockets.first()) {
        (Some(prefix), _) => prefix.to_string(),
        (None, Some(first)) => first.configured_or_bound().to_string().replace(':', "_"),
        (None, None) => config.name.replace(':', "_"),
    }
}
