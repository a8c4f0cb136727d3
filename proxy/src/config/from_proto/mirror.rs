//! `RequestMirrorPolicy`, and which level's policies count.

use std::sync::Arc;

use outrigger_proto::envoy::{
    config::{
        common::mutation_rules::v3::{
            HeaderMutation,
            header_mutation::{Action as Change, RemoveOnMatch},
        },
        core::v3::RuntimeFractionalPercent,
        route::v3::route_action::RequestMirrorPolicy,
    },
    r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
};

use super::{header, matcher};
use crate::{
    config::{
        header::HeaderMutations,
        mirror::{HeaderChange, MirrorHost, MirrorPolicy, Share},
        route::{Action, ClusterName, Route},
    },
    convert::Cx,
    no_effect,
};

/// The policies of one level.
pub(super) fn policies(cx: &Cx<'_>, protos: Vec<RequestMirrorPolicy>) -> Arc<[MirrorPolicy]> {
    let cx = cx.field("request_mirror_policies");
    protos
        .into_iter()
        .enumerate()
        .filter_map(|(index, proto)| policy(&cx.index(index), proto))
        .collect()
}

/// Gives `policies` to the routes that have none of their own.
pub(super) fn inherit(routes: &mut [Arc<Route>], policies: &Arc<[MirrorPolicy]>) {
    if policies.is_empty() {
        return;
    }
    for route in routes.iter_mut().filter_map(Arc::get_mut) {
        if let Action::Forward(forward) = &mut route.action
            && forward.mirrors.is_empty()
        {
            forward.mirrors = Arc::clone(policies);
        }
    }
}

fn policy(cx: &Cx<'_>, policy: RequestMirrorPolicy) -> Option<MirrorPolicy> {
    cx.converts::<RequestMirrorPolicy>();
    let RequestMirrorPolicy {
        cluster,
        cluster_header,
        runtime_fraction,
        trace_sampled,
        disable_shadow_host_suffix_append,
        request_headers_mutations,
        host_rewrite_literal,
    } = policy;
    let cluster = match (cluster.is_empty(), cluster_header.is_empty()) {
        (false, true) => Some(ClusterName::Name(Arc::from(cluster))),
        (true, false) => matcher::header_key(&cx.field("cluster_header"), &cluster_header)
            .map(ClusterName::Header),
        (false, false) => {
            cx.error(
                "Only one of request_mirror_policies cluster or cluster_header can be specified",
            );
            None
        }
        (true, true) => {
            cx.error(
                "Exactly one of cluster or cluster_header in request_mirror_policies needs to be specified",
            );
            None
        }
    };
    let host = match (
        host_rewrite_literal.is_empty(),
        disable_shadow_host_suffix_append,
    ) {
        (false, _) => cx
            .field("host_rewrite_literal")
            .header_value(&host_rewrite_literal)
            .map(MirrorHost::Literal),
        (true, true) => Some(MirrorHost::Same),
        (true, false) => Some(MirrorHost::Suffixed),
    };
    let share = match runtime_fraction {
        Some(fraction) => share(&cx.field("runtime_fraction"), fraction),
        None => Some(Share::ALL),
    };
    let changes = cx.field("request_headers_mutations");
    let request_headers = request_headers_mutations
        .into_iter()
        .enumerate()
        .filter_map(|(index, proto)| change(&changes.index(index), proto))
        .collect();
    Some(MirrorPolicy {
        cluster: cluster?,
        share: share?,
        trace_sampled: trace_sampled.map(|sampled| sampled.value),
        host: host?,
        request_headers,
    })
}

fn share(cx: &Cx<'_>, fraction: RuntimeFractionalPercent) -> Option<Share> {
    cx.converts::<RuntimeFractionalPercent>();
    let RuntimeFractionalPercent {
        default_value,
        runtime_key,
    } = fraction;
    no_effect!(
        cx,
        RuntimeFractionalPercent,
        "there is no runtime to read keys from",
        [runtime_key]
    );
    let FractionalPercent {
        numerator,
        denominator,
    } = cx.required("default_value", default_value)?;
    let denominator = cx
        .field("default_value")
        .enumeration("denominator", denominator)?;
    Some(Share {
        numerator,
        denominator: match denominator {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        },
    })
}

fn change(cx: &Cx<'_>, mutation: HeaderMutation) -> Option<HeaderChange> {
    cx.converts::<HeaderMutation>();
    let HeaderMutation { action } = mutation;
    match action {
        Some(Change::Remove(name)) => {
            let name = header::removable(&cx.field("remove"), &name)?;
            Some(HeaderChange::Header(HeaderMutations {
                remove: vec![name],
                add: Vec::new(),
            }))
        }
        Some(Change::Append(option)) => {
            let addition = header::addition(&cx.field("append"), option)?;
            Some(HeaderChange::Header(HeaderMutations {
                remove: Vec::new(),
                add: vec![addition],
            }))
        }
        Some(Change::RemoveOnMatch(proto)) => {
            let cx = cx.field("remove_on_match");
            cx.converts::<RemoveOnMatch>();
            let RemoveOnMatch { key_matcher } = proto;
            let proto = cx.required("key_matcher", key_matcher)?;
            matcher::string_matcher(&cx.field("key_matcher"), proto)
                .map(HeaderChange::RemoveOnMatch)
        }
        None => {
            cx.field("action").error("value is required");
            None
        }
    }
}
