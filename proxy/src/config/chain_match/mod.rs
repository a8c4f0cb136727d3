//! Which filter chain takes a connection: the matches of a listener's chains as one lookup.
//!
//! Envoy narrows the chains down criterion by criterion, in a fixed order, and at each takes the most specific
//! one that has the connection's value; what a later criterion refuses is not looked for under a less specific
//! value of an earlier one. So the lookup is a tree with a level for each criterion.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// `envoy.config.listener.v3.FilterChainMatch`; what is empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// `destination_port`
    pub destination_port: Option<u16>,
    /// `prefix_ranges`
    pub destinations: Vec<Cidr>,
    /// `server_names`, with `.example.com` for `*.example.com`.
    pub server_names: Vec<Box<str>>,
    /// `transport_protocol`
    pub transport_protocol: Box<str>,
    /// `application_protocols`
    pub application_protocols: Vec<Box<str>>,
    /// `direct_source_prefix_ranges`
    pub direct_sources: Vec<Cidr>,
    /// `source_type`
    pub source_type: SourceType,
    /// `source_prefix_ranges`
    pub sources: Vec<Cidr>,
    /// `source_ports`
    pub source_ports: Vec<u16>,
}

/// A network: an address and how many of its bits count.
pub type Cidr = (IpAddr, u8);

/// `FilterChainMatch.ConnectionSourceType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// From anywhere.
    #[default]
    Any,
    /// From this machine.
    SameIpOrLoopback,
    /// From elsewhere.
    External,
}

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where it was going to.
    pub destination: SocketAddr,
    /// The name that it asked for; empty if none.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: &'a str,
    /// What it offered, or was found to speak.
    pub application_protocols: &'a [Box<str>],
    /// The socket's peer.
    pub direct_source: SocketAddr,
    /// Whose connection it is.
    pub source: SocketAddr,
}

/// Two matches that some connection would meet alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap;

/// The lookup.
#[derive(Clone, Debug, Default)]
pub struct ChainMatcher {
    ports: HashMap<Option<u16>, ByDestination>,
    /// Takes what no match takes.
    pub default: Option<usize>,
}

type ByDestination = Networks<ByServerName>;
type ByServerName = HashMap<Box<str>, ByTransport>;
type ByTransport = HashMap<Box<str>, ByApplication>;
type ByApplication = HashMap<Box<str>, ByDirectSource>;
type ByDirectSource = Networks<BySourceType>;
type BySourceType = HashMap<SourceType, BySource>;
type BySource = Networks<BySourcePort>;
type BySourcePort = HashMap<Option<u16>, usize>;

impl ChainMatcher {
    /// A lookup that has only a default.
    #[must_use]
    pub fn default_only(default: usize) -> Self {
        Self {
            ports: HashMap::new(),
            default: Some(default),
        }
    }

    /// Adds a chain by its place.
    ///
    /// # Errors
    /// Some connection would meet two matches alike.
    pub fn add(&mut self, chain: usize, matches: &ChainMatch) -> Result<(), Overlap> {
        let by_destination = self.ports.entry(matches.destination_port).or_default();
        for destination in networks(&matches.destinations) {
            let by_name = by_destination.entry(destination);
            for name in texts(&matches.server_names) {
                let by_transport = by_name.entry(name.clone()).or_default();
                let by_application = by_transport
                    .entry(matches.transport_protocol.clone())
                    .or_default();
                for protocol in texts(&matches.application_protocols) {
                    let by_direct = by_application.entry(protocol.clone()).or_default();
                    for direct in networks(&matches.direct_sources) {
                        let by_type = by_direct.entry(direct);
                        let by_source = by_type.entry(matches.source_type).or_default();
                        add_sources(by_source, chain, matches)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The place of the chain that takes a connection.
    #[must_use]
    pub fn find(&self, facts: &Facts<'_>) -> Option<usize> {
        let port = Some(facts.destination.port());
        let by_destination = self.ports.get(&port).or_else(|| self.ports.get(&None));
        by_destination
            .and_then(|by_destination| find_chain(by_destination, facts))
            .or(self.default)
    }
}

fn add_sources(
    by_source: &mut BySource,
    chain: usize,
    matches: &ChainMatch,
) -> Result<(), Overlap> {
    for source in networks(&matches.sources) {
        let by_port = by_source.entry(source);
        let any = [None];
        let some: Vec<_> = matches
            .source_ports
            .iter()
            .map(|port| Some(*port))
            .collect();
        for port in if some.is_empty() { &any[..] } else { &some } {
            if by_port.insert(*port, chain).is_some() {
                return Err(Overlap);
            }
        }
    }
    Ok(())
}

fn find_chain(by_destination: &ByDestination, facts: &Facts<'_>) -> Option<usize> {
    let by_name = by_destination.find(facts.destination.ip())?;
    let by_transport = find_name(by_name, facts.server_name)?;
    let by_application = find_or_any(by_transport, [facts.transport_protocol])?;
    let protocols = facts.application_protocols.iter().map(|name| &**name);
    let by_direct = find_or_any(by_application, protocols)?;
    let by_type = by_direct.find(facts.direct_source.ip())?;
    let own = if is_own(facts) {
        SourceType::SameIpOrLoopback
    } else {
        SourceType::External
    };
    let by_source = by_type
        .get(&own)
        .or_else(|| by_type.get(&SourceType::Any))?;
    let by_port = by_source.find(facts.source.ip())?;
    by_port
        .get(&Some(facts.source.port()))
        .or_else(|| by_port.get(&None))
        .copied()
}

/// Whether a connection comes from this machine.
fn is_own(facts: &Facts<'_>) -> bool {
    let source = facts.source.ip();
    // Of the whole loopback network Envoy takes only its one usual address for the loopback.
    source == IpAddr::V4(Ipv4Addr::LOCALHOST)
        || source == IpAddr::V6(Ipv6Addr::LOCALHOST)
        || source == facts.destination.ip()
}

/// The exact name, or the longest suffix that a wildcard has, or what asks for no name.
fn find_name<'a>(by_name: &'a ByServerName, name: &str) -> Option<&'a ByTransport> {
    let exact = by_name.get(name);
    let suffixes = || {
        let dots = name.bytes().enumerate().skip(1);
        dots.filter(|(at, byte)| *byte == b'.' && at + 1 < name.len())
            .find_map(|(at, _)| by_name.get(name.get(at..)?))
    };
    exact.or_else(suffixes).or_else(|| by_name.get(""))
}

fn find_or_any<'a, 'b, T>(
    by_text: &'a HashMap<Box<str>, T>,
    texts: impl IntoIterator<Item = &'b str>,
) -> Option<&'a T> {
    texts
        .into_iter()
        .find_map(|text| by_text.get(text))
        .or_else(|| by_text.get(""))
}

fn texts(texts: &[Box<str>]) -> Vec<Box<str>> {
    match texts {
        [] => vec!["".into()],
        some => some.to_vec(),
    }
}

fn networks(networks: &[Cidr]) -> Vec<Option<Cidr>> {
    match networks {
        [] => vec![None],
        some => some.iter().copied().map(Some).collect(),
    }
}

/// A value for each network; the longest prefix wins.
#[derive(Clone, Debug)]
struct Networks<T> {
    /// By length of the prefix, the longest first; addresses with the other bits cleared.
    v4: Vec<(u8, HashMap<IpAddr, T>)>,
    v6: Vec<(u8, HashMap<IpAddr, T>)>,
    any: Option<T>,
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
            any: None,
        }
    }
}

impl<T: Default> Networks<T> {
    /// The value of a network. All addresses are, as in Envoy, the network of no bits.
    fn entry(&mut self, network: Option<Cidr>) -> &mut T {
        let Some((address, length)) = network else {
            return self.any.get_or_insert_default();
        };
        let list = match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        };
        let place = list.partition_point(|(other, _)| *other > length);
        if list.get(place).is_none_or(|(other, _)| *other != length) {
            list.insert(place, (length, HashMap::new()));
        }
        list[place].1.entry(masked(address, length)).or_default()
    }
}

impl<T> Networks<T> {
    fn find(&self, address: IpAddr) -> Option<&T> {
        let list = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        list.iter()
            .find_map(|(length, networks)| networks.get(&masked(address, *length)))
            .or(self.any.as_ref())
    }
}

/// The address with only its first bits.
#[must_use]
pub fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(length))
                .unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(length))
                .unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests;
