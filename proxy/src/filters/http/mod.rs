//! HTTP filters: the registry, and the chain that a stream passes.
//!
//! A filter is a folder and one line in `http_filters!` below. The folder has
//!
//! * `config.rs` (pure): `Config` and `RouteConfig`, and how Envoy's messages become them
//!   ([`FilterConfig`]);
//! * `filter.rs`: `Filter`, the object that a connection manager builds once from its configuration,
//!   and `Route`, the one that a route table builds once from each per-route setting: statistics, token
//!   buckets, compiled conditions. Both are shared by all workers.
//!
//! The line makes a variant of each, so that a call of a filter is a `match`, not a virtual call. What
//! a filter keeps between a stream's request and its response is its [`HttpFilter::State`], in place.
//! The router is not a filter here: it is where every chain ends.

pub mod bulkhead;
mod chain;
pub mod cors;
pub mod fault;
mod flow;
pub mod header_mutation;
pub mod health_check;
pub mod local_ratelimit;
mod overrides;
pub mod rbac;
#[macro_use]
mod registry;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use http::request::Parts;

pub use chain::{Chain, Factories};
pub use flow::{Flow, Kept};
use overrides::NameId;
pub use overrides::Overrides;

use crate::{
    convert::Cx,
    http::{Response, StreamCx},
    telemetry::stats::Registry,
};

http_filters! {
    Bulkhead: bulkhead,
    Cors: cors,
    Fault: fault,
    HeaderMutation: header_mutation,
    HealthCheck: health_check,
    LocalRatelimit: local_ratelimit,
    Rbac: rbac,
}

/// The pure half of a filter: its configuration and that of its per-route settings.
pub trait FilterConfig: Sized {
    /// What `http_filters[].typed_config` holds.
    type Proto: prost::Message + Default + prost::Name;
    /// What `typed_per_filter_config` holds; may be the same message.
    type RouteProto: prost::Message + Default + prost::Name;
    /// The per-route settings.
    type RouteConfig;

    /// Converts the filter's own message.
    fn from_proto(cx: &Cx<'_>, proto: Self::Proto) -> Option<Self>;

    /// Converts a per-route message. A filter without per-route settings reports an error.
    fn route_from_proto(cx: &Cx<'_>, proto: Self::RouteProto) -> Option<Self::RouteConfig>;
}

/// What a filter does with a message on its way through the chain. The object is shared by all
/// streams; what belongs to one of them is in [`FilterCx::state`].
pub trait HttpFilter: Sized {
    /// Per stream, from its request to its response. Large or rare things belong in a box.
    type State: Default;
    /// The run-time object of a per-route setting.
    type Route: RouteObject;

    /// The request's head, before the router sends it.
    fn request_headers(&self, head: &mut Parts, cx: &mut FilterCx<'_, Self>) -> Flow {
        let _ = (head, cx);
        Flow::Continue
    }

    /// The response's head. A local reply passes every filter of the chain, also those that have not
    /// seen the request; the route's own header changes are made already.
    fn response_headers(&self, response: &mut Response, cx: &mut FilterCx<'_, Self>) -> Flow {
        let _ = (response, cx);
        Flow::Continue
    }
}

/// A run-time object of per-route settings; `http_filters!` implements it for each filter's `Route`.
pub trait RouteObject: Sized + 'static {
    /// The object, if it is of this filter.
    fn of(object: &RouteFilter) -> Option<&Self>;
}

/// What a filter sees of a stream.
#[derive(Debug)]
pub struct FilterCx<'a, F: HttpFilter> {
    /// The stream: route, cluster, record, snapshot, worker.
    pub stream: &'a mut StreamCx,
    /// What this filter keeps of this stream.
    pub state: &'a mut F::State,
    /// The settings of all filters at the place of the route.
    overrides: Option<&'a Overrides>,
    /// Under which name this filter's are.
    name: NameId,
}

impl<'a, F: HttpFilter> FilterCx<'a, F> {
    /// The most specific per-route setting: of the weighted cluster, route, virtual host or route
    /// configuration.
    #[must_use]
    pub fn route(&self) -> Option<&'a F::Route> {
        self.routes().next_back()
    }

    /// All per-route settings, the most general first.
    pub fn routes(&self) -> impl DoubleEndedIterator<Item = &'a F::Route> + Clone + use<'a, F> {
        self.routes_named(self.name)
    }

    /// The settings under another name than the filter's.
    fn routes_named(
        &self,
        name: NameId,
    ) -> impl DoubleEndedIterator<Item = &'a F::Route> + Clone + use<'a, F> {
        let found = self.overrides.and_then(|overrides| overrides.of(name));
        found
            .map_or(&[][..], |(_, objects)| objects)
            .iter()
            .filter_map(|object| F::Route::of(object))
    }
}

/// What filters are built with.
#[derive(Clone, Copy, Debug)]
pub struct FilterBuild<'a> {
    /// Where statistics live.
    pub registry: &'a Registry,
    /// `http.<stat_prefix>` of the connection manager.
    pub scope: &'a str,
    /// The filter is off unless a route's settings switch it on.
    pub is_disabled: bool,
}

/// What per-route objects are built with: route tables do not know their connection managers.
#[derive(Clone, Copy, Debug)]
pub struct RouteBuild<'a> {
    /// Where statistics live.
    pub registry: &'a Registry,
}
