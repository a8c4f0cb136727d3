//! The HTTP connection manager at run time: its configuration with what was resolved from it once.

use std::{net::IpAddr, sync::Arc};

use super::{
    http1,
    stats::{HcmStats, Responses, RouterStats},
};
use crate::{
    config::{
        http_connection_manager::{HttpConnectionManager, RouteSource},
        listener::TrafficDirection,
    },
    filters::http::{Factories, FilterBuild},
    listener::Build,
    router,
    snapshot::Snapshot,
    telemetry::{access_log::Loggers, format::NeededHeaders, span::Tracer},
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
    pub listener_responses: Responses,
    /// The compiled table of an inline route configuration; others are in the snapshot.
    pub inline_routes: Option<Arc<router::Table>>,
    /// hyper's settings.
    pub http1: hyper::server::conn::http1::Builder,
    /// HTTP filters before the router.
    pub filters: Factories,
    /// Access logs.
    pub access_logs: Loggers,
    /// Spans, if they go anywhere.
    pub tracer: Option<Tracer>,
    /// What access logs and spans read of a stream; none if there is neither.
    pub needed: Option<NeededHeaders>,
    /// Local replies say why in `x-outrigger-reason`.
    pub shows_reason: bool,
    /// This machine's address, for `x-forwarded-for`.
    pub own_address: IpAddr,
    /// `node.cluster`
    pub service_cluster: Arc<str>,
    /// `node.id`
    pub service_node: Arc<str>,
}

impl HcmRuntime {
    /// Resolves what request code needs.
    ///
    /// # Errors
    /// An access log cannot be opened.
    pub fn new(
        config: Arc<HttpConnectionManager>,
        inline_routes: Option<Arc<router::Table>>,
        build: &Build,
        direction: TrafficDirection,
        listener_scope: &str,
    ) -> Result<Self, String> {
        let registry = &build.registry;
        let prefix = format!("http.{}", config.stat_prefix);
        let listener_prefix = format!("{listener_scope}.{prefix}");
        let access_logs = build.access_logs.compile(&config.access_log)?;
        let tracer = config.tracing.as_ref().and_then(|tracing| {
            Tracer::new(
                tracing,
                direction,
                &build.exporters,
                &registry.scope(&prefix),
            )
        });
        let mut needed = access_logs.needed().clone();
        if let Some(tracer) = &tracer {
            needed.merge(tracer.needed());
        }
        Ok(Self {
            stats: HcmStats::new(registry, &prefix),
            router_stats: RouterStats::new(registry, &prefix),
            listener_responses: Responses::new(&registry.scope(&listener_prefix), "downstream_rq"),
            inline_routes,
            http1: http1::builder(&config),
            filters: Factories::new(
                &config.filters,
                FilterBuild {
                    registry,
                    scope: &prefix,
                    is_disabled: false,
                },
            ),
            needed: (tracer.is_some() || !access_logs.is_empty()).then_some(needed),
            tracer,
            access_logs,
            shows_reason: build.shows_reasons,
            own_address: build.own_address,
            service_cluster: Arc::clone(&build.service_cluster),
            service_node: Arc::clone(&build.service_node),
            config,
        })
    }

    /// The route table that a stream sees.
    #[must_use]
    pub fn table<'a>(&'a self, snapshot: &'a Snapshot) -> Option<&'a Arc<router::Table>> {
        match &self.config.routes {
            RouteSource::Inline(_) => self.inline_routes.as_ref(),
            source @ RouteSource::Rds { .. } => snapshot.table(source),
        }
    }
}
