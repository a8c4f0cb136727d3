//! `TcpProxy`.

use std::{sync::Arc, time::Duration};

use outrigger_proto::envoy::{
    extensions::filters::network::tcp_proxy::v3::{
        TcpProxy as Proto,
        tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
    },
    r#type::v3::{HashPolicy, hash_policy::PolicySpecifier},
};

use super::access_log;
use crate::{
    config::tcp_proxy::TcpProxy,
    convert::{Cx, u32_or},
    unsupported,
};

/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The filter's configuration.
pub(super) fn tcp_proxy(cx: &Cx<'_>, proxy: Proto) -> Option<TcpProxy> {
    cx.converts::<Proto>();
    #[expect(deprecated, reason = "named to be refused")]
    let Proto {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = proxy;
    unsupported!(
        cx,
        Proto,
        [
            on_demand,
            metadata_match,
            downstream_idle_timeout,
            upstream_idle_timeout,
            backoff_options,
            tunneling_config,
            max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy,
            upstream_connect_mode,
            max_early_data_bytes,
            check_drain_close
        ]
    );
    let clusters = match cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(Arc::from(name), 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(&cx.field("weighted_clusters"), weighted)
        }
        None => {
            cx.field("cluster").error("value is required");
            Vec::new()
        }
    };
    // Zero is no limit.
    let idle = cx.duration_or("idle_timeout", idle_timeout, IDLE_TIMEOUT);
    Some(TcpProxy {
        stat_prefix: cx.non_empty("stat_prefix", &stat_prefix),
        clusters,
        idle_timeout: (!idle.is_zero()).then_some(idle),
        max_connect_attempts: u32_or(max_connect_attempts, 1),
        max_downstream_connection_duration: cx.optional_duration(
            "max_downstream_connection_duration",
            max_downstream_connection_duration,
        ),
        hashes_source_ip: hashes_source_ip(&cx.field("hash_policy"), hash_policy),
        access_log: access_log::access_logs(&cx.field("access_log"), access_log),
    })
}

fn weighted_clusters(cx: &Cx<'_>, weighted: WeightedCluster) -> Vec<(Arc<str>, u32)> {
    cx.converts::<WeightedCluster>();
    let WeightedCluster { clusters } = weighted;
    let list = cx.field("clusters");
    let convert = |(index, cluster)| {
        let cx = list.index(index);
        cx.converts::<ClusterWeight>();
        let ClusterWeight {
            name,
            weight,
            metadata_match,
        } = cluster;
        unsupported!(cx, ClusterWeight, [metadata_match]);
        (Arc::from(name), weight)
    };
    clusters.into_iter().enumerate().map(convert).collect()
}

fn hashes_source_ip(cx: &Cx<'_>, policies: Vec<HashPolicy>) -> bool {
    let mut hashes = false;
    for (index, policy) in policies.into_iter().enumerate() {
        let cx = cx.index(index);
        cx.converts::<HashPolicy>();
        cx.refuses::<HashPolicy>(&["filter_state"]);
        let HashPolicy { policy_specifier } = policy;
        match policy_specifier {
            Some(PolicySpecifier::SourceIp(_)) => hashes = true,
            Some(PolicySpecifier::FilterState(_)) => {
                cx.field("filter_state").error("not supported")
            }
            None => cx.field("policy_specifier").error("value is required"),
        }
    }
    hashes
}
