//! The filter at work.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};

use super::{Config, LEGACY_NAME, RouteConfig};
use crate::{
    config::route::Action,
    filters::http::{FilterBuild, FilterCx, Flow, HttpFilter, RouteBuild, overrides::NameId},
    http::{LocalReply, Response},
    telemetry::stats::Counter,
};

static REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
static ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The filter: all of its settings are the routes'.
#[derive(Debug)]
pub struct Filter {
    origin_valid: Counter,
    origin_invalid: Counter,
    legacy: NameId,
}

/// The policy of one level.
#[derive(Debug)]
pub struct Route(Arc<RouteConfig>);

impl Filter {
    /// With its statistics.
    #[must_use]
    pub fn new(_: &Config, build: FilterBuild<'_>) -> Self {
        let scope = build.registry.scope(build.scope).scope("cors");
        Self {
            origin_valid: scope.counter("origin_valid"),
            origin_invalid: scope.counter("origin_invalid"),
            legacy: NameId::of(LEGACY_NAME),
        }
    }

    fn policies<'a>(
        &self,
        cx: &FilterCx<'a, Self>,
    ) -> Policies<impl Iterator<Item = &'a RouteConfig> + Clone + use<'a>> {
        let typed = cx.routes();
        let is_legacy = cx.route().is_none();
        let legacy = cx.routes_named(self.legacy);
        let all = typed.rev().chain(legacy.rev().filter(move |_| is_legacy));
        Policies(all.map(|Route(policy)| &**policy))
    }
}

impl Route {
    /// The policy.
    #[must_use]
    pub fn new(config: &Arc<RouteConfig>, _: RouteBuild<'_>) -> Self {
        Self(Arc::clone(config))
    }
}

/// The policies of all levels, the most specific first.
struct Policies<I>(I);

impl<'a, I: Iterator<Item = &'a RouteConfig> + Clone> Policies<I> {
    /// A property of the most specific level that has it.
    fn first<T>(&self, property: impl FnMut(&'a RouteConfig) -> Option<T>) -> Option<T> {
        self.0.clone().find_map(property)
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let origins = self
            .first(|policy| (!policy.allow_origins.is_empty()).then_some(&policy.allow_origins));
        origins.is_some_and(|origins| {
            origins
                .iter()
                .any(|matcher| matcher.matches(b"*") || matcher.matches(origin.as_bytes()))
        })
    }

    fn allows_credentials(&self) -> bool {
        self.first(|policy| policy.allow_credentials) == Some(true)
    }

    /// The answer to a preflight request, of an allowed origin or any other.
    fn preflight(&self, head: &Parts, origin: Option<&HeaderValue>) -> LocalReply {
        let mut reply = LocalReply::new(StatusCode::OK, "", "cors_response").whole();
        let mut add = |name: HeaderName, value: Option<HeaderValue>| {
            if let Some(value) = value {
                reply.headers.push((name, value));
            }
        };
        add(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.cloned());
        if self.allows_credentials() {
            add(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, Some(TRUE));
        }
        let methods = self.first(|policy| policy.allow_methods.clone());
        add(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let headers = self.first(|policy| policy.allow_headers.clone());
        add(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
        let max_age = self.first(|policy| policy.max_age.clone());
        add(header::ACCESS_CONTROL_MAX_AGE, max_age);
        let asks = head.headers.get(&REQUEST_PRIVATE_NETWORK);
        if self.first(|policy| policy.allow_private_network_access) == Some(true)
            && asks.is_some_and(|value| value == "true")
        {
            add(ALLOW_PRIVATE_NETWORK.clone(), Some(TRUE));
        }
        reply
    }
}

impl HttpFilter for Filter {
    /// The origin of a request that the policy allows.
    type State = Option<Box<HeaderValue>>;
    type Route = Route;

    fn request_headers(&self, head: &mut Parts, cx: &mut FilterCx<'_, Self>) -> Flow {
        let policies = self.policies(cx);
        let Some(switch) = policies.first(Some) else {
            return Flow::Continue;
        };
        // Envoy reads policies of routes that lead to a cluster only.
        let matched = cx.stream.matched.as_ref();
        if !matched.is_some_and(|matched| matches!(matched.route.action, Action::Forward(_))) {
            return Flow::Continue;
        }
        let worker = cx.stream.worker();
        let is_enabled = switch
            .filter_enabled
            .is_none_or(|fraction| fraction.contains(worker.random()));
        let is_shadow = !is_enabled
            && switch
                .shadow_enabled
                .is_some_and(|fraction| fraction.contains(worker.random()));
        let Some(origin) = head.headers.get(header::ORIGIN) else {
            return Flow::Continue;
        };
        if !is_enabled && !is_shadow || origin.is_empty() {
            return Flow::Continue;
        }
        let is_allowed = policies.allows(origin);
        if is_allowed {
            self.origin_valid.inc();
        } else {
            self.origin_invalid.inc();
        }
        if is_shadow {
            return Flow::Continue;
        }
        if is_allowed {
            *cx.state = Some(Box::new(origin.clone()));
        }
        let wants = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let is_preflight =
            head.method == Method::OPTIONS && wants.is_some_and(|method| !method.is_empty());
        let is_ours = is_allowed
            || policies.first(|policy| policy.forward_not_matching_preflights) == Some(false);
        if is_preflight && is_ours {
            return Flow::Reply(policies.preflight(head, is_allowed.then_some(origin)));
        }
        Flow::Continue
    }

    fn response_headers(&self, response: &mut Response, cx: &mut FilterCx<'_, Self>) -> Flow {
        let Some(origin) = cx.state.take() else {
            return Flow::Continue;
        };
        let policies = self.policies(cx);
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, *origin);
        if policies.allows_credentials() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(exposed) = policies.first(|policy| policy.expose_headers.clone()) {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        Flow::Continue
    }
}
