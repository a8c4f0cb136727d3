//! `load_balancing_policy`: policies as extensions, ours among them.

use std::time::Duration;

use outrigger_proto::{
    envoy::{
        config::{
            cluster::v3::{LoadBalancingPolicy, load_balancing_policy::Policy},
            core::v3::TypedExtensionConfig,
        },
        extensions::load_balancing_policies::{
            common::v3::{
                ConsistentHashingLbConfig, LocalityLbConfig, SlowStartConfig,
                locality_lb_config::{
                    LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
                },
            },
            least_request::v3::{LeastRequest, least_request::SelectionMethod},
            maglev::v3::Maglev,
            random::v3::Random,
            ring_hash::v3::{RingHash, ring_hash::HashFunction as FunctionProto},
            round_robin::v3::RoundRobin,
        },
    },
    google::protobuf::Any,
    outrigger::extensions::load_balancing_policies::peak_ewma::v1alpha1::PeakEwma as EwmaProto,
};
use prost::Name;

use super::{Balancing, CHOICE_COUNT, Locality};
use crate::{
    config::{
        hash_policy::HashPolicy,
        load_balancing::{Consistent, HashFunction, LbOptions, LbPolicy, PeakEwma, SlowStart},
    },
    convert::{Cx, u32_or},
    no_effect, unsupported,
};

/// Defaults of our own algorithm.
const DECAY_TIME: Duration = Duration::from_secs(10);
const DEFAULT_RTT: Duration = Duration::from_millis(30);

/// The first policy of the list that we know, as Envoy chooses.
pub(super) fn policy(cx: &Cx<'_>, list: LoadBalancingPolicy) -> Option<Balancing> {
    cx.converts::<LoadBalancingPolicy>();
    let LoadBalancingPolicy { policies } = list;
    let policies_cx = cx.field("policies");
    let mut unknown = Vec::new();
    for (index, policy) in policies.into_iter().enumerate() {
        let cx = policies_cx.index(index);
        cx.converts::<Policy>();
        cx.partly::<Policy>(
            "typed_extension_config",
            "RoundRobin, LeastRequest, Random, RingHash, Maglev, and our PeakEwma; the first known one counts",
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
        match known(&at.field("typed_config"), &any) {
            Known::Yes(balancing) => return Some(*balancing),
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
    Yes(Box<Balancing>),
    Bad,
    No,
}

fn known(cx: &Cx<'_>, any: &Any) -> Known {
    let balancing = if any.type_url == RoundRobin::type_url() {
        cx.any::<RoundRobin>(any).map(|proto| {
            cx.converts::<RoundRobin>();
            let RoundRobin {
                slow_start_config,
                locality_lb_config,
            } = proto;
            let slow_start = slow_start(cx, slow_start_config);
            with(
                LbPolicy::RoundRobin,
                slow_start,
                locality(cx, locality_lb_config),
            )
        })
    } else if any.type_url == Random::type_url() {
        cx.any::<Random>(any).map(|proto| {
            cx.converts::<Random>();
            let Random { locality_lb_config } = proto;
            with(LbPolicy::Random, None, locality(cx, locality_lb_config))
        })
    } else if any.type_url == LeastRequest::type_url() {
        cx.any::<LeastRequest>(any)
            .map(|proto| least_request(cx, proto))
    } else if any.type_url == RingHash::type_url() {
        cx.any::<RingHash>(any).map(|proto| ring_hash(cx, proto))
    } else if any.type_url == Maglev::type_url() {
        cx.any::<Maglev>(any).map(|proto| maglev(cx, proto))
    } else if any.type_url == EwmaProto::type_url() {
        cx.any::<EwmaProto>(any).map(|proto| peak_ewma(cx, proto))
    } else {
        return Known::No;
    };
    balancing.map_or(Known::Bad, |balancing| Known::Yes(Box::new(balancing)))
}

fn with(policy: LbPolicy, slow_start: Option<SlowStart>, locality: Locality) -> Balancing {
    Balancing {
        policy,
        options: LbOptions {
            slow_start,
            locality_weighted: locality.is_weighted,
            fail_traffic_on_panic: locality.fail_traffic_on_panic,
            hash_policy: Vec::new(),
        },
    }
}

fn least_request(cx: &Cx<'_>, proto: LeastRequest) -> Balancing {
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
    unsupported!(cx, LeastRequest, [enable_full_scan]);
    let mut policy =
        super::least_request(cx, u32_or(choice_count, CHOICE_COUNT), active_request_bias);
    if let (Some(SelectionMethod::FullScan), LbPolicy::LeastRequest { choice_count, .. }) = (
        cx.enumeration("selection_method", selection_method),
        &mut policy,
    ) {
        *choice_count = None;
    }
    let slow_start = slow_start(cx, slow_start_config);
    with(policy, slow_start, locality(cx, locality_lb_config))
}

fn ring_hash(cx: &Cx<'_>, proto: RingHash) -> Balancing {
    cx.converts::<RingHash>();
    #[expect(
        deprecated,
        reason = "they count unless consistent_hashing_lb_config is set"
    )]
    let RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = proto;
    let own = Consistent {
        use_hostname: use_hostname_for_hashing,
        balance_factor: super::balance_factor(cx, hash_balance_factor.map(|factor| factor.value)),
    };
    let (consistent, hash_policy) = consistent(cx, consistent_hashing_lb_config);
    let (minimum_ring_size, maximum_ring_size) =
        super::ring_sizes(cx, minimum_ring_size, maximum_ring_size);
    let policy = LbPolicy::RingHash {
        minimum_ring_size,
        maximum_ring_size,
        hash_function: match cx.enumeration("hash_function", hash_function) {
            Some(FunctionProto::MurmurHash2) => HashFunction::MurmurHash2,
            Some(FunctionProto::DefaultHash | FunctionProto::XxHash) | None => HashFunction::XxHash,
        },
        consistent: consistent.unwrap_or(own),
    };
    hashing(policy, hash_policy, locality_weighted_lb_config)
}

fn maglev(cx: &Cx<'_>, proto: Maglev) -> Balancing {
    cx.converts::<Maglev>();
    let Maglev {
        table_size,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = proto;
    let (consistent, hash_policy) = consistent(cx, consistent_hashing_lb_config);
    let policy = LbPolicy::Maglev {
        table_size: super::maglev_size(cx, table_size),
        consistent: consistent.unwrap_or_default(),
    };
    hashing(policy, hash_policy, locality_weighted_lb_config)
}

fn hashing(
    policy: LbPolicy,
    hash_policy: Vec<HashPolicy>,
    locality_weighted: Option<LocalityWeightedLbConfig>,
) -> Balancing {
    let locality = Locality {
        is_weighted: locality_weighted.is_some(),
        fail_traffic_on_panic: false,
    };
    let mut balancing = with(policy, None, locality);
    balancing.options.hash_policy = hash_policy;
    balancing
}

fn consistent(
    cx: &Cx<'_>,
    config: Option<ConsistentHashingLbConfig>,
) -> (Option<Consistent>, Vec<HashPolicy>) {
    let cx = cx.field("consistent_hashing_lb_config");
    cx.converts::<ConsistentHashingLbConfig>();
    let Some(ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
        hash_policy,
    }) = config
    else {
        return (None, Vec::new());
    };
    let consistent = Consistent {
        use_hostname: use_hostname_for_hashing,
        balance_factor: super::balance_factor(&cx, hash_balance_factor.map(|factor| factor.value)),
    };
    let policies = super::super::hash_policy::policies(&cx.field("hash_policy"), hash_policy);
    (Some(consistent), policies)
}

fn peak_ewma(cx: &Cx<'_>, proto: EwmaProto) -> Balancing {
    cx.converts::<EwmaProto>();
    let EwmaProto {
        decay_time,
        default_rtt,
        choice_count,
        slow_start_config,
    } = proto;
    let policy = PeakEwma {
        decay_time: cx.duration_or("decay_time", decay_time, DECAY_TIME),
        default_rtt: cx.duration_or("default_rtt", default_rtt, DEFAULT_RTT),
        choice_count: u32_or(choice_count, CHOICE_COUNT),
    };
    if policy.decay_time.is_zero() {
        cx.field("decay_time")
            .error("value must be greater than 0s");
    }
    if policy.default_rtt.is_zero() {
        cx.field("default_rtt")
            .error("value must be greater than 0s");
    }
    if policy.choice_count < 2 {
        cx.field("choice_count")
            .error("value must be greater than or equal to 2");
    }
    let slow_start = slow_start(cx, slow_start_config);
    with(LbPolicy::PeakEwma(policy), slow_start, Locality::default())
}

fn slow_start(cx: &Cx<'_>, config: Option<SlowStartConfig>) -> Option<SlowStart> {
    let cx = cx.field("slow_start_config");
    cx.converts::<SlowStartConfig>();
    let SlowStartConfig {
        slow_start_window,
        aggression,
        min_weight_percent,
    } = config?;
    let min_weight_percent = min_weight_percent.map(|percent| percent.value);
    super::slow_start(&cx, slow_start_window, aggression, min_weight_percent)
}

/// Zone-aware balancing changes picks only with what we refuse elsewhere; its default settings are in
/// many generated configurations.
fn locality(cx: &Cx<'_>, config: Option<LocalityLbConfig>) -> Locality {
    let cx = cx.field("locality_lb_config");
    cx.converts::<LocalityLbConfig>();
    let mut locality = Locality::default();
    let Some(LocalityLbConfig {
        locality_config_specifier,
    }) = config
    else {
        return locality;
    };
    match locality_config_specifier {
        None => {}
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => {
            let cx = cx.field("zone_aware_lb_config");
            cx.converts::<ZoneAwareLbConfig>();
            #[expect(deprecated, reason = "named to be refused")]
            let ZoneAwareLbConfig {
                routing_enabled,
                min_cluster_size,
                fail_traffic_on_panic,
                force_locality_direct_routing,
                force_local_zone,
                locality_basis,
            } = config;
            locality.fail_traffic_on_panic = fail_traffic_on_panic;
            unsupported!(
                cx,
                ZoneAwareLbConfig,
                [force_locality_direct_routing, force_local_zone]
            );
            no_effect!(
                cx,
                ZoneAwareLbConfig,
                "counts only with cluster_manager.local_cluster_name, which is refused",
                [routing_enabled, min_cluster_size, locality_basis]
            );
        }
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => {
            cx.field("locality_weighted_lb_config")
                .converts::<LocalityWeightedLbConfig>();
            locality.is_weighted = true;
        }
    }
    locality
}
