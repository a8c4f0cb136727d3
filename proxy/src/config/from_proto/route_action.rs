//! `RouteAction`, `WeightedCluster`, `RedirectAction`.

use std::{sync::Arc, time::Duration};

use outrigger_proto::{
    envoy::config::{
        core::v3::RoutingPriority,
        route::v3::{
            RedirectAction, RouteAction, WeightedCluster as WeightedProto,
            redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
            route_action::{
                ClusterNotFoundResponseCode, ClusterSpecifier as SpecifierProto,
                HostRewriteSpecifier, MaxStreamDuration,
            },
            weighted_cluster::{self, ClusterWeight, RandomValueSpecifier as RandomSpecifier},
        },
    },
    google::protobuf::BoolValue,
};

use super::{hash_policy, header, http_filter, matcher, mirror, retry, upgrade};
use crate::{
    config::retry::BufferLimit,
    config::route::{
        ClusterName, ClusterSpecifier, Forward, HostRewrite, PathRedirect, PathRewrite, Priority,
        RandomValue, Redirect, SchemeRedirect, WeightedCluster, WeightedClusters,
    },
    convert::Cx,
    no_effect, unsupported,
};

/// Envoy's default of `RouteAction.timeout`.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn forward(cx: &Cx<'_>, action: RouteAction) -> Option<Forward> {
    cx.converts::<RouteAction>();
    cx.refuses::<RouteAction>(&[
        "cluster_specifier_plugin",
        "inline_cluster_specifier_plugin",
        "host_rewrite",
    ]);
    #[expect(deprecated, reason = "named to be refused or carried over")]
    let RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        // A setting of the filter, which the route has taken.
        cors: _,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = action;
    unsupported!(
        cx,
        RouteAction,
        [
            metadata_match,
            path_rewrite_policy,
            path_rewrite,
            flush_timeout,
            early_data_policy,
            retry_policy_typed_config,
            rate_limits,
            include_vh_rate_limits,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            hedge_policy
        ]
    );
    let cluster = cluster_specifier_of(cx, cluster_specifier);
    let path_rewrite = match (prefix_rewrite.is_empty(), regex_rewrite) {
        (true, None) => None,
        (false, None) => Some(PathRewrite::Prefix(Arc::from(prefix_rewrite))),
        (true, Some(rewrite)) => matcher::substitution(&cx.field("regex_rewrite"), rewrite).map(
            |(pattern, substitution)| PathRewrite::Regex {
                pattern,
                substitution,
            },
        ),
        (false, Some(_)) => {
            cx.field("regex_rewrite")
                .error("Cannot specify both prefix_rewrite and regex_rewrite");
            None
        }
    };
    let has_stream_durations = max_stream_duration.is_some();
    let durations = stream_durations(&cx.field("max_stream_duration"), max_stream_duration);
    let status = match cx.enumeration(
        "cluster_not_found_response_code",
        cluster_not_found_response_code,
    )? {
        ClusterNotFoundResponseCode::ServiceUnavailable => http::StatusCode::SERVICE_UNAVAILABLE,
        ClusterNotFoundResponseCode::NotFound => http::StatusCode::NOT_FOUND,
        ClusterNotFoundResponseCode::InternalServerError => http::StatusCode::INTERNAL_SERVER_ERROR,
    };
    let priority = match cx.enumeration("priority", priority)? {
        RoutingPriority::Default => Priority::Default,
        RoutingPriority::High => Priority::High,
    };
    Some(Forward {
        cluster: cluster?,
        cluster_not_found_status: status,
        path_rewrite,
        host_rewrite: host_rewrite_specifier.and_then(|specifier| host_rewrite(cx, specifier)),
        append_x_forwarded_host,
        // With `max_stream_duration` Envoy takes neither this nor `max_grpc_timeout` for anything.
        timeout: match has_stream_durations {
            true => Duration::ZERO,
            false => cx.duration_or("timeout", timeout, ROUTE_TIMEOUT),
        },
        idle_timeout: cx.optional_duration("idle_timeout", idle_timeout),
        max_stream_duration: durations.max,
        grpc_timeout_header_max: durations.grpc_max,
        grpc_timeout_header_offset: durations.grpc_offset,
        max_grpc_timeout: cx
            .optional_duration("max_grpc_timeout", max_grpc_timeout)
            .filter(|_| !has_stream_durations),
        grpc_timeout_offset: cx.optional_duration("grpc_timeout_offset", grpc_timeout_offset),
        priority,
        hash_policy: hash_policy::policies(&cx.field("hash_policy"), hash_policy),
        mirrors: mirror::policies(cx, request_mirror_policies),
        retry: retry_policy.map(|proto| Arc::new(retry::policy(&cx.field("retry_policy"), proto))),
        // What the levels around say is filled in by them.
        buffer_limit: BufferLimit::Connection,
        upgrades: upgrade::of_route(&cx.field("upgrade_configs"), upgrade_configs),
    })
}

#[derive(Default)]
struct Durations {
    max: Option<Duration>,
    grpc_max: Option<Duration>,
    grpc_offset: Option<Duration>,
}

fn stream_durations(cx: &Cx<'_>, durations: Option<MaxStreamDuration>) -> Durations {
    cx.converts::<MaxStreamDuration>();
    let Some(MaxStreamDuration {
        max_stream_duration,
        grpc_timeout_header_max,
        grpc_timeout_header_offset,
    }) = durations
    else {
        return Durations::default();
    };
    Durations {
        max: cx.optional_duration("max_stream_duration", max_stream_duration),
        grpc_max: cx.optional_duration("grpc_timeout_header_max", grpc_timeout_header_max),
        grpc_offset: cx.optional_duration("grpc_timeout_header_offset", grpc_timeout_header_offset),
    }
}

fn cluster_specifier_of(
    cx: &Cx<'_>,
    specifier: Option<SpecifierProto>,
) -> Option<ClusterSpecifier> {
    match specifier {
        Some(SpecifierProto::Cluster(name)) => {
            Some(ClusterSpecifier::Cluster(cx.non_empty("cluster", &name)))
        }
        Some(SpecifierProto::ClusterHeader(name)) => {
            matcher::header_key(&cx.field("cluster_header"), &name).map(ClusterSpecifier::Header)
        }
        Some(SpecifierProto::WeightedClusters(clusters)) => {
            weighted(&cx.field("weighted_clusters"), clusters).map(ClusterSpecifier::Weighted)
        }
        Some(SpecifierProto::ClusterSpecifierPlugin(_)) => {
            cx.field("cluster_specifier_plugin").error("not supported");
            None
        }
        Some(SpecifierProto::InlineClusterSpecifierPlugin(_)) => {
            cx.field("inline_cluster_specifier_plugin")
                .error("not supported");
            None
        }
        None => {
            cx.field("cluster_specifier").error("value is required");
            None
        }
    }
}

fn weighted(cx: &Cx<'_>, clusters: WeightedProto) -> Option<WeightedClusters> {
    cx.converts::<WeightedProto>();
    #[expect(
        deprecated,
        reason = "`total_weight` is in configurations that are older than its deprecation"
    )]
    let WeightedProto {
        clusters,
        total_weight,
        runtime_key_prefix,
        random_value_specifier,
    } = clusters;
    no_effect!(
        cx,
        WeightedProto,
        "there is no runtime to read keys from",
        [runtime_key_prefix]
    );
    no_effect!(
        cx,
        WeightedProto,
        "deprecated: the sum of the weights counts, in Envoy too",
        [total_weight]
    );
    let random = match random_value_specifier {
        None | Some(RandomSpecifier::UseHashPolicy(BoolValue { value: false })) => {
            Some(RandomValue::Chance)
        }
        Some(RandomSpecifier::UseHashPolicy(BoolValue { value: true })) => {
            Some(RandomValue::HashPolicy)
        }
        Some(RandomSpecifier::HeaderName(name)) if name.is_empty() => Some(RandomValue::Chance),
        Some(RandomSpecifier::HeaderName(name)) => {
            matcher::header_key(&cx.field("header_name"), &name).map(RandomValue::Header)
        }
    };
    let clusters_cx = cx.field("clusters");
    if clusters.is_empty() {
        clusters_cx.error("value must contain at least 1 item");
    }
    let mut sum = 0_u64;
    let mut weighted = Vec::with_capacity(clusters.len());
    for (index, cluster) in clusters.into_iter().enumerate() {
        let cluster = cluster_weight(&clusters_cx.index(index), cluster)?;
        sum += u64::from(cluster.weight);
        weighted.push(cluster);
    }
    if sum == 0 {
        clusters_cx.error("Sum of weights in the weighted_cluster must be greater than 0.");
        return None;
    }
    let Ok(total) = u32::try_from(sum) else {
        clusters_cx.error("The sum of weights of all weighted clusters exceeds 4294967295");
        return None;
    };
    Some(WeightedClusters {
        clusters: weighted,
        total,
        random: random?,
    })
}

/// Splits by hash are made so that few users move when weights change; others cannot.
pub(super) fn make_monotone(cx: &Cx<'_>, cluster: &mut ClusterSpecifier) {
    match cluster {
        ClusterSpecifier::Weighted(WeightedClusters {
            random: random @ RandomValue::HashPolicy,
            ..
        }) => *random = RandomValue::Monotone,
        _ => cx
            .field("weighted_clusters")
            .field("use_hash_policy")
            .error("must be true for metadata outrigger.dev {sticky: monotone}"),
    }
}

fn cluster_weight(cx: &Cx<'_>, cluster: ClusterWeight) -> Option<WeightedCluster> {
    cx.converts::<ClusterWeight>();
    let ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = cluster;
    unsupported!(cx, ClusterWeight, [metadata_match]);
    let cluster = match (name.is_empty(), cluster_header.is_empty()) {
        (false, true) => ClusterName::Name(Arc::from(name)),
        (true, false) => ClusterName::Header(matcher::header_key(
            &cx.field("cluster_header"),
            &cluster_header,
        )?),
        (true, true) => {
            cx.error("At least one of name or cluster_header need to be specified");
            return None;
        }
        (false, false) => {
            cx.error("Only one of name or cluster_header can be specified");
            return None;
        }
    };
    let weight = cx.required("weight", weight);
    let host_rewrite = match host_rewrite_specifier {
        Some(weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            cx.field("host_rewrite_literal").header_value(&host)
        }
        None => None,
    };
    Some(WeightedCluster {
        cluster,
        weight: weight?.value,
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
        host_rewrite,
        per_filter: http_filter::per_filter(cx, typed_per_filter_config),
    })
}

fn host_rewrite(cx: &Cx<'_>, specifier: HostRewriteSpecifier) -> Option<HostRewrite> {
    match specifier {
        HostRewriteSpecifier::HostRewriteLiteral(host) => cx
            .field("host_rewrite_literal")
            .header_value(&host)
            .map(HostRewrite::Literal),
        HostRewriteSpecifier::AutoHostRewrite(BoolValue { value }) => {
            value.then_some(HostRewrite::Auto)
        }
        HostRewriteSpecifier::HostRewriteHeader(name) => cx
            .field("host_rewrite_header")
            .header_name(&name)
            .map(HostRewrite::Header),
        HostRewriteSpecifier::HostRewritePathRegex(rewrite) => {
            matcher::substitution(&cx.field("host_rewrite_path_regex"), rewrite).map(
                |(pattern, substitution)| HostRewrite::PathRegex {
                    pattern,
                    substitution,
                },
            )
        }
        HostRewriteSpecifier::HostRewrite(_) => {
            cx.field("host_rewrite").error("not supported");
            None
        }
    }
}

pub(super) fn redirect(cx: &Cx<'_>, action: RedirectAction) -> Option<Redirect> {
    cx.converts::<RedirectAction>();
    cx.refuses::<RedirectAction>(&["path_rewrite"]);
    let RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = action;
    let scheme = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some(SchemeRedirect::Https),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if !scheme.is_empty() => {
            Some(SchemeRedirect::Scheme(Arc::from(scheme)))
        }
        Some(
            SchemeRewriteSpecifier::HttpsRedirect(false)
            | SchemeRewriteSpecifier::SchemeRedirect(_),
        )
        | None => None,
    };
    let path = match path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            (!path.is_empty()).then(|| PathRedirect::Path(Arc::from(path)))
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            (!prefix.is_empty()).then(|| PathRedirect::Prefix(Arc::from(prefix)))
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (pattern, substitution) =
                matcher::substitution(&cx.field("regex_rewrite"), rewrite)?;
            Some(PathRedirect::Regex {
                pattern,
                substitution,
            })
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            cx.field("path_rewrite").error("not supported");
            None
        }
        None => None,
    };
    let port = match u16::try_from(port_redirect) {
        Ok(port) => (port > 0).then_some(port),
        Err(_) => {
            cx.field("port_redirect")
                .error("value must be less than or equal to 65535");
            None
        }
    };
    let status = match cx.enumeration("response_code", response_code)? {
        RedirectResponseCode::MovedPermanently => http::StatusCode::MOVED_PERMANENTLY,
        RedirectResponseCode::Found => http::StatusCode::FOUND,
        RedirectResponseCode::SeeOther => http::StatusCode::SEE_OTHER,
        RedirectResponseCode::TemporaryRedirect => http::StatusCode::TEMPORARY_REDIRECT,
        RedirectResponseCode::PermanentRedirect => http::StatusCode::PERMANENT_REDIRECT,
    };
    Some(Redirect {
        scheme,
        host: (!host_redirect.is_empty()).then(|| Arc::from(host_redirect)),
        port,
        path,
        status,
        strip_query,
    })
}
