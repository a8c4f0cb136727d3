//! The fields of `Cluster`: `lb_policy`, the configurations of policies, `common_lb_config`.

use outrigger_proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy as PolicyProto, LeastRequestLbConfig, MaglevLbConfig,
    RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
    common_lb_config::{
        ConsistentHashingLbConfig, LocalityConfigSpecifier, LocalityWeightedLbConfig,
        ZoneAwareLbConfig,
    },
    ring_hash_lb_config::HashFunction as FunctionProto,
};

use super::{Balancing, CHOICE_COUNT, Common, Locality, PANIC_THRESHOLD};
use crate::{
    config::load_balancing::{Consistent, HashFunction, LbOptions, LbPolicy, SlowStart},
    convert::{Cx, u32_or},
    no_effect, unsupported,
};

/// The settings of a policy that is perhaps not the one chosen: as in Envoy they do not count then.
struct Settings {
    least_request: LbPolicy,
    ring_sizes: (u64, u64),
    hash_function: HashFunction,
    table_size: u64,
    least_request_slow_start: Option<SlowStart>,
    round_robin_slow_start: Option<SlowStart>,
}

pub(super) fn policy(
    cx: &Cx<'_>,
    policy: i32,
    config: Option<LbConfig>,
    is_overridden: bool,
    common: Common,
) -> Option<Balancing> {
    let policy = cx.enumeration("lb_policy", policy)?;
    let settings = settings(cx, config);
    let Common {
        panic_threshold: _,
        ignore_new_hosts: _,
        locality,
        consistent,
    } = common;
    let mut slow_start = None;
    let (minimum_ring_size, maximum_ring_size) = settings.ring_sizes;
    let policy = match policy {
        PolicyProto::RoundRobin => {
            slow_start = settings.round_robin_slow_start;
            LbPolicy::RoundRobin
        }
        PolicyProto::LeastRequest => {
            slow_start = settings.least_request_slow_start;
            settings.least_request
        }
        PolicyProto::Random => LbPolicy::Random,
        PolicyProto::RingHash => LbPolicy::RingHash {
            minimum_ring_size,
            maximum_ring_size,
            hash_function: settings.hash_function,
            consistent,
        },
        PolicyProto::Maglev => LbPolicy::Maglev {
            table_size: settings.table_size,
            consistent,
        },
        PolicyProto::LoadBalancingPolicyConfig if is_overridden => LbPolicy::RoundRobin,
        PolicyProto::ClusterProvided => LbPolicy::ClusterProvided,
        PolicyProto::LoadBalancingPolicyConfig => {
            cx.field("lb_policy").error(format!(
                "{} is not supported; use ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH or MAGLEV",
                policy.as_str_name()
            ));
            return None;
        }
    };
    Some(Balancing {
        policy,
        options: LbOptions {
            slow_start,
            locality_weighted: locality.is_weighted,
            fail_traffic_on_panic: locality.fail_traffic_on_panic,
            hash_policy: Vec::new(),
        },
    })
}

fn settings(cx: &Cx<'_>, config: Option<LbConfig>) -> Settings {
    let mut settings = Settings {
        least_request: super::least_request(cx, CHOICE_COUNT, None),
        ring_sizes: super::ring_sizes(cx, None, None),
        hash_function: HashFunction::XxHash,
        table_size: super::MAGLEV_TABLE_SIZE,
        least_request_slow_start: None,
        round_robin_slow_start: None,
    };
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
            settings.least_request =
                super::least_request(&cx, u32_or(choice_count, CHOICE_COUNT), active_request_bias);
            settings.least_request_slow_start = slow_start(&cx, slow_start_config);
        }
        Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })) => {
            let cx = cx.field("round_robin_lb_config");
            cx.converts::<RoundRobinLbConfig>();
            settings.round_robin_slow_start = slow_start(&cx, slow_start_config);
        }
        Some(LbConfig::RingHashLbConfig(proto)) => {
            let cx = cx.field("ring_hash_lb_config");
            cx.converts::<RingHashLbConfig>();
            let RingHashLbConfig {
                minimum_ring_size,
                hash_function,
                maximum_ring_size,
            } = proto;
            settings.ring_sizes = super::ring_sizes(&cx, minimum_ring_size, maximum_ring_size);
            settings.hash_function = match cx.enumeration("hash_function", hash_function) {
                Some(FunctionProto::MurmurHash2) => HashFunction::MurmurHash2,
                Some(FunctionProto::XxHash) | None => HashFunction::XxHash,
            };
        }
        Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size })) => {
            let cx = cx.field("maglev_lb_config");
            cx.converts::<MaglevLbConfig>();
            settings.table_size = super::maglev_size(&cx, table_size);
        }
        // The cluster's kind reads it.
        Some(LbConfig::OriginalDstLbConfig(_)) => {}
    }
    settings
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

/// `common_lb_config`.
pub(in super::super) fn common(cx: &Cx<'_>, config: Option<CommonLbConfig>) -> Common {
    cx.converts::<CommonLbConfig>();
    let CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = config.unwrap_or_default();
    unsupported!(
        cx,
        CommonLbConfig,
        [close_connections_on_host_set_change, override_host_status]
    );
    no_effect!(
        cx,
        CommonLbConfig,
        "one update is one atomic exchange of the host set: there is nothing to merge",
        [update_merge_window]
    );
    Common {
        ignore_new_hosts: ignore_new_hosts_until_first_hc,
        panic_threshold: super::rounded_percent(
            cx,
            "healthy_panic_threshold",
            healthy_panic_threshold.map(|percent| percent.value),
            PANIC_THRESHOLD,
        ),
        locality: locality(cx, locality_config_specifier),
        consistent: consistent(
            &cx.field("consistent_hashing_lb_config"),
            consistent_hashing_lb_config,
        ),
    }
}

fn consistent(cx: &Cx<'_>, config: Option<ConsistentHashingLbConfig>) -> Consistent {
    cx.converts::<ConsistentHashingLbConfig>();
    let ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
    } = config.unwrap_or_default();
    Consistent {
        use_hostname: use_hostname_for_hashing,
        balance_factor: super::balance_factor(cx, hash_balance_factor.map(|factor| factor.value)),
    }
}

fn locality(cx: &Cx<'_>, specifier: Option<LocalityConfigSpecifier>) -> Locality {
    let mut locality = Locality::default();
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
            locality.fail_traffic_on_panic = fail_traffic_on_panic;
            no_effect!(
                cx,
                ZoneAwareLbConfig,
                "counts only with cluster_manager.local_cluster_name, which is refused",
                [routing_enabled, min_cluster_size]
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
