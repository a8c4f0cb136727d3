//! Route tables: compiled once from a route configuration, then only read.
//!
//! A request's host picks the virtual host (exact name, longest `*.suffix`, longest `prefix.*`, `*`);
//! in it the first matching route in order of definition wins. Finding allocates nothing.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderName, StatusCode, request::Parts, uri::Scheme};
use smallvec::SmallVec;

use super::{
    filters::TableFilters,
    index::Index,
    levels::{HostLevels, Levels},
    matcher::{View, route_matches, without_parameters},
    mutate::Mutations,
};
use crate::{
    config::{
        header::HeaderMutations,
        per_filter::PerFilterConfigs,
        route::{
            Action, PathMatch, Redirect, Route, RouteConfiguration, RouteMatch, SchemeRedirect,
            TlsRequirement, VirtualHost,
        },
    },
    convert::ConfigError,
    filters::http::{Overrides, RouteBuild},
    telemetry::{format::NeededHeaders, stats::Registry},
};

type Map = HashMap<Box<[u8]>, u32, foldhash::fast::FixedState>;

/// A compiled route configuration.
#[derive(Debug)]
pub struct Table {
    /// What it was compiled from.
    pub config: Arc<RouteConfiguration>,
    exact: Map,
    /// What follows `*`, by length, longest first.
    suffixes: Vec<(usize, Map)>,
    /// What precedes `*`, by length, longest first.
    prefixes: Vec<(usize, Map)>,
    default: Option<u32>,
    indices: Vec<Index>,
    levels: Levels,
    host_levels: Vec<HostLevels>,
    filters: TableFilters,
    /// Request headers that changes of responses read.
    needed: Box<[HeaderName]>,
    /// Whether changes of responses read the request.
    reads_request: bool,
    /// Stands in for the routes of virtual hosts that require TLS.
    tls_redirect: Arc<Route>,
}

/// The route of a request, with the levels above it.
#[derive(Clone, Debug)]
pub struct Match {
    /// The table that it was found in.
    pub table: Arc<Table>,
    virtual_host: u32,
    /// None for the redirect of virtual hosts that require TLS.
    index: Option<u32>,
    /// The route.
    pub route: Arc<Route>,
    /// The place of the cluster that was chosen among weighted ones.
    pub place: Option<usize>,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Request,
    Response,
}

impl Match {
    /// The virtual host that the route belongs to.
    #[must_use]
    pub fn virtual_host(&self) -> &VirtualHost {
        &self.table.config.virtual_hosts[self.virtual_host as usize]
    }

    /// The settings of filters that apply.
    #[must_use]
    pub fn filters(&self) -> Option<&Arc<Overrides>> {
        self.table
            .filters
            .find(self.virtual_host, self.index, self.place)
    }

    /// The header changes that apply, in order; `cluster` is the place of the weighted cluster.
    pub(super) fn mutations(
        &self,
        direction: Direction,
        cluster: Option<usize>,
    ) -> impl Iterator<Item = &Mutations> {
        let host = &self.table.host_levels[self.virtual_host as usize];
        let route = self.index.and_then(|index| host.routes.get(index as usize));
        let cluster = route.and_then(|route| route.clusters.get(cluster?));
        let mut levels = [
            route.map(|route| &route.levels),
            Some(&host.levels),
            Some(&self.table.levels),
        ];
        if self.table.config.most_specific_header_mutations_wins {
            levels.reverse();
        }
        std::iter::once(cluster)
            .chain(levels)
            .flatten()
            .filter_map(move |levels| match direction {
                Direction::Request => levels.request.as_deref(),
                Direction::Response => levels.response.as_deref(),
            })
    }

    /// Names of request headers that changes of the response read; none if they read nothing.
    pub(super) fn needed(&self) -> Option<&[HeaderName]> {
        self.table.reads_request.then_some(&self.table.needed)
    }
}

impl Table {
    /// Compiles a route configuration.
    ///
    /// # Errors
    /// Domains that occur twice.
    pub fn compile(
        config: Arc<RouteConfiguration>,
        registry: &Registry,
    ) -> Result<Self, Vec<ConfigError>> {
        let host_levels: Vec<HostLevels> = config
            .virtual_hosts
            .iter()
            .map(HostLevels::compile)
            .collect();
        let levels = Levels::compile(&config.request_headers, &config.response_headers);
        let mut needed = NeededHeaders::default();
        let mut reads_request = false;
        let all = host_levels
            .iter()
            .flat_map(HostLevels::all)
            .chain([&levels]);
        for format in all
            .filter_map(|levels| levels.response.as_deref())
            .flat_map(Mutations::formats)
        {
            needed.add(format);
            reads_request = true;
        }
        let mut table = Self {
            exact: Map::default(),
            suffixes: Vec::new(),
            prefixes: Vec::new(),
            default: None,
            indices: config
                .virtual_hosts
                .iter()
                .map(|host| Index::new(&host.routes))
                .collect(),
            levels,
            host_levels,
            filters: TableFilters::compile(&config, RouteBuild { registry }),
            needed: needed.request.into(),
            reads_request,
            tls_redirect: Arc::new(tls_redirect()),
            config: Arc::clone(&config),
        };
        let mut errors = Vec::new();
        for (index, host) in (0_u32..).zip(&config.virtual_hosts) {
            for (position, domain) in host.domains.iter().enumerate() {
                if !table.add_domain(&domain.to_ascii_lowercase(), index) {
                    errors.push(ConfigError {
                        path: format!("virtual_hosts[{index}].domains[{position}]"),
                        reason: format!(
                            "Only unique values for domains are permitted. Duplicate entry of \
                             domain {domain} in route {}",
                            config.name
                        ),
                    });
                }
            }
        }
        table
            .suffixes
            .sort_unstable_by_key(|(length, _)| std::cmp::Reverse(*length));
        table
            .prefixes
            .sort_unstable_by_key(|(length, _)| std::cmp::Reverse(*length));
        if errors.is_empty() {
            Ok(table)
        } else {
            Err(errors)
        }
    }

    fn add_domain(&mut self, domain: &str, host: u32) -> bool {
        let (map, key) = if domain == "*" {
            return self.default.replace(host).is_none();
        } else if let Some(suffix) = domain.strip_prefix('*') {
            (of_length(&mut self.suffixes, suffix.len()), suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (of_length(&mut self.prefixes, prefix.len()), prefix)
        } else {
            (&mut self.exact, domain)
        };
        map.insert(key.as_bytes().into(), host).is_none()
    }

    /// The route for a request, or none. `is_internal` is for virtual hosts that require TLS of
    /// external requests only.
    #[must_use]
    pub fn find(
        self: &Arc<Self>,
        parts: &Parts,
        scheme: &Scheme,
        is_internal: bool,
    ) -> Option<Match> {
        let mut view = View::new(parts, scheme);
        let stripped;
        if self.config.ignore_path_parameters_in_path_matching && view.path.contains(';') {
            stripped = without_parameters(view.path);
            view.path = std::str::from_utf8(&stripped).unwrap_or(view.path);
        }
        let (virtual_host, host) = self.virtual_host(view.host)?;
        let needs_tls = match host.require_tls {
            TlsRequirement::None => false,
            TlsRequirement::ExternalOnly => !is_internal && *scheme != Scheme::HTTPS,
            TlsRequirement::All => *scheme != Scheme::HTTPS,
        };
        let (index, route) = if needs_tls {
            (None, &self.tls_redirect)
        } else {
            self.indices[virtual_host as usize]
                .candidates(view.path)
                .filter_map(|index| Some((Some(index), host.routes.get(index as usize)?)))
                .find(|(_, route)| route_matches(&route.matches, &view))?
        };
        Some(Match {
            table: Arc::clone(self),
            virtual_host,
            index,
            route: Arc::clone(route),
            place: None,
        })
    }

    fn virtual_host(&self, host: &[u8]) -> Option<(u32, &VirtualHost)> {
        let index = self.host_index(host)?;
        Some((index, self.config.virtual_hosts.get(index as usize)?))
    }

    fn host_index(&self, host: &[u8]) -> Option<u32> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.default;
        }
        let mut host = host;
        if self.config.ignore_port_in_host_matching {
            host = without_port(host);
        }
        let lower: SmallVec<[u8; 256]>;
        if host.iter().any(u8::is_ascii_uppercase) {
            lower = host.iter().map(u8::to_ascii_lowercase).collect();
            host = &lower;
        }
        if let Some(index) = self.exact.get(host) {
            return Some(*index);
        }
        // A wildcard stands for at least one character.
        let suffix = |(length, map): &(usize, Map)| {
            let start = host.len().checked_sub(*length).filter(|start| *start > 0)?;
            map.get(&host[start..]).copied()
        };
        let prefix = |(length, map): &(usize, Map)| {
            (host.len() > *length).then(|| map.get(&host[..*length]).copied())?
        };
        self.suffixes
            .iter()
            .find_map(suffix)
            .or_else(|| self.prefixes.iter().find_map(prefix))
            .or(self.default)
    }
}

fn of_length(maps: &mut Vec<(usize, Map)>, length: usize) -> &mut Map {
    let place = match maps.iter().position(|(known, _)| *known == length) {
        Some(place) => place,
        None => {
            maps.push((length, Map::default()));
            maps.len() - 1
        }
    };
    &mut maps[place].1
}

/// The host without `:port`; the colons of a bare IPv6 address do not count.
pub(super) fn without_port(host: &[u8]) -> &[u8] {
    let colon = host.iter().rposition(|byte| *byte == b':');
    let bracket = host.iter().rposition(|byte| *byte == b']');
    match (colon, bracket) {
        (Some(colon), None) => &host[..colon],
        (Some(colon), Some(bracket)) if bracket < colon => &host[..colon],
        _ => host,
    }
}

fn tls_redirect() -> Route {
    Route {
        name: Arc::from(""),
        matches: RouteMatch {
            path: PathMatch::Prefix {
                value: Arc::from("/"),
                case_sensitive: true,
            },
            headers: Vec::new(),
            query_parameters: Vec::new(),
            grpc: false,
        },
        action: Action::Redirect(Box::new(Redirect {
            scheme: Some(SchemeRedirect::Https),
            host: None,
            port: None,
            path: None,
            status: StatusCode::MOVED_PERMANENTLY,
            strip_query: false,
        })),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        operation: None,
        propagated_operation: None,
        tracing: None,
        origin: Arc::from("require_tls"),
        per_filter: PerFilterConfigs::default(),
    }
}
