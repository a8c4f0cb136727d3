//! `FilterChain`, `FilterChainMatch` and network filters.

use std::sync::Arc;

use outrigger_proto::envoy::{
    config::listener::v3::{
        Filter, FilterChain as ChainProto, FilterChainMatch as MatchProto, filter,
        filter_chain_match::ConnectionSourceType,
    },
    extensions::filters::network::{
        http_connection_manager::v3::HttpConnectionManager as HcmProto,
        tcp_proxy::v3::TcpProxy as TcpProxyProto,
    },
};
use prost::Name;

use super::{cluster, http_connection_manager, tcp_proxy};
use crate::{
    config::{
        chain_match::{ChainMatch, ChainMatcher, SourceType},
        listener::{FilterChain, NetworkFilter},
    },
    convert::Cx,
    no_effect, unsupported,
};

/// The chains of a listener, the default one last, and the lookup.
pub(super) fn filter_chains(
    cx: &Cx<'_>,
    chains: Vec<ChainProto>,
    default: Option<ChainProto>,
) -> (Vec<Arc<FilterChain>>, ChainMatcher) {
    let list = cx.field("filter_chains");
    if chains.is_empty() && default.is_none() {
        list.error("no filter chains specified");
    }
    let mut converted = Vec::with_capacity(chains.len() + 1);
    let mut matcher = ChainMatcher::default();
    let mut seen: Vec<(usize, ChainMatch)> = Vec::new();
    for (index, mut proto) in chains.into_iter().enumerate() {
        let cx = list.index(index);
        let matches = proto.filter_chain_match.take().unwrap_or_default();
        let before = cx.error_count();
        let matches = chain_match(&cx.field("filter_chain_match"), matches);
        let is_fine = cx.error_count() == before;
        let Some(chain) = filter_chain(&cx, proto) else {
            continue;
        };
        let place = converted.len();
        if is_fine {
            let same = seen.iter().find(|(_, other)| *other == matches);
            if let Some((other, _)) = same {
                let other: &Arc<FilterChain> = &converted[*other];
                cx.field("filter_chain_match").error(format!(
                    "filter chain '{}' has the same matching rules defined as '{}'",
                    chain.name, other.name
                ));
            } else if matcher.add(place, &matches).is_err() {
                cx.field("filter_chain_match")
                    .error("multiple filter chains with overlapping matching rules are defined");
            }
            seen.push((place, matches));
        }
        converted.push(Arc::new(chain));
    }
    if let Some(mut proto) = default {
        let cx = cx.field("default_filter_chain");
        let matches = proto.filter_chain_match.take().unwrap_or_default();
        // Envoy leaves it aside: the default takes what no other chain takes.
        if matches != MatchProto::default() {
            cx.field("filter_chain_match")
                .error("must not be set: the default chain takes what no other does");
        }
        if let Some(chain) = filter_chain(&cx, proto) {
            matcher.default = Some(converted.len());
            converted.push(Arc::new(chain));
        }
    }
    (converted, matcher)
}

fn chain_match(cx: &Cx<'_>, matches: MatchProto) -> ChainMatch {
    cx.converts::<MatchProto>();
    let MatchProto {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = matches;
    // Envoy has them in its API and refuses them too.
    unsupported!(cx, MatchProto, [address_suffix, suffix_len]);
    let port = |cx: &Cx<'_>, port: u32| match u16::try_from(port) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            cx.error("value must be inside range [1, 65535]");
            None
        }
    };
    let networks = |field: &str, ranges: Vec<_>| {
        let list = cx.field(field);
        let ranges = ranges.into_iter().enumerate();
        ranges
            .filter_map(|(index, range)| list.index(index).cidr(range))
            .collect()
    };
    let names = cx.field("server_names");
    let server_name = |(index, name): (usize, String)| {
        let suffix = name.strip_prefix('*').filter(|rest| rest.starts_with('.'));
        let exact = suffix.unwrap_or(&name);
        if exact.contains('*') {
            names
                .index(index)
                .error("partial wildcards are not supported in \"server_names\"");
        }
        if name.is_empty() {
            names
                .index(index)
                .error("value length must be at least 1 characters");
        }
        Box::from(exact)
    };
    let ports = cx.field("source_ports");
    ChainMatch {
        destination_port: destination_port
            .and_then(|wrapper| port(&cx.field("destination_port"), wrapper.value)),
        destinations: networks("prefix_ranges", prefix_ranges),
        server_names: server_names
            .into_iter()
            .enumerate()
            .map(server_name)
            .collect(),
        transport_protocol: transport_protocol.into(),
        application_protocols: application_protocols.into_iter().map(Box::from).collect(),
        direct_sources: networks("direct_source_prefix_ranges", direct_source_prefix_ranges),
        source_type: match cx.enumeration("source_type", source_type) {
            Some(ConnectionSourceType::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
            Some(ConnectionSourceType::External) => SourceType::External,
            Some(ConnectionSourceType::Any) | None => SourceType::Any,
        },
        sources: networks("source_prefix_ranges", source_prefix_ranges),
        source_ports: source_ports
            .into_iter()
            .enumerate()
            .filter_map(|(index, number)| port(&ports.index(index), number))
            .collect(),
    }
}

fn filter_chain(cx: &Cx<'_>, chain: ChainProto) -> Option<FilterChain> {
    cx.converts::<ChainProto>();
    cx.partly::<ChainProto>("filters", "exactly one");
    #[expect(deprecated, reason = "named to be refused")]
    let ChainProto {
        filter_chain_match: _,
        filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = chain;
    unsupported!(cx, ChainProto, [use_proxy_proto]);
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
            .error("not supported: a filter chain has exactly one network filter");
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
    cx.partly::<Filter>("typed_config", "HttpConnectionManager, TcpProxy");
    let Filter { name, config_type } = filter;
    if name.is_empty() {
        cx.field("name")
            .error("value length must be at least 1 characters");
    }
    match config_type {
        Some(filter::ConfigType::TypedConfig(any)) => {
            let at = cx.field("typed_config");
            if any.type_url == HcmProto::type_url() {
                let hcm = at.any::<HcmProto>(&any)?;
                http_connection_manager::http_connection_manager(&at, hcm)
                    .map(|hcm| NetworkFilter::HttpConnectionManager(Arc::new(hcm)))
            } else if any.type_url == TcpProxyProto::type_url() {
                let proxy = at.any::<TcpProxyProto>(&any)?;
                tcp_proxy::tcp_proxy(&at, proxy)
                    .map(|proxy| NetworkFilter::TcpProxy(Arc::new(proxy)))
            } else {
                at.error(format!(
                    "`{}` is not a supported network filter",
                    any.type_url
                ));
                None
            }
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
