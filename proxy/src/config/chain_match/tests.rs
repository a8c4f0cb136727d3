//! The lookup against a naive model.

use proptest::prelude::*;

use super::*;

fn network(text: &str) -> Cidr {
    let (address, length) = text.split_once('/').unwrap();
    (address.parse().unwrap(), length.parse().unwrap())
}

fn matcher(chains: &[ChainMatch]) -> Result<ChainMatcher, Overlap> {
    let mut matcher = ChainMatcher::default();
    for (place, chain) in chains.iter().enumerate() {
        matcher.add(place, chain)?;
    }
    Ok(matcher)
}

const FACTS: Facts<'static> = Facts {
    destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), 80),
    server_name: "",
    transport_protocol: "raw_buffer",
    application_protocols: &[],
    direct_source: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)), 4000),
    source: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)), 4000),
};

#[test]
fn names_match_exactly_then_by_suffix() {
    let named = |name: &str| ChainMatch {
        server_names: vec![name.into()],
        ..ChainMatch::default()
    };
    let chains = [
        named("a.example.com"),
        named(".example.com"),
        named(".com"),
        ChainMatch::default(),
    ];
    let matcher = matcher(&chains).unwrap();
    for (name, expected) in [
        ("a.example.com", 0),
        ("b.example.com", 1),
        ("x.a.example.com", 1),
        ("example.com", 2),
        ("com", 3),
        ("a.org", 3),
        ("a.com.", 3),
        ("", 3),
    ] {
        let facts = Facts {
            server_name: name,
            ..FACTS
        };
        assert_eq!(matcher.find(&facts), Some(expected), "{name}");
    }
}

#[test]
fn what_a_later_criterion_refuses_is_not_looked_for_elsewhere() {
    let chains = [
        ChainMatch {
            destination_port: Some(80),
            transport_protocol: "tls".into(),
            ..ChainMatch::default()
        },
        ChainMatch::default(),
    ];
    let mut matcher = matcher(&chains).unwrap();
    assert_eq!(matcher.find(&FACTS), None);
    matcher.default = Some(7);
    assert_eq!(matcher.find(&FACTS), Some(7));
    let other = SocketAddr::new(FACTS.destination.ip(), 81);
    let facts = Facts {
        destination: other,
        ..FACTS
    };
    assert_eq!(matcher.find(&facts), Some(1));
}

#[test]
fn equal_matches_overlap() {
    let named = |names: &[&str]| ChainMatch {
        server_names: names.iter().map(|name| (*name).into()).collect(),
        ..ChainMatch::default()
    };
    assert!(matcher(&[named(&["a", "b"]), named(&["b"])]).is_err());
    assert!(matcher(&[named(&["a", "a"])]).is_err());
    assert!(matcher(&[named(&["a"]), named(&[])]).is_ok());
    let masked = ChainMatch {
        destinations: vec![network("10.0.0.0/8"), network("10.1.0.0/8")],
        ..ChainMatch::default()
    };
    assert!(matcher(&[masked]).is_err());
}

/// A score for each criterion in Envoy's order; none if the chain does not match. Chains that do not have the
/// best score of a criterion are out, whatever comes later, and so are, from the first criterion on, those
/// that lose by a value that fits although a later criterion refuses it: so each criterion is judged alone.
fn naive(chains: &[ChainMatch], facts: &Facts<'_>) -> Option<usize> {
    type Score = fn(&ChainMatch, &Facts<'_>) -> Vec<u32>;
    fn prefix(networks: &[Cidr], address: IpAddr) -> Vec<u32> {
        if networks.is_empty() {
            return vec![0];
        }
        let bits = |(network, length): &Cidr| {
            let same = network.is_ipv4() == address.is_ipv4();
            (same && masked(*network, *length) == masked(address, *length))
                .then(|| u32::from(*length) + 1)
        };
        networks.iter().filter_map(bits).collect()
    }
    let scores: [Score; 9] = [
        |chain, facts| match chain.destination_port {
            None => vec![0],
            Some(port) if port == facts.destination.port() => vec![1],
            Some(_) => vec![],
        },
        |chain, facts| prefix(&chain.destinations, facts.destination.ip()),
        |chain, facts| {
            let score = |name: &str| {
                let length = u32::try_from(name.len()).unwrap();
                if name == facts.server_name {
                    Some(1000)
                } else if name.starts_with('.')
                    && facts.server_name.ends_with(name)
                    && facts.server_name.len() > name.len()
                {
                    Some(length)
                } else {
                    None
                }
            };
            match chain.server_names.is_empty() {
                true => vec![if facts.server_name.is_empty() {
                    1000
                } else {
                    0
                }],
                false => chain
                    .server_names
                    .iter()
                    .map(|name| &**name)
                    .filter_map(score)
                    .collect(),
            }
        },
        |chain, facts| match &*chain.transport_protocol {
            "" => vec![0],
            name if name == facts.transport_protocol => vec![1],
            _ => vec![],
        },
        |chain, facts| {
            let place = |name: &str| {
                let mut offered = facts.application_protocols.iter();
                let place = offered.position(|offer| **offer == *name)?;
                Some(100 - u32::try_from(place).unwrap())
            };
            match chain.application_protocols.is_empty() {
                true => vec![0],
                false => chain
                    .application_protocols
                    .iter()
                    .map(|name| &**name)
                    .filter_map(place)
                    .collect(),
            }
        },
        |chain, facts| prefix(&chain.direct_sources, facts.direct_source.ip()),
        |chain, facts| match chain.source_type {
            SourceType::Any => vec![0],
            SourceType::SameIpOrLoopback if is_own(facts) => vec![1],
            SourceType::External if !is_own(facts) => vec![1],
            _ => vec![],
        },
        |chain, facts| prefix(&chain.sources, facts.source.ip()),
        |chain, facts| match chain.source_ports.is_empty() {
            true => vec![0],
            false if chain.source_ports.contains(&facts.source.port()) => vec![1],
            false => vec![],
        },
    ];
    let mut left: Vec<usize> = (0..chains.len()).collect();
    for score in scores {
        let best = |place: &usize| score(&chains[*place], facts).into_iter().max();
        let most = left.iter().filter_map(best).max()?;
        left.retain(|place| score(&chains[*place], facts).contains(&most));
    }
    left.first().copied()
}

fn networks() -> impl Strategy<Value = Vec<Cidr>> {
    let all = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3/32",
        "0.0.0.0/0",
        "::/0",
        "fd00::/8",
    ];
    prop::collection::vec(prop::sample::select(all.to_vec()).prop_map(network), 0..3)
}

fn words(all: &'static [&'static str]) -> impl Strategy<Value = Vec<Box<str>>> {
    prop::collection::vec(prop::sample::select(all).prop_map(Box::from), 0..3)
}

fn chain() -> impl Strategy<Value = ChainMatch> {
    let types = [
        SourceType::Any,
        SourceType::SameIpOrLoopback,
        SourceType::External,
    ];
    (
        prop::option::of(80_u16..82),
        networks(),
        words(&["a.b.c", ".b.c", ".c", "c"]),
        prop::sample::select(&["", "tls", "raw_buffer"][..]),
        words(&["h2", "http/1.1"]),
        networks(),
        prop::sample::select(types.to_vec()),
        networks(),
        prop::collection::vec(4000_u16..4002, 0..2),
    )
        .prop_map(
            |(port, to, names, transport, alpn, direct, kind, from, ports)| ChainMatch {
                destination_port: port,
                destinations: to,
                server_names: names,
                transport_protocol: transport.into(),
                application_protocols: alpn,
                direct_sources: direct,
                source_type: kind,
                sources: from,
                source_ports: ports,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn finds_what_the_model_finds(
        all in prop::collection::vec(chain(), 1..8),
        to in prop::sample::select(&["10.1.2.3:80", "10.1.0.1:81", "1.2.3.4:82", "[fd00::1]:80"][..]),
        from in prop::sample::select(&["10.1.2.3:4000", "10.9.0.1:4001", "127.0.0.1:4002", "[fd00::1]:1"][..]),
        name in prop::sample::select(&["", "a.b.c", "x.b.c", "b.c", "c", "x"][..]),
        transport in prop::sample::select(&["tls", "raw_buffer"][..]),
        offered in words(&["h2", "http/1.1", "x"]),
    ) {
        // Those that overlap with earlier ones are left out, as a configuration with them is refused.
        let mut matcher = ChainMatcher::default();
        let mut chains: Vec<ChainMatch> = Vec::new();
        for chain in all {
            let mut next = matcher.clone();
            if next.add(chains.len(), &chain).is_ok() {
                matcher = next;
                chains.push(chain);
            }
        }
        let facts = Facts {
            destination: to.parse().unwrap(),
            server_name: name,
            transport_protocol: transport,
            application_protocols: &offered,
            direct_source: from.parse().unwrap(),
            source: from.parse().unwrap(),
        };
        prop_assert_eq!(matcher.find(&facts), naive(&chains, &facts));
    }
}
