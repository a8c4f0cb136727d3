//! Listeners at run time: bound sockets, statistics, and what accepted connections are given to.

pub mod filters;
pub mod protocol_choice;
mod sockets;
mod stats;

use std::{net::IpAddr, sync::Arc};

use protocol_choice::ChoiceStats;
pub use sockets::{Sockets, prepare_accepted};
pub use stats::ListenerStats;

use crate::{
    config::{
        http_connection_manager::RouteSource,
        listener::{Listener, NetworkFilter, TrafficDirection},
    },
    filters::network::tcp_proxy::TcpProxyRuntime,
    http::connection_manager::HcmRuntime,
    router::Table,
    telemetry::{
        access_log::{AccessLogs, Loggers},
        otlp::Exporters,
        stats::Registry,
    },
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

/// The network filter of a chain.
#[derive(Clone, Debug)]
pub enum ChainFilter {
    /// Requests are understood.
    Http(Arc<HcmRuntime>),
    /// Bytes are passed on.
    Tcp(Arc<TcpProxyRuntime>),
}

/// One listener of a snapshot.
#[derive(Debug)]
pub struct Active {
    /// What it was built from.
    pub config: Arc<Listener>,
    /// `listener.<address>.…`
    pub stats: ListenerStats,
    /// What its filter chains do, in their order.
    pub chains: Vec<ChainFilter>,
    /// Connection-level access logs.
    pub access_logs: Loggers,
    /// `tls_inspector.…`, `http_inspector.…`
    pub filter_stats: Option<filters::Stats>,
    /// `listener.<address>.protocol_choice.…`
    pub choice_stats: Option<ChoiceStats>,
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
        let scope = format!("listener.{}", stat_name(&config, &sockets));
        let chains = config.filter_chains.iter();
        let chains = chains
            .map(|chain| chain_filter(&chain.filter, build, config.direction, &scope))
            .collect::<Result<_, _>>()?;
        let has_filters = !config.listener_filters.is_empty();
        let stats = build.registry.scope(&scope);
        let has_choice = config.protocol_choice.is_some();
        Ok(Arc::new(Self {
            stats: ListenerStats::new(&stats),
            choice_stats: has_choice.then(|| ChoiceStats::new(&stats)),
            chains,
            access_logs: build.access_logs.compile(&config.access_log)?,
            filter_stats: has_filters.then(|| filters::Stats::new(&build.registry)),
            sockets,
            config,
        }))
    }
}

fn chain_filter(
    filter: &NetworkFilter,
    build: &Build,
    direction: TrafficDirection,
    scope: &str,
) -> Result<ChainFilter, String> {
    let manager = match filter {
        NetworkFilter::HttpConnectionManager(manager) => manager,
        NetworkFilter::TcpProxy(proxy) => {
            let logs = build.access_logs.compile(&proxy.access_log)?;
            let runtime = TcpProxyRuntime::new(Arc::clone(proxy), logs, &build.registry);
            return Ok(ChainFilter::Tcp(Arc::new(runtime)));
        }
    };
    let inline_routes = match &manager.routes {
        RouteSource::Inline(routes) => {
            let table = Table::compile(Arc::clone(routes), &build.registry).map_err(|errors| {
                let errors = errors.iter().map(ToString::to_string);
                errors.collect::<Vec<_>>().join("; ")
            })?;
            Some(Arc::new(table))
        }
        RouteSource::Rds { .. } => None,
    };
    let hcm = HcmRuntime::new(Arc::clone(manager), inline_routes, build, direction, scope)?;
    Ok(ChainFilter::Http(Arc::new(hcm)))
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
