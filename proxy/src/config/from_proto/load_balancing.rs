//! `lb_policy`, `load_balancing_policy` and their settings.

use outrigger_proto::{
    envoy::{
        config::{
            cluster::v3::{
                LoadBalancingPolicy,
                cluster::{
                    LbConfig, LbPolicy as PolicyProto, LeastRequestLbConfig, RoundRobinLbConfig,
                    common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig},
                },
                load_balancing_policy::Policy,
            },
            core::v3::{RuntimeDouble, TypedExtensionConfig},
        },
        extensions::load_balancing_policies::{
            common::v3::{
                LocalityLbConfig,
                locality_lb_config::{
                    LocalityConfigSpecifier as Specifier, ZoneAwareLbConfig as ZoneAware,
                },
            },
            least_request::v3::LeastRequest,
            random::v3::Random,
            round_robin::v3::RoundRobin,
        },
    },
    google::protobuf::Any,
};
use prost::Name;

use crate::{
    config::cluster::LbPolicy,
    convert::{Cx, u32_or},
    no_effect, unsupported,
};

/// Envoy's defaults of least request.
const CHOICE_COUNT: u32 = 2;
const ACTIVE_REQUEST_BIAS: f64 = 1.0;

/// The policy from whichever form is set; `load_balancing_policy` wins, as in Envoy.
pub(super) fn policy(
    cx: &Cx<'_>,
    policy: i32,
    config: Option<LbConfig>,
    extensible: Option<LoadBalancingPolicy>,
) -> Option<LbPolicy> {
    let classic = classic(cx, policy, config, extensible.is_some());
    match extensible {
        Some(list) => extensible_policy(&cx.field("load_balancing_policy"), list),
        None => classic,
    }
}

fn classic(
    cx: &Cx<'_>,
    policy: i32,
    config: Option<LbConfig>,
    is_overridden: bool,
) -> Option<LbPolicy> {
    let policy = cx.enumeration("lb_policy", policy)?;
    let mut least = least_request_defaults();
    match config {
        None => {}
        Some(LbConfig::LeastRequestLbConfig(proto)) => {
            let cx = cx.field("least_request_lb_config");
            cx.converts::<LeastRequestLbConfig>();
            let LeastRequestLbConfig {
                choice_count,
                active_request_bias,
                slow_start_config,
            } = proto;
            unsupported!(cx, LeastRequestLbConfig, [slow_start_config]);
            least = least_request(&cx, u32_or(choice_count, CHOICE_COUNT), active_request_bias);
        }
        Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })) => {
            let cx = cx.field("round_robin_lb_config");
            cx.converts::<RoundRobinLbConfig>();
            unsupported!(cx, RoundRobinLbConfig, [slow_start_config]);
        }
        Some(LbConfig::RingHashLbConfig(_)) => {
            cx.field("ring_hash_lb_config").error("not supported");
        }
        Some(LbConfig::MaglevLbConfig(_)) => cx.field("maglev_lb_config").error("not supported"),
        Some(LbConfig::OriginalDstLbConfig(_)) => {
            cx.field("original_dst_lb_config").error("not supported");
        }
    }
    match policy {
        PolicyProto::RoundRobin => Some(LbPolicy::RoundRobin),
        PolicyProto::LeastRequest => Some(least),
        PolicyProto::Random => Some(LbPolicy::Random),
        PolicyProto::LoadBalancingPolicyConfig if is_overridden => Some(LbPolicy::RoundRobin),
        PolicyProto::RingHash
        | PolicyProto::Maglev
        | PolicyProto::ClusterProvided
        | PolicyProto::LoadBalancingPolicyConfig => {
            cx.field("lb_policy").error(format!(
                "{} is not supported; use ROUND_ROBIN, LEAST_REQUEST or RANDOM",
                policy.as_str_name()
            ));
            None
        }
    }
}

fn least_request_defaults() -> LbPolicy {
    LbPolicy::LeastRequest {
        choice_count: CHOICE_COUNT,
        active_request_bias: ACTIVE_REQUEST_BIAS,
    }
}

fn least_request(cx: &Cx<'_>, choice_count: u32, bias: Option<RuntimeDouble>) -> LbPolicy {
    if choice_count < 2 {
        cx.field("choice_count")
            .error("value must be greater than or equal to 2");
    }
    let bias = match bias {
        None => ACTIVE_REQUEST_BIAS,
        Some(RuntimeDouble {
            default_value,
            // There is no runtime to read it from: layered_runtime is refused.
            runtime_key: _,
        }) if default_value >= 0.0 => default_value,
        Some(_) => {
            cx.field("active_request_bias")
                .error("default_value must be zero or more");
            ACTIVE_REQUEST_BIAS
        }
    };
    LbPolicy::LeastRequest {
        choice_count,
        active_request_bias: bias,
    }
}

/// The first policy of the list that we know, as Envoy chooses.
fn extensible_policy(cx: &Cx<'_>, list: LoadBalancingPolicy) -> Option<LbPolicy> {
    cx.converts::<LoadBalancingPolicy>();
    let LoadBalancingPolicy { policies } = list;
    let policies_cx = cx.field("policies");
    let mut unknown = Vec::new();
    for (index, policy) in policies.into_iter().enumerate() {
        let cx = policies_cx.index(index);
        cx.converts::<Policy>();
        cx.partly::<Policy>(
            "typed_extension_config",
            "RoundRobin, LeastRequest, Random; the first known one counts",
        );
        let Policy {
            typed_extension_config,
        } = policy;
        let Some(TypedExtensionConfig { name, typed_config }) =
            cx.required("typed_extension_config", typed_extension_config)
        else {
            continue;
        };
        let at = cx.field("typed_extension_config");
        let Some(any) = at.required("typed_config", typed_config) else {
            continue;
        };
        match known_policy(&at.field("typed_config"), &any) {
            Known::Yes(policy) => return Some(policy),
            Known::Bad => return None,
            Known::No => unknown.push(name),
        }
    }
    policies_cx.error(format!(
        "Didn't find a registered load balancer implementation for any of: {}",
        unknown.join(", ")
    ));
    None
}

enum Known {
    Yes(LbPolicy),
    Bad,
    No,
}

fn known_policy(cx: &Cx<'_>, any: &Any) -> Known {
    let policy = if any.type_url == RoundRobin::type_url() {
        cx.any::<RoundRobin>(any).map(|proto| {
            cx.converts::<RoundRobin>();
            let RoundRobin {
                slow_start_config,
                locality_lb_config,
            } = proto;
            unsupported!(cx, RoundRobin, [slow_start_config]);
            locality(cx, locality_lb_config);
            LbPolicy::RoundRobin
        })
    } else if any.type_url == Random::type_url() {
        cx.any::<Random>(any).map(|proto| {
            cx.converts::<Random>();
            let Random { locality_lb_config } = proto;
            locality(cx, locality_lb_config);
            LbPolicy::Random
        })
    } else if any.type_url == LeastRequest::type_url() {
        cx.any::<LeastRequest>(any).map(|proto| {
            cx.converts::<LeastRequest>();
            #[expect(deprecated, reason = "named to be refused")]
            let LeastRequest {
                choice_count,
                active_request_bias,
                slow_start_config,
                locality_lb_config,
                enable_full_scan,
                selection_method,
            } = proto;
            unsupported!(
                cx,
                LeastRequest,
                [slow_start_config, enable_full_scan, selection_method]
            );
            locality(cx, locality_lb_config);
            least_request(cx, u32_or(choice_count, CHOICE_COUNT), active_request_bias)
        })
    } else {
        return Known::No;
    };
    policy.map_or(Known::Bad, Known::Yes)
}

/// Zone-aware balancing changes picks only with what we refuse elsewhere; its default settings are in
/// many generated configurations.
fn locality(cx: &Cx<'_>, config: Option<LocalityLbConfig>) {
    let cx = cx.field("locality_lb_config");
    cx.converts::<LocalityLbConfig>();
    cx.refuses::<LocalityLbConfig>(&["locality_weighted_lb_config"]);
    let Some(LocalityLbConfig {
        locality_config_specifier,
    }) = config
    else {
        return;
    };
    match locality_config_specifier {
        None => {}
        Some(Specifier::ZoneAwareLbConfig(config)) => {
            let cx = cx.field("zone_aware_lb_config");
            cx.converts::<ZoneAware>();
            #[expect(deprecated, reason = "named to be refused")]
            let ZoneAware {
                routing_enabled,
                min_cluster_size,
                fail_traffic_on_panic,
                force_locality_direct_routing,
                force_local_zone,
                locality_basis,
            } = config;
            unsupported!(
                cx,
                ZoneAware,
                [
                    fail_traffic_on_panic,
                    force_locality_direct_routing,
                    force_local_zone
                ]
            );
            no_effect!(
                cx,
                ZoneAware,
                "counts only with cluster_manager.local_cluster_name, which is refused",
                [routing_enabled, min_cluster_size, locality_basis]
            );
        }
        Some(Specifier::LocalityWeightedLbConfig(_)) => {
            cx.field("locality_weighted_lb_config")
                .error("not supported");
        }
    }
}

pub(super) fn locality_specifier(cx: &Cx<'_>, specifier: Option<LocalityConfigSpecifier>) {
    match specifier {
        None => {}
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => {
            let cx = cx.field("zone_aware_lb_config");
            cx.converts::<ZoneAwareLbConfig>();
            let ZoneAwareLbConfig {
                routing_enabled,
                min_cluster_size,
                fail_traffic_on_panic,
            } = config;
            unsupported!(cx, ZoneAwareLbConfig, [fail_traffic_on_panic]);
            no_effect!(
                cx,
                ZoneAwareLbConfig,
                "counts only with cluster_manager.local_cluster_name, which is refused",
                [routing_enabled, min_cluster_size]
            );
        }
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            cx.field("locality_weighted_lb_config")
                .error("not supported");
        }
    }
}
