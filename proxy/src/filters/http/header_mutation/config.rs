//! The messages of the filter.

use outrigger_proto::envoy::{
    config::common::mutation_rules::v3::{
        HeaderMutation as MutationProto,
        header_mutation::{Action, RemoveOnMatch},
    },
    extensions::filters::http::header_mutation::v3::{
        HeaderMutation, HeaderMutationPerRoute, Mutations as MutationsProto,
    },
};

use crate::{
    config::{
        from_proto::{header, matcher},
        header::HeaderAddition,
        matcher::StringMatcher,
    },
    convert::Cx,
    filters::http::FilterConfig,
    unsupported,
};

/// `HeaderMutation`
#[derive(Clone, Debug)]
pub struct Config {
    /// Done before those of the routes.
    pub mutations: Mutations,
    /// Per-route changes are done from the most general level to the most specific, not the reverse.
    pub most_specific_wins: bool,
}

/// `HeaderMutationPerRoute`
pub type RouteConfig = Mutations;

/// `Mutations`
#[derive(Clone, Debug, Default)]
pub struct Mutations {
    /// Of requests, in order.
    pub request: Vec<Mutation>,
    /// Of responses, in order.
    pub response: Vec<Mutation>,
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutation`
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Remove this header.
    Remove(http::HeaderName),
    /// Remove every header whose name matches.
    RemoveOnMatch(StringMatcher),
    /// Add or overwrite a value.
    Append(HeaderAddition),
}

impl FilterConfig for Config {
    type Proto = HeaderMutation;
    type RouteProto = HeaderMutationPerRoute;
    type RouteConfig = RouteConfig;

    fn from_proto(cx: &Cx<'_>, proto: HeaderMutation) -> Option<Self> {
        cx.converts::<HeaderMutation>();
        let HeaderMutation {
            mutations: all,
            most_specific_header_mutations_wins,
        } = proto;
        Some(Self {
            mutations: mutations(&cx.field("mutations"), all.unwrap_or_default()),
            most_specific_wins: most_specific_header_mutations_wins,
        })
    }

    fn route_from_proto(cx: &Cx<'_>, proto: HeaderMutationPerRoute) -> Option<RouteConfig> {
        cx.converts::<HeaderMutationPerRoute>();
        let HeaderMutationPerRoute { mutations: all } = proto;
        Some(mutations(&cx.field("mutations"), all.unwrap_or_default()))
    }
}

fn mutations(cx: &Cx<'_>, proto: MutationsProto) -> Mutations {
    cx.converts::<MutationsProto>();
    let MutationsProto {
        request_mutations,
        query_parameter_mutations,
        response_mutations,
        response_trailers_mutations,
        request_trailers_mutations,
    } = proto;
    unsupported!(
        cx,
        MutationsProto,
        [
            query_parameter_mutations,
            response_trailers_mutations,
            request_trailers_mutations
        ]
    );
    Mutations {
        request: list(&cx.field("request_mutations"), request_mutations),
        response: list(&cx.field("response_mutations"), response_mutations),
    }
}

fn list(cx: &Cx<'_>, protos: Vec<MutationProto>) -> Vec<Mutation> {
    protos
        .into_iter()
        .enumerate()
        .filter_map(|(index, proto)| mutation(&cx.index(index), proto))
        .collect()
}

fn mutation(cx: &Cx<'_>, proto: MutationProto) -> Option<Mutation> {
    cx.converts::<MutationProto>();
    let MutationProto { action } = proto;
    match action {
        Some(Action::Remove(name)) => {
            header::removable(&cx.field("remove"), &name).map(Mutation::Remove)
        }
        Some(Action::Append(option)) => {
            header::addition(&cx.field("append"), option).map(Mutation::Append)
        }
        Some(Action::RemoveOnMatch(proto)) => {
            let cx = cx.field("remove_on_match");
            cx.converts::<RemoveOnMatch>();
            let RemoveOnMatch { key_matcher } = proto;
            let proto = cx.required("key_matcher", key_matcher)?;
            matcher::string_matcher(&cx.field("key_matcher"), proto).map(Mutation::RemoveOnMatch)
        }
        None => {
            cx.field("action").error("value is required");
            None
        }
    }
}
