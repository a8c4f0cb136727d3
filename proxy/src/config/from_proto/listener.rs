//! `Listener`, `FilterChain`.

use std::sync::Arc;

use outrigger_proto::{
    envoy::{
        config::{
            core::v3::TrafficDirection as DirectionProto,
            listener::v3::{
                AdditionalAddress, Filter, FilterChain as ChainProto, FilterChainMatch,
                Listener as Proto, filter, listener,
            },
        },
        extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as HcmProto,
    },
    google::protobuf::BoolValue,
};
use prost::Name;

use super::{access_log, cluster, http_connection_manager};
use crate::{
    config::listener::{DrainType, FilterChain, Listener, NetworkFilter, TrafficDirection},
    convert::{Cx, bool_or, u32_or},
    no_effect, unsupported,
};

/// Envoy's default of `per_connection_buffer_limit_bytes`.
const BUFFER_LIMIT: u32 = 1024 * 1024;

/// A whole listener.
#[expect(
    clippy::too_many_lines,
    reason = "one message taken apart: its fields are the length"
)]
pub fn listener(cx: &Cx<'_>, listener: Proto) -> Option<Listener> {
    cx.converts::<Proto>();
    cx.partly::<Proto>("filter_chains", "one, or none with default_filter_chain");
    cx.partly::<Proto>("default_filter_chain", "without filter_chains");
    #[expect(deprecated, reason = "named to be refused")]
    let Proto {
        name,
        address,
        additional_addresses,
        stat_prefix,
        stats_matcher,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        metadata,
        deprecated_v1,
        drain_type,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction,
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        access_log,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event,
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive,
        listener_specifier,
    } = listener;
    // `false` is what we do anyway.
    let use_original_dst = use_original_dst.filter(|BoolValue { value }| *value);
    let transparent = transparent.filter(|BoolValue { value }| *value);
    let bind_to_port = bind_to_port.filter(|BoolValue { value }| !*value);
    unsupported!(
        cx,
        Proto,
        [
            stats_matcher,
            fcds_config,
            filter_chain_matcher,
            use_original_dst,
            per_connection_buffer_high_watermark_timeout,
            deprecated_v1,
            listener_filters,
            transparent,
            socket_options,
            tcp_fast_open_queue_length,
            udp_listener_config,
            api_listener,
            connection_balance_config,
            reuse_port,
            bind_to_port,
            enable_mptcp,
            listener_specifier
        ]
    );
    no_effect!(
        cx,
        Proto,
        "there are no listener filters yet, which are refused",
        [
            listener_filters_timeout,
            continue_on_listener_filters_timeout
        ]
    );
    no_effect!(cx, Proto, "nothing reads listener metadata yet", [metadata]);
    no_effect!(
        cx,
        Proto,
        "there is no global connection limit or overload manager, which are refused",
        [ignore_global_conn_limit, bypass_overload_manager]
    );
    no_effect!(
        cx,
        Proto,
        "accepting yields to other work by itself",
        [max_connections_to_accept_per_socket_event]
    );
    let mut addresses = Vec::new();
    if let Some(address) = cx.required("address", address) {
        addresses.extend(cx.field("address").numeric_address(address));
    }
    let additional_cx = cx.field("additional_addresses");
    for (index, additional) in additional_addresses.into_iter().enumerate() {
        let cx = additional_cx.index(index);
        cx.converts::<AdditionalAddress>();
        let AdditionalAddress {
            address,
            socket_options,
            tcp_keepalive,
        } = additional;
        unsupported!(cx, AdditionalAddress, [socket_options, tcp_keepalive]);
        if let Some(address) = cx.required("address", address) {
            addresses.extend(cx.field("address").numeric_address(address));
        }
    }
    let chains = filter_chains_of(cx, filter_chains, default_filter_chain);
    let logs = access_log::access_logs(&cx.field("access_log"), access_log);
    let first = *addresses.first()?;
    Some(Listener {
        name: if name.is_empty() {
            Arc::from(first.to_string())
        } else {
            Arc::from(name)
        },
        addresses,
        stat_prefix: (!stat_prefix.is_empty()).then(|| Arc::from(stat_prefix)),
        filter_chains: chains,
        per_connection_buffer_limit_bytes: u32_or(per_connection_buffer_limit_bytes, BUFFER_LIMIT),
        direction: match cx.enumeration("traffic_direction", traffic_direction)? {
            DirectionProto::Unspecified => TrafficDirection::Unspecified,
            DirectionProto::Inbound => TrafficDirection::Inbound,
            DirectionProto::Outbound => TrafficDirection::Outbound,
        },
        drain_type: match cx.enumeration("drain_type", drain_type)? {
            listener::DrainType::Default => DrainType::Default,
            listener::DrainType::ModifyOnly => DrainType::ModifyOnly,
        },
        tcp_backlog_size: tcp_backlog_size.map(|wrapper| wrapper.value),
        reuse_port: bool_or(enable_reuse_port, true),
        tcp_keepalive: tcp_keepalive
            .map(|proto| cluster::keepalive(&cx.field("tcp_keepalive"), proto)),
        freebind: bool_or(freebind, false),
        access_log: logs,
    })
}

/// The one chain: a chain without match takes every connection, and so does the default chain where
/// there is no other.
fn filter_chains_of(
    cx: &Cx<'_>,
    chains: Vec<ChainProto>,
    default: Option<ChainProto>,
) -> Vec<Arc<FilterChain>> {
    let default = default
        .and_then(|chain| filter_chain(&cx.field("default_filter_chain"), chain).map(Arc::new));
    let is_alone = chains.is_empty();
    let cx = cx.field("filter_chains");
    if is_alone && default.is_none() {
        cx.error("no filter chains specified");
    }
    if is_alone {
        return default.into_iter().collect();
    }
    if chains.len() > 1 {
        cx.index(1)
            .error("not supported: more than one filter chain needs filter_chain_match");
    }
    chains
        .into_iter()
        .enumerate()
        .filter_map(|(index, chain)| filter_chain(&cx.index(index), chain))
        .map(Arc::new)
        .collect()
}

fn filter_chain(cx: &Cx<'_>, chain: ChainProto) -> Option<FilterChain> {
    cx.converts::<ChainProto>();
    cx.partly::<ChainProto>("filters", "exactly one");
    #[expect(deprecated, reason = "named to be refused")]
    let ChainProto {
        filter_chain_match,
        filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = chain;
    // An empty match matches everything.
    let filter_chain_match =
        filter_chain_match.filter(|matches| *matches != FilterChainMatch::default());
    unsupported!(cx, ChainProto, [filter_chain_match, use_proxy_proto]);
    cluster::plain_socket(&cx.field("transport_socket"), transport_socket);
    no_effect!(
        cx,
        ChainProto,
        "a connection without transport socket has nothing to negotiate",
        [transport_socket_connect_timeout]
    );
    no_effect!(
        cx,
        ChainProto,
        "nothing reads filter chain metadata yet",
        [metadata]
    );
    let timeout = cx.optional_duration(
        "transport_socket_connect_timeout",
        transport_socket_connect_timeout,
    );
    let filters_cx = cx.field("filters");
    if filters.is_empty() {
        filters_cx.error("a filter chain needs at least one network filter");
    }
    if filters.len() > 1 {
        filters_cx
            .index(1)
            .error("not supported: the HTTP connection manager must be the only network filter");
    }
    let filter = filters
        .into_iter()
        .enumerate()
        .filter_map(|(index, filter)| network_filter(&filters_cx.index(index), filter))
        .next();
    Some(FilterChain {
        name: Arc::from(name),
        filter: filter?,
        transport_socket_connect_timeout: timeout,
    })
}

fn network_filter(cx: &Cx<'_>, filter: Filter) -> Option<NetworkFilter> {
    cx.converts::<Filter>();
    cx.refuses::<Filter>(&["config_discovery"]);
    cx.partly::<Filter>("typed_config", "HttpConnectionManager");
    let Filter { name, config_type } = filter;
    if name.is_empty() {
        cx.field("name")
            .error("value length must be at least 1 characters");
    }
    match config_type {
        Some(filter::ConfigType::TypedConfig(any)) => {
            let at = cx.field("typed_config");
            if any.type_url != HcmProto::type_url() {
                at.error(format!(
                    "`{}` is not a supported network filter",
                    any.type_url
                ));
                return None;
            }
            let hcm = at.any::<HcmProto>(&any)?;
            http_connection_manager::http_connection_manager(&at, hcm)
                .map(|hcm| NetworkFilter::HttpConnectionManager(Arc::new(hcm)))
        }
        Some(filter::ConfigType::ConfigDiscovery(_)) => {
            cx.field("config_discovery").error("not supported");
            None
        }
        None => {
            cx.field("typed_config").error("value is required");
            None
        }
    }
}
