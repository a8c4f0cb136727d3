//! Resources of a sidecar whose connections the kernel hands to it: virtual listeners by the address that
//! was called.
//!
//! Two listeners have sockets: [`VIRTUAL_OUTBOUND`] for what the workload calls and [`VIRTUAL_INBOUND`] for
//! what arrives. Both find out where a connection was going to and give it to the listener of that address,
//! which has no socket: one for each address of each service, and one for each port that the workload
//! serves. So the address tells the service, for any protocol, and what has no such listener is not of the
//! mesh. Whatever one service does, listeners of others do not change.

mod workloads;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use outrigger_proto::envoy::{
    config::{
        cluster::v3 as cluster_api,
        core::v3::{self as core, TrafficDirection},
        listener::v3 as api,
        route::v3 as route_api,
    },
    extensions::filters::{
        listener::{
            http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
            original_src::v3::OriginalSrc,
        },
        network::tcp_proxy::v3::{TcpProxy, tcp_proxy},
    },
};

use super::{
    cluster, inbound,
    manager::{Profile, access_log, http_chain, rds},
    route, wire,
};
use crate::{
    model::{AppProtocol, Model, PortEntry, Service},
    resolve::ServiceAddress,
    scope::{Interception, MARK, Mode, Node, OutboundPolicy, TO_WORKLOAD},
};

pub use workloads::Served;
pub(super) use workloads::Workloads;

/// The listener that the rules send the workload's calls to.
pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The listener that they send connections from elsewhere to.
pub const VIRTUAL_INBOUND: &str = "virtualInbound";
/// Where calls to addresses outside of the mesh go: there.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Where connections go that may go nowhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Where connections to ports of the workload go that no service names.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";
const ORIGINAL_SRC: &str = "envoy.filters.listener.original_src";
const HTTP_INSPECTOR: &str = "envoy.filters.listener.http_inspector";

/// Has our proxy connect while it waits for a silent client, so that servers that speak first need not.
const PROTOCOL_CHOICE: &str = "outrigger.protocol_choice";

/// How long a silent client may have its protocol guessed.
const SNIFFING: Duration = Duration::from_millis(100);
/// How many hosts of a service are tried for one connection.
const CONNECT_ATTEMPTS: u32 = 3;

/// How the clients of a service's port reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frontend {
    protocol: AppProtocol,
    /// What they call: addresses of the service, or of its endpoints if it has none of its own.
    addresses: Vec<SocketAddr>,
    /// Whether these are its endpoints'.
    pub(super) by_endpoint: bool,
}

impl Frontend {
    pub(super) fn of(service: &Service, slot: &PortEntry) -> Self {
        let by_endpoint = service.cluster_ips.is_empty();
        Self {
            protocol: slot.port.protocol.clone(),
            addresses: if by_endpoint {
                slot.endpoints.clone()
            } else {
                let port = slot.port.number;
                let addresses = service.cluster_ips.iter();
                addresses.map(|ip| SocketAddr::new(*ip, port)).collect()
            },
            by_endpoint,
        }
    }

    /// The names of its listeners.
    pub(super) fn listener_names(&self) -> impl Iterator<Item = String> {
        self.addresses.iter().copied().map(name)
    }

    /// Its listeners.
    pub(super) fn listeners(
        &self,
        profile: &Profile,
        port: &ServiceAddress,
    ) -> impl Iterator<Item = api::Listener> {
        let cluster = cluster::outbound_name(port);
        let http = || {
            let routes = rds(&route::table_name(&port.service, port.port));
            http_chain(profile, "outbound", TrafficDirection::Outbound, routes)
        };
        let serves = match &self.protocol {
            AppProtocol::Http1 | AppProtocol::Http2 => Serves::Http(http()),
            AppProtocol::Other(_) => {
                let attempts = if self.by_endpoint {
                    1
                } else {
                    CONNECT_ATTEMPTS
                };
                Serves::Tcp(tcp_chain(profile, &cluster, &cluster, attempts))
            }
            // Requests are balanced; a connection of another kind goes to the endpoint that was called.
            AppProtocol::Auto if self.by_endpoint => {
                Serves::either(http(), tcp_chain(profile, &cluster, PASSTHROUGH, 1))
            }
            AppProtocol::Auto => Serves::either(
                http(),
                tcp_chain(profile, &cluster, &cluster, CONNECT_ATTEMPTS),
            ),
        };
        self.addresses
            .iter()
            .map(move |address| serves.at(*address, TrafficDirection::Outbound))
    }
}

/// The listeners of one workload alone.
pub(super) fn own_listeners(
    node: &Node,
    interception: &Interception,
    served: &BTreeMap<u16, Served>,
) -> Vec<api::Listener> {
    let profile = Profile::of(node);
    let mut listeners = Vec::new();
    for wildcard in interception.wildcards() {
        listeners.push(virtual_outbound(&profile, interception, wildcard));
        listeners.push(virtual_inbound(&profile, interception, wildcard));
    }
    for (port, served) in served {
        let cluster = cluster::inbound_name(*port);
        let tcp = || tcp_chain(&profile, &cluster, &cluster, 1);
        let http = || {
            let prefix = format!("inbound_{port}");
            let direction = TrafficDirection::Inbound;
            http_chain(&profile, &prefix, direction, rds(&inbound_table(*port)))
        };
        let serves = match served.protocol {
            AppProtocol::Http1 | AppProtocol::Http2 => Serves::Http(http()),
            AppProtocol::Auto => Serves::either(http(), tcp()),
            AppProtocol::Other(_) => Serves::Tcp(tcp()),
        };
        for address in &served.addresses {
            let address = SocketAddr::new(*address, *port);
            let mut listener = serves.at(address, TrafficDirection::Inbound);
            listener.listener_filters.extend(keeps_source(interception));
            listeners.push(listener);
        }
    }
    listeners
}

/// The routes of one workload's ports.
pub(super) fn own_routes(
    model: &Model,
    node: &Node,
    served: &BTreeMap<u16, Served>,
) -> Vec<route_api::RouteConfiguration> {
    let profile = Profile::of(node);
    served
        .iter()
        .filter(|(_, served)| served.protocol.is_http())
        .map(|(port, served)| {
            let cluster = cluster::inbound_name(*port);
            let name = inbound_table(*port);
            inbound::routes(model, &profile, &name, (&cluster, *port), &served.services)
        })
        .collect()
}

/// The clusters that lead to the workload, and those out of the mesh.
pub(super) fn own_clusters(
    mode: Mode,
    ports: impl IntoIterator<Item = u16>,
) -> Vec<cluster_api::Cluster> {
    let to_workload = |name: &str| {
        let mut cluster = cluster::original_destination(name);
        if mode == Mode::Redirect {
            cluster.upstream_bind_config = Some(from_sidecar());
        }
        cluster
    };
    let mut clusters = vec![
        cluster::original_destination(PASSTHROUGH),
        cluster::black_hole(BLACK_HOLE),
        to_workload(INBOUND_PASSTHROUGH),
    ];
    let ports = ports.into_iter().map(cluster::inbound_name);
    clusters.extend(ports.map(|name| to_workload(&name)));
    clusters
}

/// Also what `inbound|9080||` is called elsewhere: listeners and routes of a dialled sidecar have such names too.
fn inbound_table(port: u16) -> String {
    format!("{}|{port}", inbound::INBOUND_LISTENER)
}

fn from_sidecar() -> core::BindConfig {
    let source = |address: IpAddr| core::SocketAddress {
        address: address.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
        ..Default::default()
    };
    let (v4, v6) = TO_WORKLOAD;
    core::BindConfig {
        source_address: Some(source(v4.into())),
        extra_source_addresses: vec![core::ExtraSourceAddress {
            address: Some(source(v6.into())),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn virtual_outbound(
    profile: &Profile,
    interception: &Interception,
    wildcard: IpAddr,
) -> api::Listener {
    let cluster = match interception.outbound_policy {
        OutboundPolicy::AllowAny => PASSTHROUGH,
        OutboundPolicy::RegistryOnly => BLACK_HOLE,
    };
    entrance(
        VIRTUAL_OUTBOUND,
        SocketAddr::new(wildcard, interception.outbound),
        TrafficDirection::Outbound,
        profile,
        cluster,
    )
}

fn virtual_inbound(
    profile: &Profile,
    interception: &Interception,
    wildcard: IpAddr,
) -> api::Listener {
    let mut listener = entrance(
        VIRTUAL_INBOUND,
        SocketAddr::new(wildcard, interception.inbound),
        TrafficDirection::Inbound,
        profile,
        INBOUND_PASSTHROUGH,
    );
    if interception.mode == Mode::Tproxy {
        listener.transparent = Some(wire::boolean(true));
    }
    listener.listener_filters.extend(keeps_source(interception));
    listener
}

/// Where the rules keep both addresses of a connection, the sidecar's connection to the workload has the client's.
fn keeps_source(interception: &Interception) -> Option<api::ListenerFilter> {
    let config = OriginalSrc {
        mark: MARK,
        ..Default::default()
    };
    (interception.mode == Mode::Tproxy).then(|| listener_filter(ORIGINAL_SRC, wire::any(&config)))
}

/// A listener that finds out where connections were going to, and has those that are for nobody else go to
/// `cluster`. Its own port is nobody's destination: whoever calls it directly gets nowhere.
fn entrance(
    name: &str,
    address: SocketAddr,
    direction: TrafficDirection,
    profile: &Profile,
    cluster: &str,
) -> api::Listener {
    let family = if address.is_ipv6() { "6" } else { "" };
    let itself = api::FilterChain {
        name: format!("{name}-blackhole"),
        filter_chain_match: Some(api::FilterChainMatch {
            destination_port: Some(wire::number(address.port().into())),
            ..Default::default()
        }),
        ..tcp_chain(profile, BLACK_HOLE, BLACK_HOLE, 1)
    };
    api::Listener {
        name: format!("{name}{family}"),
        address: Some(wire::address(address)),
        filter_chains: vec![itself],
        default_filter_chain: Some(tcp_chain(profile, cluster, cluster, 1)),
        use_original_dst: Some(wire::boolean(true)),
        listener_filters: vec![listener_filter(ORIGINAL_DST, wire::any(&OriginalDst {}))],
        traffic_direction: direction.into(),
        ..Default::default()
    }
}

/// The chains of a port whose protocol is not declared.
struct Either {
    http: api::FilterChain,
    tcp: api::FilterChain,
}

/// What a virtual listener does with connections.
enum Serves {
    Http(api::FilterChain),
    Tcp(api::FilterChain),
    /// What the client says first tells.
    Either(Box<Either>),
}

impl Serves {
    fn either(http: api::FilterChain, tcp: api::FilterChain) -> Self {
        Self::Either(Box::new(Either { http, tcp }))
    }

    fn at(&self, address: SocketAddr, direction: TrafficDirection) -> api::Listener {
        let listener = api::Listener {
            name: name(address),
            address: Some(wire::address(address)),
            bind_to_port: Some(wire::boolean(false)),
            traffic_direction: direction.into(),
            ..Default::default()
        };
        match self {
            Self::Http(chain) | Self::Tcp(chain) => api::Listener {
                filter_chains: vec![chain.clone()],
                ..listener
            },
            Self::Either(either) => {
                let Either { http, tcp } = &**either;
                let http = api::FilterChain {
                    filter_chain_match: Some(api::FilterChainMatch {
                        application_protocols: ["http/1.0", "http/1.1", "h2c"]
                            .map(str::to_owned)
                            .to_vec(),
                        ..Default::default()
                    }),
                    ..http.clone()
                };
                api::Listener {
                    filter_chains: vec![http],
                    default_filter_chain: Some(tcp.clone()),
                    listener_filters: vec![listener_filter(
                        HTTP_INSPECTOR,
                        wire::any(&HttpInspector {}),
                    )],
                    listener_filters_timeout: Some(wire::duration(SNIFFING)),
                    continue_on_listener_filters_timeout: true,
                    metadata: Some(wire::empty_metadata(PROTOCOL_CHOICE)),
                    ..listener
                }
            }
        }
    }
}

/// `10.96.0.12_9080`.
fn name(address: SocketAddr) -> String {
    format!("{}_{}", address.ip(), address.port())
}

fn listener_filter(
    name: &str,
    config: outrigger_proto::google::protobuf::Any,
) -> api::ListenerFilter {
    api::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(api::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn tcp_chain(
    profile: &Profile,
    stat_prefix: &str,
    cluster: &str,
    attempts: u32,
) -> api::FilterChain {
    let proxy = TcpProxy {
        stat_prefix: stat_prefix.replace('|', "_"),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        // Databases are silent for hours; without a sidecar nobody would mind.
        idle_timeout: Some(wire::duration(Duration::ZERO)),
        max_connect_attempts: (attempts > 1).then(|| wire::number(attempts)),
        access_log: access_log(profile).into_iter().collect(),
        ..Default::default()
    };
    let filter = api::Filter {
        name: TCP_PROXY.to_owned(),
        config_type: Some(api::filter::ConfigType::TypedConfig(wire::any(&proxy))),
    };
    api::FilterChain {
        filters: vec![filter],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
