//! Route configurations (`envoy.config.route.v3`), as written; `router::table` compiles them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    hash_policy::HashPolicy,
    header::HeaderMutations,
    matcher::{HeaderKey, HeaderMatcher, QueryMatcher},
    mirror::MirrorPolicy,
    per_filter::PerFilterConfigs,
    retry::{BufferLimit, RetryPolicy},
    upgrade::Upgrade,
};

/// `envoy.config.route.v3.RouteConfiguration`.
#[derive(Clone, Debug)]
pub struct RouteConfiguration {
    /// The name that RDS and admin know it by.
    pub name: Arc<str>,
    /// In order of definition; domains are unique over all of them.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Applied to requests.
    pub request_headers: HeaderMutations,
    /// Applied to responses.
    pub response_headers: HeaderMutations,
    /// Headers removed from external requests.
    pub internal_only_headers: Vec<http::HeaderName>,
    /// Evaluate route configuration → virtual host → route instead of the reverse.
    pub most_specific_header_mutations_wins: bool,
    /// Every cluster named must exist. Envoy's default: true for inline, false for RDS.
    pub validate_clusters: bool,
    /// `host:port` matches a domain without port.
    pub ignore_port_in_host_matching: bool,
    /// Limit for direct responses' bodies in bytes (default 4096).
    pub max_direct_response_body_size_bytes: u32,
    /// Strip `;params` from each path segment before matching.
    pub ignore_path_parameters_in_path_matching: bool,
    /// `typed_per_filter_config`
    pub per_filter: PerFilterConfigs,
}

impl RouteConfiguration {
    /// Every cluster that a route names and `exists` does not know, with the route's path.
    pub fn unknown_clusters(
        &self,
        exists: &dyn Fn(&str) -> bool,
    ) -> Vec<crate::convert::ConfigError> {
        let mut missing = Vec::new();
        for (host, virtual_host) in self.virtual_hosts.iter().enumerate() {
            for (index, route) in virtual_host.routes.iter().enumerate() {
                let Action::Forward(forward) = &route.action else {
                    continue;
                };
                let mut note = |name: &str, place: &str, what: &str| {
                    if !exists(name) {
                        missing.push(crate::convert::ConfigError {
                            path: format!("virtual_hosts[{host}].routes[{index}].route.{place}"),
                            reason: format!("route: unknown {what} '{name}'"),
                        });
                    }
                };
                for (place, mirror) in forward.mirrors.iter().enumerate() {
                    if let ClusterName::Name(name) = &mirror.cluster {
                        let place = format!("request_mirror_policies[{place}].cluster");
                        note(name, &place, "shadow cluster");
                    }
                }
                let mut check = |name: &str, place: &str| note(name, place, "cluster");
                match &forward.cluster {
                    ClusterSpecifier::Cluster(name) => check(name, "cluster"),
                    ClusterSpecifier::Header(_) => {}
                    ClusterSpecifier::Weighted(weighted) => {
                        for (place, one) in weighted.clusters.iter().enumerate() {
                            if let ClusterName::Name(name) = &one.cluster {
                                check(name, &format!("weighted_clusters.clusters[{place}].name"));
                            }
                        }
                    }
                }
            }
        }
        missing
    }
}

/// `envoy.config.route.v3.VirtualHost`.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    /// For statistics and access logs.
    pub name: Arc<str>,
    /// Exact, `*.suffix`, `prefix.*` or `*`; lower-cased.
    pub domains: Vec<Arc<str>>,
    /// First match wins.
    pub routes: Vec<Arc<Route>>,
    /// Redirect plain-text requests.
    pub require_tls: TlsRequirement,
    /// Applied to requests.
    pub request_headers: HeaderMutations,
    /// Applied to responses.
    pub response_headers: HeaderMutations,
    /// Send `x-envoy-attempt-count` upstream.
    pub include_request_attempt_count: bool,
    /// Send `x-envoy-attempt-count` downstream.
    pub include_attempt_count_in_response: bool,
    /// `typed_per_filter_config`
    pub per_filter: PerFilterConfigs,
    /// Send `x-envoy-is-timeout-retry` upstream with each retry.
    pub include_is_timeout_retry_header: bool,
}

/// `VirtualHost.TlsRequirementType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsRequirement {
    /// No requirement.
    #[default]
    None,
    /// External requests must be TLS.
    ExternalOnly,
    /// All requests must be TLS.
    All,
}

/// `envoy.config.route.v3.Route`.
#[derive(Clone, Debug)]
pub struct Route {
    /// May be empty.
    pub name: Arc<str>,
    /// What the request must look like.
    pub matches: RouteMatch,
    /// What is done with it.
    pub action: Action,
    /// Applied to requests.
    pub request_headers: HeaderMutations,
    /// Applied to responses.
    pub response_headers: HeaderMutations,
    /// `decorator.operation`: the span's name.
    pub operation: Option<Arc<str>>,
    /// The same for `x-envoy-decorator-operation`, unless `decorator.propagate` is false.
    pub propagated_operation: Option<http::HeaderValue>,
    /// Sampling of this route, if overridden.
    pub tracing: Option<super::tracing::RouteTracing>,
    /// Object and rule that made this route (`HTTPRoute/shop/reviews rule 1`), from
    /// `metadata.filter_metadata["outrigger.dev"].origin`; else the route's name; for
    /// `x-outrigger-reason`.
    pub origin: Arc<str>,
    /// `typed_per_filter_config`
    pub per_filter: PerFilterConfigs,
}

/// `envoy.config.route.v3.RouteMatch`.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// On the path without query.
    pub path: PathMatch,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// All must match.
    pub query_parameters: Vec<QueryMatcher>,
    /// Only gRPC requests (`content-type: application/grpc…`).
    pub grpc: bool,
}

/// `RouteMatch.path_specifier`.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Begins with (bytes, any boundary).
    Prefix {
        /// What to look for.
        value: Arc<str>,
        /// ASCII case matters.
        case_sensitive: bool,
    },
    /// Equal.
    Exact {
        /// What to look for.
        value: Arc<str>,
        /// ASCII case matters.
        case_sensitive: bool,
    },
    /// Equal, or begins with it and `/`.
    SeparatedPrefix {
        /// What to look for.
        value: Arc<str>,
        /// ASCII case matters.
        case_sensitive: bool,
    },
    /// The whole path matches.
    Regex(regex::bytes::Regex),
}

/// `Route.action`.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send it to a cluster.
    Forward(Box<Forward>),
    /// Answer with a redirect.
    Redirect(Box<Redirect>),
    /// Answer directly.
    DirectResponse(DirectResponse),
}

/// `envoy.config.route.v3.RouteAction`.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Which cluster.
    pub cluster: ClusterSpecifier,
    /// Status when that cluster does not exist: 503 (default), 404 or 500.
    pub cluster_not_found_status: http::StatusCode,
    /// Path rewrite.
    pub path_rewrite: Option<PathRewrite>,
    /// Host rewrite.
    pub host_rewrite: Option<HostRewrite>,
    /// Append the original host to `x-forwarded-host` when it is rewritten.
    pub append_x_forwarded_host: bool,
    /// Whole response; zero is no limit. Default 15 s.
    pub timeout: Duration,
    /// Stream idle timeout, overriding the connection manager's; zero switches it off.
    pub idle_timeout: Option<Duration>,
    /// `max_stream_duration.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// `grpc-timeout` header handling (`max_stream_duration.grpc_timeout_header_max`): `Some(0)` uses
    /// the header as it is, another value caps it.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Subtracted from the `grpc-timeout` header's value.
    pub grpc_timeout_header_offset: Option<Duration>,
    /// The older `max_grpc_timeout`: `grpc-timeout` is the timeout, at most this; zero: as it is.
    pub max_grpc_timeout: Option<Duration>,
    /// Subtracted from it.
    pub grpc_timeout_offset: Option<Duration>,
    /// Which circuit-breaker thresholds count.
    pub priority: Priority,
    /// What of a request says which host, or which weighted cluster, it goes to.
    pub hash_policy: Vec<HashPolicy>,
    /// Who else gets the request: the route's own, else those of the level above.
    pub mirrors: Arc<[MirrorPolicy]>,
    /// When it is tried again: the route's policy, else its virtual host's.
    pub retry: Option<Arc<RetryPolicy>>,
    /// How much of a body is kept for another try: the route's limit, else its virtual host's.
    pub buffer_limit: BufferLimit,
    /// To what connections may switch; overrides the connection manager.
    pub upgrades: Vec<Upgrade>,
}

/// `envoy.config.core.v3.RoutingPriority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// The default.
    #[default]
    Default,
    /// High.
    High,
}

/// `RouteAction.cluster_specifier`.
#[derive(Clone, Debug)]
pub enum ClusterSpecifier {
    /// One cluster.
    Cluster(Arc<str>),
    /// The value of a request header.
    Header(HeaderKey),
    /// A weighted choice.
    Weighted(WeightedClusters),
}

/// `envoy.config.route.v3.WeightedCluster`.
#[derive(Clone, Debug)]
pub struct WeightedClusters {
    /// In order of definition.
    pub clusters: Vec<WeightedCluster>,
    /// The sum of weights, at least 1.
    pub total: u32,
    /// Where the number that chooses comes from.
    pub random: RandomValue,
}

/// `WeightedCluster.random_value_specifier`, and ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RandomValue {
    /// Chance.
    #[default]
    Chance,
    /// The number in this request header, if there is exactly one.
    Header(HeaderKey),
    /// The route's hash policies, if they find something.
    HashPolicy,
    /// The same, by a rule that moves as few as possible when weights change, and mints the cookie of a
    /// hash policy so that a first visit counts too: the route's metadata says
    /// `outrigger.dev: {sticky: monotone}`.
    Monotone,
}

/// `WeightedCluster.ClusterWeight`.
#[derive(Clone, Debug)]
pub struct WeightedCluster {
    /// The cluster's name, or the header that has it.
    pub cluster: ClusterName,
    /// Share of the total; zero is never chosen.
    pub weight: u32,
    /// Applied to requests, before the route's.
    pub request_headers: HeaderMutations,
    /// Applied to responses, before the route's.
    pub response_headers: HeaderMutations,
    /// `host_rewrite_literal`.
    pub host_rewrite: Option<http::HeaderValue>,
    /// `typed_per_filter_config`
    pub per_filter: PerFilterConfigs,
}

/// How a weighted cluster is named.
#[derive(Clone, Debug)]
pub enum ClusterName {
    /// By name.
    Name(Arc<str>),
    /// By a request header.
    Header(HeaderKey),
}

/// Path rewrites of a [`Forward`].
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// Replaces the matched prefix (or whole path).
    Prefix(Arc<str>),
    /// Replaces every match in the path (without query).
    Regex {
        /// What to look for.
        pattern: regex::bytes::Regex,
        /// What to put there; `\1` is the first group.
        substitution: Bytes,
    },
}

/// `RouteAction.host_rewrite_specifier`.
#[derive(Clone, Debug)]
pub enum HostRewrite {
    /// This value.
    Literal(http::HeaderValue),
    /// The chosen upstream host's name (STRICT_DNS, LOGICAL_DNS).
    Auto,
    /// Another header's value.
    Header(http::HeaderName),
    /// By regex over the path.
    PathRegex {
        /// What to look for.
        pattern: regex::bytes::Regex,
        /// What to put there; `\1` is the first group.
        substitution: Bytes,
    },
}

/// `envoy.config.route.v3.RedirectAction`.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// New scheme.
    pub scheme: Option<SchemeRedirect>,
    /// New host.
    pub host: Option<Arc<str>>,
    /// New port; zero or none keeps it.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<PathRedirect>,
    /// 301, 302, 303, 307 or 308.
    pub status: http::StatusCode,
    /// Drop the query.
    pub strip_query: bool,
}

/// `RedirectAction.scheme_rewrite_specifier`.
#[derive(Clone, Debug)]
pub enum SchemeRedirect {
    /// To https.
    Https,
    /// To this scheme.
    Scheme(Arc<str>),
}

/// `RedirectAction.path_rewrite_specifier`.
#[derive(Clone, Debug)]
pub enum PathRedirect {
    /// The whole path; a `?` in it replaces the query too.
    Path(Arc<str>),
    /// Replaces the matched prefix.
    Prefix(Arc<str>),
    /// By regex.
    Regex {
        /// What to look for.
        pattern: regex::bytes::Regex,
        /// What to put there; `\1` is the first group.
        substitution: Bytes,
    },
}

/// `envoy.config.route.v3.DirectResponseAction`.
#[derive(Clone, Debug)]
pub struct DirectResponse {
    /// 200–599.
    pub status: http::StatusCode,
    /// May be empty.
    pub body: Bytes,
}
