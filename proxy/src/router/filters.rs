//! The settings of filters at each place of a route table that a request can end at.

use std::sync::Arc;

use crate::{
    config::route::{Action, ClusterSpecifier, Route, RouteConfiguration, WeightedCluster},
    filters::http::{Overrides, RouteBuild},
};

/// The settings of a level and of those above it; none where no level has any.
type Settings = Option<Arc<Overrides>>;

/// The settings of a route configuration and of what is below it.
#[derive(Debug)]
pub(super) struct TableFilters {
    /// Empty where no level has any settings: the usual table.
    hosts: Box<[HostFilters]>,
}

#[derive(Debug)]
struct HostFilters {
    settings: Settings,
    /// By place of the route.
    routes: Box<[RouteFilters]>,
}

#[derive(Debug)]
struct RouteFilters {
    settings: Settings,
    /// By place of the cluster.
    clusters: Box<[Settings]>,
}

impl TableFilters {
    pub(super) fn compile(config: &RouteConfiguration, build: RouteBuild<'_>) -> Self {
        if !has_settings(config) {
            return Self {
                hosts: Box::default(),
            };
        }
        let top = Overrides::below(None, &config.per_filter, build);
        let hosts = config.virtual_hosts.iter().map(|host| {
            let settings = Overrides::below(top.as_ref(), &host.per_filter, build);
            let routes = host.routes.iter().map(|route| {
                let settings = Overrides::below(settings.as_ref(), &route.per_filter, build);
                let clusters = weighted(route)
                    .iter()
                    .map(|cluster| Overrides::below(settings.as_ref(), &cluster.per_filter, build));
                RouteFilters {
                    clusters: clusters.collect(),
                    settings,
                }
            });
            HostFilters {
                routes: routes.collect(),
                settings,
            }
        });
        Self {
            hosts: hosts.collect(),
        }
    }

    /// Those of a weighted cluster, a route or a virtual host: the most specific that was chosen.
    pub(super) fn find(
        &self,
        host: u32,
        route: Option<u32>,
        cluster: Option<usize>,
    ) -> Option<&Arc<Overrides>> {
        let host = self.hosts.get(host as usize)?;
        let Some(route) = route.and_then(|route| host.routes.get(route as usize)) else {
            return host.settings.as_ref();
        };
        cluster
            .and_then(|cluster| route.clusters.get(cluster))
            .unwrap_or(&route.settings)
            .as_ref()
    }
}

fn has_settings(config: &RouteConfiguration) -> bool {
    !config.per_filter.is_empty()
        || config.virtual_hosts.iter().any(|host| {
            !host.per_filter.is_empty()
                || host.routes.iter().any(|route| {
                    !route.per_filter.is_empty()
                        || weighted(route)
                            .iter()
                            .any(|cluster| !cluster.per_filter.is_empty())
                })
        })
}

fn weighted(route: &Route) -> &[WeightedCluster] {
    match &route.action {
        Action::Forward(forward) => match &forward.cluster {
            ClusterSpecifier::Weighted(weighted) => &weighted.clusters,
            ClusterSpecifier::Cluster(_) | ClusterSpecifier::Header(_) => &[],
        },
        Action::Redirect(_) | Action::DirectResponse(_) => &[],
    }
}
