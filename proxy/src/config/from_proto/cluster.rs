//! `Cluster`, `CircuitBreakers`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_proto::envoy::config::{
    cluster::v3::{
        CircuitBreakers as BreakersProto, Cluster as Proto, TrackClusterStats,
        UpstreamConnectionOptions,
        circuit_breakers::{
            Thresholds as ThresholdsProto, thresholds::RetryBudget as RetryBudgetProto,
        },
        cluster::{ClusterProtocolSelection, LbConfig, LbPolicy as PolicyProto},
    },
    core::v3::{
        RoutingPriority, TcpKeepalive as KeepaliveProto, TransportSocket,
        transport_socket::ConfigType as SocketConfig,
    },
};
use outrigger_proto::{
    envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer, google::protobuf::BoolValue,
};
use prost::Name;

use super::{
    bind_config,
    discovery::{DestinationFields, DnsFields, discovery, lookup_family},
    health_check, http_protocol, load_balancing, outlier_detection,
};
use crate::{
    config::{
        cluster::{
            CircuitBreakers, Cluster, Discovery, LoadAssignment, RetryBudget, TcpKeepalive,
            Thresholds, UpstreamProtocol,
        },
        health_check::Checker,
    },
    convert::{Cx, u32_or},
    no_effect, unsupported,
};

/// Envoy's defaults.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DNS_REFRESH: Duration = Duration::from_secs(5);
const CLEANUP: Duration = Duration::from_secs(5);
const BUFFER_LIMIT: u32 = 1024 * 1024;

/// Counts of requests are kept that long at most.
const MAX_BUDGET_INTERVAL: Duration = Duration::from_secs(3600);

/// A whole cluster.
#[expect(
    clippy::too_many_lines,
    reason = "one message taken apart: its fields are the length"
)]
pub fn cluster(cx: &Cx<'_>, cluster: Proto) -> Option<Cluster> {
    cx.converts::<Proto>();
    cx.refuses::<Proto>(&["cluster_type"]);
    cx.partly::<Proto>("type", "STATIC, STRICT_DNS, EDS, ORIGINAL_DST");
    cx.partly::<Proto>("original_dst_lb_config", "with type ORIGINAL_DST");
    cx.partly::<Proto>(
        "lb_policy",
        "ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH, MAGLEV, CLUSTER_PROVIDED",
    );
    cx.partly::<Proto>(
        "typed_extension_protocol_options",
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    );
    #[expect(deprecated, reason = "named to be refused or carried over")]
    let Proto {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
        outlier_detection,
        cleanup_interval,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = cluster;
    // Waiting is what we do anyway.
    let wait_for_warm_on_init = wait_for_warm_on_init.filter(|BoolValue { value }| !*value);
    unsupported!(
        cx,
        Proto,
        [
            transport_socket_matches,
            transport_socket_matcher,
            stats_matcher,
            per_connection_buffer_high_watermark_timeout,
            upstream_http_protocol_options,
            dns_jitter,
            dns_failure_refresh_rate,
            dns_resolvers,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            wait_for_warm_on_init,
            lb_subset_config,
            close_connections_on_host_health_failure,
            filters,
            lrs_server,
            lrs_report_endpoint_metrics,
            track_timeout_budgets,
            upstream_config,
            preconnect_policy,
            connection_pool_per_downstream_connection,
            queuing_policies
        ]
    );
    cx.partly::<Proto>(
        "upstream_bind_config",
        "source_address, extra_source_addresses; streams to xDS and OTLP servers choose their own address",
    );
    cx.partly::<Proto>(
        "metadata",
        "outrigger.dev {origin}: no filter reads any other",
    );
    let origin = super::route::origin(metadata.as_ref()).map(Arc::from);
    track_stats(&cx.field("track_cluster_stats"), track_cluster_stats);
    plain_socket(&cx.field("transport_socket"), transport_socket);
    let name = cx.non_empty("name", &name);
    let stat_name = if alt_stat_name.is_empty() {
        Arc::from(name.replace(':', "_"))
    } else {
        Arc::from(alt_stat_name.replace(':', "_"))
    };
    let downstream_selected = match cx.enumeration("protocol_selection", protocol_selection)? {
        ClusterProtocolSelection::UseConfiguredProtocol => false,
        ClusterProtocolSelection::UseDownstreamProtocol => true,
    };
    let http = http_protocol::upstream(
        cx,
        http_protocol::Deprecated {
            common: common_http_protocol_options,
            http1: http_protocol_options,
            http2: http2_protocol_options,
            downstream_selected,
        },
        typed_extension_protocol_options,
    );
    let dns = DnsFields {
        refresh_rate: cx.duration_or("dns_refresh_rate", dns_refresh_rate, DNS_REFRESH),
        respect_ttl: respect_dns_ttl,
        family: lookup_family(cx, dns_lookup_family)?,
    };
    let discovery = discovery(
        cx,
        &name,
        cluster_discovery_type,
        load_assignment,
        eds_cluster_config,
        dns,
        DestinationFields {
            cleanup_interval: cx.duration_or("cleanup_interval", cleanup_interval, CLEANUP),
            config: match &lb_config {
                Some(LbConfig::OriginalDstLbConfig(config)) => Some(config.clone()),
                _ => None,
            },
            is_provided: lb_policy == i32::from(PolicyProto::ClusterProvided),
        },
    );
    let hashes_names = common_lb_config
        .as_ref()
        .and_then(|common| common.consistent_hashing_lb_config.as_ref())
        .is_some_and(|hashing| hashing.use_hostname_for_hashing);
    // Envoy has names for the hosts of DNS only.
    if hashes_names && !matches!(discovery, None | Some(Discovery::StrictDns(_))) {
        cx.field("common_lb_config")
            .field("consistent_hashing_lb_config")
            .field("use_hostname_for_hashing")
            .error("Cannot use hostname for consistent hashing loadbalancing for cluster of this type; use STRICT_DNS");
    }
    let common = load_balancing::common(&cx.field("common_lb_config"), common_lb_config);
    let panic_threshold = common.panic_threshold;
    let ignore_new_hosts = common.ignore_new_hosts;
    let balancing = load_balancing::policy(cx, lb_policy, lb_config, load_balancing_policy, common);
    let breakers = circuit_breakers
        .map(|proto| breakers(&cx.field("circuit_breakers"), proto))
        .unwrap_or_default();
    let keepalive = upstream_connection_options
        .and_then(|proto| connection_options(&cx.field("upstream_connection_options"), proto));
    let sources = upstream_bind_config
        .map(|proto| bind_config::bind_config(&cx.field("upstream_bind_config"), proto))
        .unwrap_or_default();
    let outlier_detection = outlier_detection.map(|proto| {
        let cx = cx.field("outlier_detection");
        Arc::new(outlier_detection::outlier_detection(&cx, proto))
    });
    let health_check = health_check::health_check(cx, health_checks);
    let http = http?;
    if let (Some(Checker::Grpc(_)), UpstreamProtocol::Http1(_)) = (
        health_check.as_ref().map(|check| &check.checker),
        &http.protocol,
    ) {
        cx.field("health_checks")
            .index(0)
            .field("grpc_health_check")
            .error("the cluster must speak HTTP/2 for gRPC health checks");
    }
    let mut balancing = balancing?;
    if let (true, Some(Discovery::Static(assignment))) =
        (balancing.policy.is_consistent(), &discovery)
    {
        check_weights(&cx.field("load_assignment").field("endpoints"), assignment);
    }
    // What hosts are chosen by is the algorithm's own say first, then the protocol options'.
    if balancing.options.hash_policy.is_empty() {
        balancing.options.hash_policy = http.hash_policy;
    }
    Some(Cluster {
        name,
        origin,
        stat_name,
        discovery: discovery?,
        connect_timeout: cx.duration_or("connect_timeout", connect_timeout, CONNECT_TIMEOUT),
        lb_policy: balancing.policy,
        lb_options: balancing.options,
        circuit_breakers: breakers,
        protocol: http.protocol,
        idle_timeout: http.idle_timeout,
        max_requests_per_connection: http
            .max_requests
            .or_else(|| max_requests_per_connection.map(|wrapper| wrapper.value))
            .unwrap_or(0),
        max_stream_duration: http.max_stream_duration,
        max_connection_duration: http.max_connection_duration,
        max_headers_count: http.max_headers_count.unwrap_or(http_protocol::MAX_HEADERS),
        max_response_headers_kb: http.max_response_headers_kb,
        per_connection_buffer_limit_bytes: u32_or(per_connection_buffer_limit_bytes, BUFFER_LIMIT),
        healthy_panic_threshold: panic_threshold,
        ignore_new_hosts_until_first_hc: ignore_new_hosts,
        outlier_detection,
        health_check,
        ignore_health_on_host_removal,
        tcp_keepalive: keepalive,
        sources,
    })
}

fn track_stats(cx: &Cx<'_>, track: Option<TrackClusterStats>) {
    cx.converts::<TrackClusterStats>();
    let TrackClusterStats {
        timeout_budgets,
        request_response_sizes,
        per_endpoint_stats,
    } = track.unwrap_or_default();
    unsupported!(
        cx,
        TrackClusterStats,
        [timeout_budgets, request_response_sizes, per_endpoint_stats]
    );
}

/// Sums of weights must fit into 32 bits for consistent hashing, as in Envoy: by locality those of hosts,
/// by priority those of localities.
fn check_weights(cx: &Cx<'_>, assignment: &LoadAssignment) {
    let mut by_priority = HashMap::new();
    for (index, locality) in assignment.localities.iter().enumerate() {
        let priority = locality.priority;
        let hosts = locality.endpoints.iter();
        let sum: u64 = hosts.map(|endpoint| u64::from(endpoint.weight)).sum();
        let whole: &mut u64 = by_priority.entry(priority).or_default();
        *whole += u64::from(locality.weight.unwrap_or(0));
        for (what, sum) in [
            ("endpoints in the locality at", sum),
            ("localities at the same", *whole),
        ] {
            if sum > u64::from(u32::MAX) {
                cx.index(index).error(format!(
                    "The sum of weights of all {what} priority {priority} exceeds {}",
                    u32::MAX
                ));
            }
        }
    }
}

/// A transport socket that is none: raw buffers are the default. Others are refused.
pub(super) fn plain_socket(cx: &Cx<'_>, socket: Option<TransportSocket>) {
    cx.converts::<TransportSocket>();
    cx.partly::<TransportSocket>("typed_config", "RawBuffer");
    let Some(TransportSocket { name, config_type }) = socket else {
        return;
    };
    match config_type {
        Some(SocketConfig::TypedConfig(any)) => {
            let at = cx.field("typed_config");
            if any.type_url != RawBuffer::type_url() {
                at.error(format!(
                    "`{}` is not a supported transport socket",
                    any.type_url
                ));
            } else if let Some(RawBuffer {}) = at.any::<RawBuffer>(&any) {
                at.converts::<RawBuffer>();
            }
        }
        None => cx.error(format!("`{name}` has no typed_config")),
    }
}

fn breakers(cx: &Cx<'_>, breakers: BreakersProto) -> CircuitBreakers {
    cx.converts::<BreakersProto>();
    let BreakersProto {
        thresholds,
        per_host_thresholds,
    } = breakers;
    let mut converted = CircuitBreakers::default();
    let list = cx.field("thresholds");
    // Envoy uses the first entry of each priority.
    for (index, proto) in thresholds.into_iter().enumerate().rev() {
        let cx = list.index(index);
        cx.converts::<ThresholdsProto>();
        let ThresholdsProto {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = proto;
        no_effect!(
            cx,
            ThresholdsProto,
            "what remains of each limit is always shown",
            [track_remaining]
        );
        let limits = Thresholds {
            max_connections: u32_or(max_connections, 1024),
            max_pending_requests: u32_or(max_pending_requests, 1024),
            max_requests: u32_or(max_requests, 1024),
            max_retries: u32_or(max_retries, 3),
            max_connection_pools: max_connection_pools.map(|wrapper| wrapper.value),
            max_connections_per_host: None,
            retry_budget: retry_budget.map(|proto| budget(&cx.field("retry_budget"), proto)),
        };
        match cx.enumeration("priority", priority) {
            Some(RoutingPriority::Default) => converted.default = limits,
            Some(RoutingPriority::High) => converted.high = limits,
            None => {}
        }
    }
    let list = cx.field("per_host_thresholds");
    for (index, proto) in per_host_thresholds.into_iter().enumerate().rev() {
        per_host(&list.index(index), proto, &mut converted);
    }
    converted
}

/// Of the limits for each host Envoy knows only the one of connections, and refuses the others too.
fn per_host(cx: &Cx<'_>, thresholds: ThresholdsProto, converted: &mut CircuitBreakers) {
    let ThresholdsProto {
        priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        // Each host's figures are in `/clusters`.
        track_remaining: _,
        max_connection_pools,
    } = thresholds;
    for (field, is_set) in [
        ("max_pending_requests", max_pending_requests.is_some()),
        ("max_requests", max_requests.is_some()),
        ("max_retries", max_retries.is_some()),
        ("retry_budget", retry_budget.is_some()),
        ("max_connection_pools", max_connection_pools.is_some()),
    ] {
        if is_set {
            cx.field(field)
                .error("Unsupported field in per_host_thresholds");
        }
    }
    let limit = max_connections.map(|wrapper| wrapper.value);
    match cx.enumeration("priority", priority) {
        Some(RoutingPriority::Default) => converted.default.max_connections_per_host = limit,
        Some(RoutingPriority::High) => converted.high.max_connections_per_host = limit,
        None => {}
    }
}

fn budget(cx: &Cx<'_>, budget: RetryBudgetProto) -> RetryBudget {
    cx.converts::<RetryBudgetProto>();
    let RetryBudgetProto {
        budget_percent,
        budget_interval,
        min_retry_concurrency,
    } = budget;
    let percent = budget_percent.map_or(20.0, |percent| percent.value);
    if !(0.0..=100.0).contains(&percent) {
        cx.field("budget_percent")
            .error("value must be inside range [0, 100]");
    }
    let interval = cx
        .optional_duration("budget_interval", budget_interval)
        .unwrap_or_default();
    if interval > MAX_BUDGET_INTERVAL {
        cx.field("budget_interval")
            .error("value must be less than or equal to 1h");
    }
    RetryBudget {
        percent,
        interval,
        min_concurrency: u32_or(min_retry_concurrency, 3),
    }
}

fn connection_options(cx: &Cx<'_>, options: UpstreamConnectionOptions) -> Option<TcpKeepalive> {
    cx.converts::<UpstreamConnectionOptions>();
    let UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = options;
    unsupported!(
        cx,
        UpstreamConnectionOptions,
        [
            set_local_interface_name_on_upstream_connections,
            happy_eyeballs_config
        ]
    );
    tcp_keepalive.map(|proto| keepalive(&cx.field("tcp_keepalive"), proto))
}

/// Socket keep-alive; Envoy's units are seconds.
pub(super) fn keepalive(cx: &Cx<'_>, keepalive: KeepaliveProto) -> TcpKeepalive {
    cx.converts::<KeepaliveProto>();
    let KeepaliveProto {
        keepalive_probes,
        keepalive_time,
        keepalive_interval,
    } = keepalive;
    let seconds = |wrapper: outrigger_proto::google::protobuf::UInt32Value| {
        Duration::from_secs(u64::from(wrapper.value))
    };
    TcpKeepalive {
        probes: keepalive_probes.map(|wrapper| wrapper.value),
        time: keepalive_time.map(seconds),
        interval: keepalive_interval.map(seconds),
    }
}
