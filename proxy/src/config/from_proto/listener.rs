//! `Listener`.

use std::{sync::Arc, time::Duration};

use outrigger_proto::envoy::config::{
    core::v3::TrafficDirection as DirectionProto,
    listener::v3::{AdditionalAddress, Listener as Proto, listener},
};

use super::{access_log, cluster, filter_chain, listener_filter, protocol_choice};
use crate::{
    config::listener::{DrainType, Listener, ListenerFilter, TrafficDirection},
    convert::{Cx, bool_or, u32_or},
    no_effect, unsupported,
};

/// Envoy's default of `per_connection_buffer_limit_bytes`.
const BUFFER_LIMIT: u32 = 1024 * 1024;
/// Envoy's default of `listener_filters_timeout`.
const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

/// A whole listener.
#[expect(
    clippy::too_many_lines,
    reason = "one message taken apart: its fields are the length"
)]
pub fn listener(cx: &Cx<'_>, listener: Proto) -> Option<Listener> {
    cx.converts::<Proto>();
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
    unsupported!(
        cx,
        Proto,
        [
            stats_matcher,
            fcds_config,
            filter_chain_matcher,
            per_connection_buffer_high_watermark_timeout,
            deprecated_v1,
            socket_options,
            tcp_fast_open_queue_length,
            udp_listener_config,
            api_listener,
            connection_balance_config,
            reuse_port,
            enable_mptcp,
            listener_specifier
        ]
    );
    cx.partly::<Proto>(
        "metadata",
        "outrigger.protocol_choice {connect_after, learn_for}: nothing reads any other",
    );
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
    let mut listens = Vec::new();
    if let Some(address) = cx.required("address", address) {
        listens.extend(cx.field("address").listen_address(address));
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
            listens.extend(cx.field("address").listen_address(address));
        }
    }
    let both = listens.iter().filter(|(_, takes_ipv4)| *takes_ipv4);
    let dual_stack = both.map(|(address, _)| *address).collect();
    let addresses: Vec<_> = listens.into_iter().map(|(address, _)| address).collect();
    let (chains, matcher) = filter_chain::filter_chains(cx, filter_chains, default_filter_chain);
    let use_original_dst = bool_or(use_original_dst, false);
    let mut filters =
        listener_filter::listener_filters(&cx.field("listener_filters"), listener_filters);
    // Who hands connections over must know where they were going to, as in Envoy.
    if use_original_dst && !filters.contains(&ListenerFilter::OriginalDst) {
        filters.push(ListenerFilter::OriginalDst);
    }
    let filters_timeout = cx.duration_or(
        "listener_filters_timeout",
        listener_filters_timeout,
        FILTERS_TIMEOUT,
    );
    let protocol_choice = protocol_choice::protocol_choice(
        cx,
        metadata,
        &filters,
        filters_timeout,
        chains.iter().map(|chain| &**chain),
    );
    let logs = access_log::access_logs(&cx.field("access_log"), access_log);
    let first = *addresses.first()?;
    Some(Listener {
        name: if name.is_empty() {
            Arc::from(first.to_string())
        } else {
            Arc::from(name)
        },
        addresses,
        dual_stack,
        stat_prefix: (!stat_prefix.is_empty()).then(|| Arc::from(stat_prefix)),
        filter_chains: chains,
        matcher,
        listener_filters: filters,
        listener_filters_timeout: (!filters_timeout.is_zero()).then_some(filters_timeout),
        continue_on_listener_filters_timeout,
        protocol_choice,
        use_original_dst,
        bind_to_port: bool_or(bind_to_port, true),
        transparent: bool_or(transparent, false),
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
