//! The `RouteConfiguration`s that a workload's calls go through.

use std::time::Duration;

use outrigger_proto::envoy::{
    config::{core::v3 as core, route::v3 as api},
    r#type::v3::{FractionalPercent, fractional_percent},
};

use super::{
    OUTBOUND_ROUTES,
    cluster::{self, CLUSTER_DOMAIN},
    filters,
    manager::decorator,
    matcher::route_match,
    precedence::Precedence,
    requests::RequestsPolicy,
    rewrite, wire,
};
use crate::{
    model::{HeaderChanges, Model, NamespacedName, PortEntry, Rule, Service},
    resolve::{InvalidBackend, ResolvedRoute, ServiceAddress},
    scope::Scope,
};

/// The table of a proxy that is dialled: a virtual host for each port of each service.
pub(super) fn outbound(model: &Model, scope: &Scope) -> api::RouteConfiguration {
    let mut virtual_hosts = Vec::new();
    for (id, entry) in model.services().iter().filter(|(id, _)| scope.sees(id)) {
        let service = entry.service();
        let default = service.default_port().map(|port| port.number);
        for slot in entry
            .ports
            .iter()
            .filter(|slot| slot.port.protocol.is_http())
        {
            let number = slot.port.number;
            let is_default = default == Some(number);
            virtual_hosts.push(api::VirtualHost {
                name: table_name(id, number),
                domains: domains(service, number, is_default, scope),
                ..virtual_host(model, service, slot, scope)
            });
        }
    }
    table(OUTBOUND_ROUTES, virtual_hosts)
}

/// The table of one port of a service: the address that was called has told that it is meant, whatever
/// name the request gives to its host.
pub(super) fn of_port(
    model: &Model,
    service: &Service,
    slot: &PortEntry,
    scope: &Scope,
) -> api::RouteConfiguration {
    let name = table_name(&service.id, slot.port.number);
    let virtual_host = api::VirtualHost {
        name: name.clone(),
        domains: vec!["*".to_owned()],
        ..virtual_host(model, service, slot, scope)
    };
    table(&name, vec![virtual_host])
}

/// `reviews.shop.svc.cluster.local:9080`.
pub(super) fn table_name(id: &NamespacedName, port: u16) -> String {
    format!("{}.{}.{CLUSTER_DOMAIN}:{port}", id.name, id.namespace)
}

fn table(name: &str, virtual_hosts: Vec<api::VirtualHost>) -> api::RouteConfiguration {
    api::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        // Clusters come and go on their own stream of updates.
        validate_clusters: Some(wire::boolean(false)),
        ..Default::default()
    }
}

fn virtual_host(
    model: &Model,
    service: &Service,
    slot: &PortEntry,
    scope: &Scope,
) -> api::VirtualHost {
    let address = ServiceAddress {
        service: service.id.clone(),
        port: slot.port.number,
    };
    api::VirtualHost {
        routes: routes(model, service, slot, scope),
        typed_per_filter_config: filters::in_order(&filters::of_port(model, &address)),
        ..Default::default()
    }
}

/// Every way to write the service's name: as the resolver of a pod in `scope` would complete it.
fn domains(service: &Service, port: u16, is_default: bool, scope: &Scope) -> Vec<String> {
    let (name, namespace) = (&service.id.name, &service.id.namespace);
    let mut hosts = vec![
        format!("{name}.{namespace}.{CLUSTER_DOMAIN}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
    ];
    if scope.namespace == *namespace {
        hosts.push(name.to_string());
    }
    let mut domains = Vec::with_capacity(hosts.len() * 2);
    for host in hosts {
        domains.push(format!("{host}:{port}"));
        if is_default {
            domains.push(host);
        }
    }
    domains
}

/// The routes of one virtual host. None at all means that nothing is attached, and then the service
/// leads to its own endpoints; routes that match nothing leave the rest to 404.
fn routes(model: &Model, service: &Service, slot: &PortEntry, scope: &Scope) -> Vec<api::Route> {
    let parent = ServiceAddress {
        service: service.id.clone(),
        port: slot.port.number,
    };
    let attached = slot.routes.for_clients_in(&scope.namespace);
    if attached.is_empty() {
        return vec![own_endpoints(model, &parent)];
    }
    let mut all: Vec<(Precedence, api::Route)> = Vec::new();
    for resolved in attached.iter().filter_map(|id| model.routes().get(id)) {
        let route = resolved.route();
        for (index, rule) in route.rules.iter().enumerate() {
            let translated = rule_action(model, resolved, index, rule, &parent);
            for one in &rule.matches {
                let translated = api::Route {
                    r#match: Some(route_match(one)),
                    ..with_path_change(&translated, rule, one)
                };
                all.push((Precedence::of(one), translated));
            }
        }
    }
    // Stable: what is equal stays in the order of routes, rules and matches.
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.into_iter().map(|(_, route)| route).collect()
}

fn own_endpoints(model: &Model, parent: &ServiceAddress) -> api::Route {
    let cluster = cluster::outbound_name(parent);
    let policy = RequestsPolicy::of(model, parent, None);
    let action = api::RouteAction {
        cluster_specifier: Some(api::route_action::ClusterSpecifier::Cluster(cluster)),
        hash_policy: policy.hash_policy(model, [parent]),
        ..with_limits(&policy, None)
    };
    api::Route {
        name: format!("Service/{} port {}", parent.service, parent.port),
        r#match: Some(api::RouteMatch {
            path_specifier: Some(api::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(api::route::Action::Route(action)),
        decorator: Some(operation(parent)),
        ..Default::default()
    }
}

fn operation(parent: &ServiceAddress) -> api::Decorator {
    let ServiceAddress { service, port } = parent;
    decorator(format!(
        "{}.{}.{CLUSTER_DOMAIN}:{port}/*",
        service.name, service.namespace
    ))
}

/// Everything of a rule but its match and what depends on it.
fn rule_action(
    model: &Model,
    resolved: &ResolvedRoute,
    index: usize,
    rule: &Rule,
    parent: &ServiceAddress,
) -> api::Route {
    let none = HeaderChanges::default();
    let context = RuleContext {
        model,
        parent,
        rule,
        backends: resolved.backends.get(index).map_or(&[][..], Vec::as_slice),
        mirrors: resolved.mirrors.get(index).map_or(&[][..], Vec::as_slice),
        policy: RequestsPolicy::of(model, parent, Some((&resolved.route().id, rule))),
        settings: filters::of_rule(model, &resolved.route().id, rule),
    };
    let action = context.action();
    // Envoy applies a backend's changes before its rule's, the API after them: where backends have
    // any, the rule's are made part of each backend's.
    let in_backends = has_backend_changes(rule) && matches!(action, api::route::Action::Route(_));
    let filters = &rule.filters;
    let (request, response) = if in_backends {
        (&none, &none)
    } else {
        (&filters.request_headers, &filters.response_headers)
    };
    let (request, response) = (header_changes(request), header_changes(response));
    let is_split = matches!(
        &action,
        api::route::Action::Route(api::RouteAction {
            cluster_specifier: Some(api::route_action::ClusterSpecifier::WeightedClusters(_)),
            ..
        })
    );
    api::Route {
        name: rule_name(resolved, index, rule),
        action: Some(action),
        metadata: (is_split && context.policy.is_sticky()).then(wire::monotone),
        decorator: Some(operation(parent)),
        typed_per_filter_config: filters::in_order(&context.settings),
        request_headers_to_add: request.0,
        request_headers_to_remove: request.1,
        response_headers_to_add: response.0,
        response_headers_to_remove: response.1,
        ..Default::default()
    }
}

/// `HTTPRoute/shop/reviews spec.rules[0]`: what a proxy reports as the rule that acted.
fn rule_name(resolved: &ResolvedRoute, index: usize, rule: &Rule) -> String {
    let name = rule
        .name
        .as_ref()
        .map(|name| format!(" ({name})"))
        .unwrap_or_default();
    format!(
        "HTTPRoute/{} spec.rules[{index}]{name}",
        resolved.route().id
    )
}

/// A rule for one parent, with all that its translation needs.
struct RuleContext<'a> {
    model: &'a Model,
    parent: &'a ServiceAddress,
    rule: &'a Rule,
    backends: &'a [Result<ServiceAddress, InvalidBackend>],
    mirrors: &'a [Result<ServiceAddress, InvalidBackend>],
    policy: RequestsPolicy<'a>,
    settings: filters::Settings,
}

impl RuleContext<'_> {
    fn action(&self) -> api::route::Action {
        let rule = self.rule;
        if let Some(redirect) = &rule.filters.redirect {
            return api::route::Action::Redirect(rewrite::redirect(redirect, self.parent.port));
        }
        // Backends without weight get nothing, so they do not make the rule work either.
        let weighted: Vec<_> = rule
            .backends
            .iter()
            .zip(self.backends)
            .filter(|(backend, _)| backend.weight > 0)
            .collect();
        if weighted.iter().all(|(_, resolved)| resolved.is_err()) {
            return api::route::Action::DirectResponse(no_backend(rule, &weighted));
        }
        let reached = weighted
            .iter()
            .filter_map(|(_, resolved)| resolved.as_ref().ok());
        let mut route = api::RouteAction {
            host_rewrite_specifier: rewrite::host(rule.filters.rewrite.as_ref()),
            hash_policy: self.policy.hash_policy(self.model, reached),
            request_mirror_policies: self.mirror_policies(),
            ..with_limits(&self.policy, Some(rule))
        };
        if weighted.iter().any(|(_, resolved)| resolved.is_err()) {
            // The invalid share names a cluster that is not there.
            route.cluster_not_found_response_code =
                api::route_action::ClusterNotFoundResponseCode::InternalServerError.into();
        }
        route.cluster_specifier = Some(match weighted.as_slice() {
            [(backend, resolved)]
                if !has_backend_changes(rule) && self.settings_of(resolved).is_empty() =>
            {
                api::route_action::ClusterSpecifier::Cluster(cluster_name(backend, resolved))
            }
            _ => {
                let clusters = rule
                    .backends
                    .iter()
                    .zip(self.backends)
                    .map(|(backend, resolved)| api::weighted_cluster::ClusterWeight {
                        typed_per_filter_config: filters::in_order(&self.settings_of(resolved)),
                        ..cluster_weight(rule, backend, resolved)
                    })
                    .collect();
                api::route_action::ClusterSpecifier::WeightedClusters(api::WeightedCluster {
                    clusters,
                    random_value_specifier: self.policy.is_sticky().then(|| {
                        api::weighted_cluster::RandomValueSpecifier::UseHashPolicy(wire::boolean(
                            true,
                        ))
                    }),
                    ..Default::default()
                })
            }
        });
        api::route::Action::Route(route)
    }

    /// What policies of a backend's Service say, except where those of the route are closer. The
    /// parent's own are on its virtual host.
    fn settings_of(&self, backend: &Result<ServiceAddress, InvalidBackend>) -> filters::Settings {
        match backend {
            Ok(address) if address != self.parent => {
                let mut settings = filters::of_port(self.model, address);
                settings.retain(|name, _| !self.settings.contains_key(name));
                settings
            }
            _ => filters::Settings::new(),
        }
    }

    /// Mirrors that lead nowhere are left out: nobody waits for them.
    fn mirror_policies(&self) -> Vec<api::route_action::RequestMirrorPolicy> {
        let mirrors = self.rule.filters.mirrors.iter().zip(self.mirrors);
        mirrors
            .filter_map(|(mirror, resolved)| {
                let address = resolved.as_ref().ok()?;
                Some(api::route_action::RequestMirrorPolicy {
                    cluster: cluster::outbound_name(address),
                    runtime_fraction: mirror_fraction(mirror.fraction),
                    ..Default::default()
                })
            })
            .collect()
    }
}

/// None is all requests.
fn mirror_fraction((numerator, denominator): (u32, u32)) -> Option<core::RuntimeFractionalPercent> {
    if numerator == denominator {
        return None;
    }
    let millionths = u64::from(numerator) * 1_000_000 / u64::from(denominator.max(1));
    Some(core::RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: u32::try_from(millionths).unwrap_or(1_000_000),
            denominator: fractional_percent::DenominatorType::Million.into(),
        }),
        ..Default::default()
    })
}

/// Time limits and retries. Where there is only one try, its limit is one of the request.
fn with_limits(policy: &RequestsPolicy<'_>, rule: Option<&Rule>) -> api::RouteAction {
    let retry_policy = policy.retry_policy(rule);
    let request = policy.request_timeout(rule);
    let one_try = rule
        .and_then(|rule| rule.backend_timeout)
        .filter(|_| retry_policy.is_none());
    let timeout = [Some(request), one_try]
        .into_iter()
        .flatten()
        .filter(|timeout| !timeout.is_zero())
        .min()
        .unwrap_or(Duration::ZERO);
    api::RouteAction {
        timeout: Some(wire::duration(timeout)),
        idle_timeout: policy.idle_timeout().map(wire::duration),
        max_stream_duration: policy.max_stream_duration(),
        retry_policy,
        ..Default::default()
    }
}

fn no_backend(
    rule: &Rule,
    weighted: &[(
        &crate::model::Backend,
        &Result<ServiceAddress, InvalidBackend>,
    )],
) -> api::DirectResponseAction {
    let reasons: Vec<_> = weighted
        .iter()
        .filter_map(|(_, resolved)| resolved.as_ref().err())
        .map(|invalid| invalid.message.as_str())
        .collect();
    let why = match (rule.backends.is_empty(), reasons.is_empty()) {
        (true, _) => "the rule has no backends".to_owned(),
        (false, true) => "all backends have weight 0".to_owned(),
        (false, false) => reasons.join("; "),
    };
    let body = core::data_source::Specifier::InlineString(format!("no valid backend: {why}"));
    api::DirectResponseAction {
        status: 500,
        body: Some(core::DataSource {
            specifier: Some(body),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn cluster_name(
    backend: &crate::model::Backend,
    resolved: &Result<ServiceAddress, InvalidBackend>,
) -> String {
    match resolved {
        Ok(address) => cluster::outbound_name(address),
        Err(invalid) => {
            let target = &backend.target;
            format!(
                "{}|{}||{}",
                invalid.reason,
                target.port.unwrap_or_default(),
                target.id
            )
        }
    }
}

fn has_backend_changes(rule: &Rule) -> bool {
    let none = HeaderChanges::default();
    rule.backends
        .iter()
        .any(|backend| backend.request_headers != none || backend.response_headers != none)
}

fn cluster_weight(
    rule: &Rule,
    backend: &crate::model::Backend,
    resolved: &Result<ServiceAddress, InvalidBackend>,
) -> api::weighted_cluster::ClusterWeight {
    let filters = &rule.filters;
    let (request, response) = if has_backend_changes(rule) {
        (
            filters.request_headers.then(&backend.request_headers),
            filters.response_headers.then(&backend.response_headers),
        )
    } else {
        (HeaderChanges::default(), HeaderChanges::default())
    };
    let (request, response) = (header_changes(&request), header_changes(&response));
    api::weighted_cluster::ClusterWeight {
        name: cluster_name(backend, resolved),
        weight: Some(wire::number(backend.weight)),
        request_headers_to_add: request.0,
        request_headers_to_remove: request.1,
        response_headers_to_add: response.0,
        response_headers_to_remove: response.1,
        ..Default::default()
    }
}

fn header_changes(changes: &HeaderChanges) -> (Vec<core::HeaderValueOption>, Vec<String>) {
    use core::header_value_option::HeaderAppendAction as Append;
    let option = |(name, value): &(std::sync::Arc<str>, std::sync::Arc<str>), action: Append| {
        core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: name.to_string(),
                // Values are format strings to the proxy.
                value: value.replace('%', "%%"),
                ..Default::default()
            }),
            append_action: action.into(),
            keep_empty_value: true,
            ..Default::default()
        }
    };
    let HeaderChanges { set, add, remove } = changes;
    let set = set
        .iter()
        .map(|header| option(header, Append::OverwriteIfExistsOrAdd));
    let add = add
        .iter()
        .map(|header| option(header, Append::AppendIfExistsOrAdd));
    (
        set.chain(add).collect(),
        remove.iter().map(ToString::to_string).collect(),
    )
}

/// How a path is changed depends on how it was matched.
fn with_path_change(route: &api::Route, rule: &Rule, one: &crate::model::Match) -> api::Route {
    let mut route = route.clone();
    match &mut route.action {
        Some(api::route::Action::Route(action)) => {
            if let Some(change) = rule.filters.rewrite.as_ref().and_then(|r| r.path.as_ref()) {
                rewrite::rewrite_path(action, change, &one.path);
            }
        }
        Some(api::route::Action::Redirect(action)) => {
            if let Some(change) = rule.filters.redirect.as_ref().and_then(|r| r.path.as_ref()) {
                rewrite::redirect_path(action, change, &one.path);
            }
        }
        _ => {}
    }
    route
}
