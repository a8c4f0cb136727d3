//! `RouteConfiguration`, `VirtualHost`, `Route`, `RouteMatch`.

use std::{collections::HashMap, sync::Arc};

use http::HeaderValue;
use outrigger_proto::{
    envoy::config::{
        core::v3::Metadata,
        route::v3::{
            Decorator, DirectResponseAction, Route as RouteProto, RouteConfiguration as Proto,
            RouteMatch as MatchProto, Tracing as TracingProto, VirtualHost as VirtualHostProto,
            route, route_match::PathSpecifier, virtual_host::TlsRequirementType,
        },
    },
    google::protobuf::{BoolValue, value::Kind},
};

use super::{header, http_filter, matcher, mirror, retry, route_action, tracing};
use crate::{
    config::retry::{BufferLimit, RetryPolicy},
    config::route::{
        Action, DirectResponse, Forward, PathMatch, Route, RouteConfiguration, RouteMatch,
        TlsRequirement, VirtualHost,
    },
    convert::{Cx, bool_or, u32_or},
    no_effect, unsupported,
};

/// Envoy's default of `max_direct_response_body_size_bytes`.
const MAX_DIRECT_RESPONSE_BODY: u32 = 4096;

/// A whole route configuration. `validate_clusters` has another default inline than from RDS.
pub fn route_configuration(
    cx: &Cx<'_>,
    config: Proto,
    validate_clusters_default: bool,
) -> Option<RouteConfiguration> {
    cx.converts::<Proto>();
    let Proto {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = config;
    unsupported!(
        cx,
        Proto,
        [
            vhds,
            cluster_specifier_plugins,
            vhost_header,
            route_specifiers
        ]
    );
    no_effect!(cx, Proto, "no filter reads route metadata yet", [metadata]);
    let internal = cx.field("internal_only_headers");
    let internal_only_headers = internal_only_headers
        .iter()
        .enumerate()
        .filter_map(|(index, name)| internal.index(index).header_name(name))
        .collect();
    let max_body = u32_or(
        max_direct_response_body_size_bytes,
        MAX_DIRECT_RESPONSE_BODY,
    );
    let hosts_cx = cx.field("virtual_hosts");
    let mut hosts = virtual_hosts
        .into_iter()
        .enumerate()
        .filter_map(|(index, host)| virtual_host(&hosts_cx.index(index), host, max_body))
        .collect::<Vec<_>>();
    let mirrors = mirror::policies(cx, request_mirror_policies);
    for host in &mut hosts {
        mirror::inherit(&mut host.routes, &mirrors);
    }
    check_unique(&hosts_cx, &hosts);
    Some(RouteConfiguration {
        name: Arc::from(name),
        virtual_hosts: hosts,
        request_headers: header::mutations(
            cx,
            "request",
            request_headers_to_add,
            request_headers_to_remove,
        ),
        response_headers: header::mutations(
            cx,
            "response",
            response_headers_to_add,
            response_headers_to_remove,
        ),
        internal_only_headers,
        most_specific_header_mutations_wins,
        validate_clusters: bool_or(validate_clusters, validate_clusters_default),
        ignore_port_in_host_matching,
        max_direct_response_body_size_bytes: max_body,
        ignore_path_parameters_in_path_matching,
        per_filter: http_filter::per_filter(cx, typed_per_filter_config),
    })
}

/// Domains must be unique over the route configuration. (Envoy allows two virtual hosts of one name.)
fn check_unique(cx: &Cx<'_>, hosts: &[VirtualHost]) {
    let mut domains = HashMap::new();
    for (index, host) in hosts.iter().enumerate() {
        let at = cx.index(index);
        for (place, domain) in host.domains.iter().enumerate() {
            if let Some(first) = domains.insert(domain.clone(), index) {
                at.field("domains").index(place).error(format!(
                    "Only unique values for domains are permitted: `{domain}` is also in virtual_hosts[{first}]"
                ));
            }
        }
    }
}

fn virtual_host(cx: &Cx<'_>, host: VirtualHostProto, max_body: u32) -> Option<VirtualHost> {
    cx.converts::<VirtualHostProto>();
    #[expect(deprecated, reason = "named to be refused or without effect")]
    let VirtualHostProto {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = host;
    unsupported!(
        cx,
        VirtualHostProto,
        [
            matcher,
            virtual_clusters,
            rate_limits,
            retry_policy_typed_config,
            hedge_policy,
            route_specifiers
        ]
    );
    no_effect!(
        cx,
        VirtualHostProto,
        "no filter reads route metadata yet",
        [metadata]
    );
    let name = cx.non_empty("name", &name);
    let domains_cx = cx.field("domains");
    if domains.is_empty() {
        domains_cx.error("value must contain at least 1 item");
    }
    let domains = domains
        .iter()
        .enumerate()
        .filter_map(|(index, domain)| domain_name(&domains_cx.index(index), domain))
        .collect();
    let inherited = Inherited {
        retry: retry_policy.map(|proto| Arc::new(retry::policy(&cx.field("retry_policy"), proto))),
        buffer_limit: retry::buffer_limit(
            cx,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
        ),
    };
    let routes_cx = cx.field("routes");
    let mut routes = routes
        .into_iter()
        .enumerate()
        .filter_map(|(index, proto)| {
            let place = Place {
                virtual_host: &name,
                inherited: &inherited,
                index,
            };
            route(&routes_cx.index(index), proto, max_body, &place)
        })
        .map(Arc::new)
        .collect::<Vec<_>>();
    mirror::inherit(&mut routes, &mirror::policies(cx, request_mirror_policies));
    let require_tls = match cx.enumeration("require_tls", require_tls)? {
        TlsRequirementType::None => TlsRequirement::None,
        TlsRequirementType::ExternalOnly => TlsRequirement::ExternalOnly,
        TlsRequirementType::All => TlsRequirement::All,
    };
    Some(VirtualHost {
        name,
        domains,
        routes,
        require_tls,
        request_headers: header::mutations(
            cx,
            "request",
            request_headers_to_add,
            request_headers_to_remove,
        ),
        response_headers: header::mutations(
            cx,
            "response",
            response_headers_to_add,
            response_headers_to_remove,
        ),
        include_request_attempt_count,
        include_attempt_count_in_response,
        per_filter: http_filter::with_cors(
            cx,
            http_filter::per_filter(cx, typed_per_filter_config),
            cors,
        ),
        include_is_timeout_retry_header,
    })
}

/// Where a route is.
struct Place<'a> {
    virtual_host: &'a str,
    inherited: &'a Inherited,
    index: usize,
}

/// What routes have from their virtual host where they say nothing themselves.
struct Inherited {
    retry: Option<Arc<RetryPolicy>>,
    buffer_limit: Option<BufferLimit>,
}

impl Inherited {
    fn fill(&self, forward: &mut Forward, own_limit: Option<BufferLimit>) {
        if forward.retry.is_none() {
            forward.retry.clone_from(&self.retry);
        }
        forward.buffer_limit = own_limit
            .or(self.buffer_limit)
            .unwrap_or(BufferLimit::Connection);
    }
}

/// A domain may have one `*`, at its start or its end. Envoy takes any other `*` for itself, and an empty
/// domain as it is: neither can ever match a request, so we rather say so.
fn domain_name(cx: &Cx<'_>, domain: &str) -> Option<Arc<str>> {
    let inner = domain
        .strip_prefix('*')
        .or_else(|| domain.strip_suffix('*'))
        .unwrap_or(domain);
    if inner.contains('*') {
        cx.error("a domain may have one `*`, at its start or its end");
        return None;
    }
    if domain.is_empty() {
        cx.error("value length must be at least 1 characters");
        return None;
    }
    Some(Arc::from(domain.to_ascii_lowercase()))
}

fn route(cx: &Cx<'_>, route: RouteProto, max_body: u32, place: &Place<'_>) -> Option<Route> {
    cx.converts::<RouteProto>();
    cx.refuses::<RouteProto>(&["filter_action", "non_forwarding_action"]);
    #[expect(deprecated, reason = "named to be refused or without effect")]
    let RouteProto {
        name,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing: route_tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = route;
    unsupported!(cx, RouteProto, [stat_prefix, route_specifiers]);
    let own_limit = retry::buffer_limit(
        cx,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
    );
    let (operation, propagated_operation) = decorator
        .map(|proto| decorator_operation(&cx.field("decorator"), proto))
        .unwrap_or_default();
    let matches = cx
        .required("match", r#match)
        .and_then(|proto| route_match(&cx.field("match"), proto));
    let origin = origin(metadata.as_ref()).unwrap_or_else(|| {
        if name.is_empty() {
            format!("route {}[{}]", place.virtual_host, place.index)
        } else {
            format!("route {name}")
        }
    });
    let mut per_filter = http_filter::per_filter(cx, typed_per_filter_config);
    let is_monotone = is_monotone(&cx.field("metadata"), metadata.as_ref());
    let action = match action {
        Some(route::Action::Route(mut proto)) => {
            let at = cx.field("route");
            #[expect(deprecated, reason = "Envoy still reads `cors`")]
            let policy = proto.cors.take();
            per_filter = http_filter::with_cors(&at, per_filter, policy);
            route_action::forward(&at, proto).map(|mut forward| {
                if is_monotone {
                    route_action::make_monotone(&at, &mut forward.cluster);
                }
                place.inherited.fill(&mut forward, own_limit);
                Action::Forward(Box::new(forward))
            })
        }
        Some(route::Action::Redirect(proto)) => {
            route_action::redirect(&cx.field("redirect"), proto)
                .map(|redirect| Action::Redirect(Box::new(redirect)))
        }
        Some(route::Action::DirectResponse(proto)) => {
            direct_response(&cx.field("direct_response"), proto, max_body)
                .map(Action::DirectResponse)
        }
        Some(route::Action::FilterAction(_)) => {
            cx.field("filter_action").error("not supported");
            None
        }
        Some(route::Action::NonForwardingAction(_)) => {
            cx.field("non_forwarding_action").error("not supported");
            None
        }
        None => {
            cx.field("action").error("value is required");
            None
        }
    };
    let tracing = route_tracing
        .and_then(|proto: TracingProto| tracing::route_tracing(&cx.field("tracing"), proto));
    Some(Route {
        matches: matches?,
        action: action?,
        request_headers: header::mutations(
            cx,
            "request",
            request_headers_to_add,
            request_headers_to_remove,
        ),
        response_headers: header::mutations(
            cx,
            "response",
            response_headers_to_add,
            response_headers_to_remove,
        ),
        operation,
        propagated_operation,
        tracing,
        name: Arc::from(name),
        origin: Arc::from(origin),
        per_filter,
    })
}

/// The name of spans, for us and, unless that is not wanted, for the peer.
fn decorator_operation(
    cx: &Cx<'_>,
    decorator: Decorator,
) -> (Option<Arc<str>>, Option<HeaderValue>) {
    cx.converts::<Decorator>();
    let Decorator {
        operation,
        propagate,
    } = decorator;
    let propagated = match (propagate, HeaderValue::from_str(&operation)) {
        (Some(BoolValue { value: false }), _) => None,
        (_, Ok(value)) => Some(value),
        (_, Err(_)) => {
            cx.field("operation")
                .error("cannot be sent in a header; set propagate to false");
            None
        }
    };
    (Some(cx.non_empty("operation", &operation)), propagated)
}

/// The mesh object that made a route or a cluster, where our control plane has said it.
pub(super) fn origin(metadata: Option<&Metadata>) -> Option<String> {
    let fields = &metadata?.filter_metadata.get("outrigger.dev")?.fields;
    match fields.get("origin")?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

/// Whether `metadata.filter_metadata["outrigger.dev"].sticky` asks for splits that move few users.
fn is_monotone(cx: &Cx<'_>, metadata: Option<&Metadata>) -> bool {
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get("outrigger.dev"));
    let Some(sticky) = fields.and_then(|own| own.fields.get("sticky")) else {
        return false;
    };
    let is_known = matches!(&sticky.kind, Some(Kind::StringValue(rule)) if rule == "monotone");
    if !is_known {
        cx.field("filter_metadata")
            .key("outrigger.dev")
            .field("sticky")
            .error("the only rule is \"monotone\"");
    }
    is_known
}

fn route_match(cx: &Cx<'_>, proto: MatchProto) -> Option<RouteMatch> {
    cx.converts::<MatchProto>();
    cx.refuses::<MatchProto>(&["connect_matcher", "path_match_policy"]);
    let MatchProto {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = proto;
    unsupported!(
        cx,
        MatchProto,
        [
            runtime_fraction,
            cookies,
            tls_context,
            dynamic_metadata,
            filter_state
        ]
    );
    let case_sensitive = bool_or(case_sensitive, true);
    let path = match path_specifier {
        Some(PathSpecifier::Prefix(value)) => PathMatch::Prefix {
            value: Arc::from(value),
            case_sensitive,
        },
        Some(PathSpecifier::Path(value)) => PathMatch::Exact {
            value: Arc::from(value),
            case_sensitive,
        },
        Some(PathSpecifier::PathSeparatedPrefix(value)) => {
            if !value.starts_with('/') || value.len() < 2 || value.ends_with('/') {
                cx.field("path_separated_prefix")
                    .error("value must begin with `/`, not end with `/`, and not be `/` alone");
            }
            PathMatch::SeparatedPrefix {
                value: Arc::from(value),
                case_sensitive,
            }
        }
        Some(PathSpecifier::SafeRegex(regex)) => {
            PathMatch::Regex(matcher::whole_regex(&cx.field("safe_regex"), regex)?)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            cx.field("connect_matcher").error("not supported");
            return None;
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            cx.field("path_match_policy").error("not supported");
            return None;
        }
        None => {
            cx.field("path_specifier").error("value is required");
            return None;
        }
    };
    let headers_cx = cx.field("headers");
    let query_cx = cx.field("query_parameters");
    Some(RouteMatch {
        path,
        headers: headers
            .into_iter()
            .enumerate()
            .filter_map(|(index, proto)| matcher::header_matcher(&headers_cx.index(index), proto))
            .collect(),
        query_parameters: query_parameters
            .into_iter()
            .enumerate()
            .filter_map(|(index, proto)| matcher::query_matcher(&query_cx.index(index), proto))
            .collect(),
        grpc: grpc.is_some(),
    })
}

fn direct_response(
    cx: &Cx<'_>,
    action: DirectResponseAction,
    max_body: u32,
) -> Option<DirectResponse> {
    cx.converts::<DirectResponseAction>();
    let DirectResponseAction {
        status,
        body,
        body_format,
    } = action;
    unsupported!(cx, DirectResponseAction, [body_format]);
    let status = match u16::try_from(status) {
        Ok(code @ 200..600) => http::StatusCode::from_u16(code).ok(),
        _ => None,
    };
    if status.is_none() {
        cx.field("status")
            .error("value must be inside range [200, 600)");
    }
    let body = match body {
        Some(source) => cx.field("body").inline_data(source)?,
        None => bytes::Bytes::new(),
    };
    if body.len() > usize::try_from(max_body).unwrap_or(usize::MAX) {
        cx.field("body").error(format!(
            "response body size is {} bytes; maximum is {max_body}",
            body.len()
        ));
    }
    Some(DirectResponse {
        status: status?,
        body,
    })
}
