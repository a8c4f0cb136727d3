//! The header changes of each level of a route table, compiled.

use super::mutate::{Level, Mutations};
use crate::config::{
    header::HeaderMutations,
    route::{Action, ClusterSpecifier, Route, VirtualHost},
};

/// The changes of one level.
#[derive(Debug, Default)]
pub(super) struct Levels {
    pub(super) request: Level,
    pub(super) response: Level,
}

/// The changes of a virtual host and of what is below it.
#[derive(Debug)]
pub(super) struct HostLevels {
    pub(super) levels: Levels,
    /// By place of the route.
    pub(super) routes: Box<[RouteLevels]>,
}

/// The changes of a route and of its weighted clusters.
#[derive(Debug)]
pub(super) struct RouteLevels {
    pub(super) levels: Levels,
    /// By place of the cluster.
    pub(super) clusters: Box<[Levels]>,
}

impl Levels {
    pub(super) fn compile(request: &HeaderMutations, response: &HeaderMutations) -> Self {
        Self {
            request: Mutations::compile(request),
            response: Mutations::compile(response),
        }
    }
}

impl HostLevels {
    pub(super) fn compile(host: &VirtualHost) -> Self {
        Self {
            levels: Levels::compile(&host.request_headers, &host.response_headers),
            routes: host
                .routes
                .iter()
                .map(|route| RouteLevels::compile(route))
                .collect(),
        }
    }

    /// Every level from here down.
    pub(super) fn all(&self) -> impl Iterator<Item = &Levels> {
        let routes = self.routes.iter();
        let below = routes.flat_map(|route| std::iter::once(&route.levels).chain(&route.clusters));
        std::iter::once(&self.levels).chain(below)
    }
}

impl RouteLevels {
    fn compile(route: &Route) -> Self {
        let clusters = match &route.action {
            Action::Forward(forward) => match &forward.cluster {
                ClusterSpecifier::Weighted(weighted) => &weighted.clusters[..],
                ClusterSpecifier::Cluster(_) | ClusterSpecifier::Header(_) => &[],
            },
            Action::Redirect(_) | Action::DirectResponse(_) => &[],
        };
        Self {
            levels: Levels::compile(&route.request_headers, &route.response_headers),
            clusters: clusters
                .iter()
                .map(|cluster| Levels::compile(&cluster.request_headers, &cluster.response_headers))
                .collect(),
        }
    }
}
