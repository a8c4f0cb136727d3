//! The rules, as data. The order of the rules of a chain is the meaning: what is left alone comes before what
//! is redirected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use outrigger_mesh::scope::TO_WORKLOAD;

use super::{Cidr, Cidrs, Config, Family, Groups, MARK, Mode, Ports, SELF_MARK};
use crate::spec::{METRICS_PORT, READY_PORT};

/// A kind of table in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Rewrites destinations.
    Nat,
    /// Marks packets.
    Mangle,
}

/// Where the kernel enters a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Packets that arrive.
    Prerouting,
    /// Packets of this network namespace's own processes.
    Output,
}

/// What must be true of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It arrives on this interface.
    In(String),
    /// It leaves by this interface.
    Out(String),
    /// It comes from this range.
    From(Cidr),
    /// It goes to this range.
    To(Cidr),
    /// It goes elsewhere than to this range.
    NotTo(Cidr),
    /// It goes to this TCP port.
    Port(u16),
    /// A process of this user sends it.
    User(u32),
    /// A process of this group sends it.
    Group(u32),
    /// No process of this group sends it.
    NotGroup(u32),
    /// It has this mark.
    Mark(u32),
    /// It has not this mark.
    NotMark(u32),
    /// Its connection has this mark.
    ConnectionMark(u32),
    /// It belongs to a known connection.
    Established,
}

/// What is done with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing more in this chain.
    Return,
    /// It is let through.
    Accept,
    /// Go on in this chain.
    Jump(&'static str),
    /// It goes to this port of this machine.
    Redirect(u16),
    /// It is given to the transparent socket at this port, with this mark.
    Tproxy(u16, u32),
    /// It is marked.
    Mark(u32),
    /// Its mark becomes its connection's.
    SaveMark,
    /// Its connection's mark becomes its own.
    RestoreMark,
}

/// One rule; all are of TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of these must hold.
    pub matches: Vec<Match>,
    /// Then this is done.
    pub verdict: Verdict,
}

impl Rule {
    fn new(matches: impl Into<Vec<Match>>, verdict: Verdict) -> Self {
        Self {
            matches: matches.into(),
            verdict,
        }
    }

    /// The family that it is of, if of one.
    pub fn family(&self) -> Option<Family> {
        self.matches.iter().find_map(|one| match one {
            Match::From(range) | Match::To(range) | Match::NotTo(range) => Some(range.family()),
            _ => None,
        })
    }
}

/// A chain of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Rules of the kernel's own chains.
pub type Entries = Vec<(Base, Rule)>;

/// All rules of one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What each table has: our chains, and the rules of the kernel's chains that lead to them.
    pub tables: Vec<(Table, Vec<Chain>, Entries)>,
    /// IPv4, and IPv6 if wanted.
    pub families: Vec<Family>,
    /// Whether marked packets need a route.
    pub needs_route: bool,
    /// An address that loopback must have besides its own: IPv4's whole network is there anyway.
    pub loopback: Option<Ipv6Addr>,
}

const INBOUND: &str = "OUTRIGGER_INBOUND";
const OUTPUT: &str = "OUTRIGGER_OUTPUT";
const REDIRECT: &str = "OUTRIGGER_REDIRECT";
const IN_REDIRECT: &str = "OUTRIGGER_IN_REDIRECT";
const DIVERT: &str = "OUTRIGGER_DIVERT";
const TPROXY: &str = "OUTRIGGER_TPROXY";
const MARK_SELF: &str = "OUTRIGGER_MARK_SELF";

/// What all our chains begin with.
pub(super) const PREFIX: &str = "OUTRIGGER_";

const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// The rules of a configuration.
pub fn plan(config: &Config) -> Plan {
    let families = if config.ipv6 {
        vec![Family::V4, Family::V6]
    } else {
        vec![Family::V4]
    };
    let mut plan = match config.mode {
        Mode::Redirect => Plan {
            tables: vec![(
                Table::Nat,
                vec![
                    chain(
                        IN_REDIRECT,
                        [Rule::new([], Verdict::Redirect(config.inbound_port))],
                    ),
                    chain(
                        REDIRECT,
                        [Rule::new([], Verdict::Redirect(config.outbound_port))],
                    ),
                    chain(INBOUND, inbound(config, IN_REDIRECT)),
                    chain(OUTPUT, output(config)),
                ],
                vec![
                    (Base::Prerouting, Rule::new([], Verdict::Jump(INBOUND))),
                    (Base::Output, Rule::new([], Verdict::Jump(OUTPUT))),
                ],
            )],
            families,
            needs_route: false,
            loopback: config.ipv6.then_some(TO_WORKLOAD.1),
        },
        Mode::Tproxy => tproxy(config, families),
    };
    let families = plan.families.clone();
    for (_, chains, _) in &mut plan.tables {
        for chain in chains {
            chain.rules.retain(|rule| {
                rule.family()
                    .is_none_or(|family| families.contains(&family))
            });
        }
    }
    plan
}

fn chain(name: &'static str, rules: impl Into<Vec<Rule>>) -> Chain {
    Chain {
        name,
        rules: rules.into(),
    }
}

fn tproxy(config: &Config, families: Vec<Family>) -> Plan {
    let to_sidecar = LOOPBACK.map(|loopback| {
        Rule::new(
            [Match::NotTo(Cidr::host(loopback))],
            Verdict::Tproxy(config.inbound_port, MARK),
        )
    });
    let mut incoming = vec![
        // Loopback is the pod's own affair, but for what the sidecar sends to its pod's address.
        Rule::new(
            [Match::In("lo".to_owned()), Match::NotMark(SELF_MARK)],
            Verdict::Return,
        ),
    ];
    incoming.extend(inbound(config, TPROXY));
    // A known connection's packets go on to the socket that has it.
    let first_redirect = incoming
        .iter()
        .position(|rule| rule.verdict == Verdict::Jump(TPROXY))
        .unwrap_or(incoming.len());
    incoming.insert(
        first_redirect,
        Rule::new([Match::Established], Verdict::Jump(DIVERT)),
    );

    Plan {
        tables: vec![
            (
                Table::Mangle,
                vec![
                    chain(
                        DIVERT,
                        [
                            Rule::new([], Verdict::Mark(MARK)),
                            Rule::new([], Verdict::Accept),
                        ],
                    ),
                    chain(TPROXY, to_sidecar),
                    chain(INBOUND, incoming),
                    chain(MARK_SELF, mark_self(config)),
                ],
                vec![
                    (Base::Prerouting, Rule::new([], Verdict::Jump(INBOUND))),
                    // Only what the sidecar sends to its application with the client's address gets here with
                    // this mark: the answers must come back to it.
                    (
                        Base::Prerouting,
                        Rule::new([Match::Mark(MARK)], Verdict::SaveMark),
                    ),
                    (
                        Base::Output,
                        Rule::new([Match::ConnectionMark(MARK)], Verdict::RestoreMark),
                    ),
                    (Base::Output, Rule::new([], Verdict::Jump(MARK_SELF))),
                ],
            ),
            (
                Table::Nat,
                vec![
                    chain(
                        REDIRECT,
                        [Rule::new([], Verdict::Redirect(config.outbound_port))],
                    ),
                    chain(OUTPUT, output(config)),
                ],
                vec![(Base::Output, Rule::new([], Verdict::Jump(OUTPUT)))],
            ),
        ],
        families,
        needs_route: true,
        loopback: None,
    }
}

fn inbound(config: &Config, to: &'static str) -> Vec<Rule> {
    let mut rules = Vec::new();
    for name in &config.exclude_interfaces {
        rules.push(Rule::new([Match::In(name.clone())], Verdict::Return));
    }
    for port in [READY_PORT, METRICS_PORT] {
        rules.push(Rule::new([Match::Port(port)], Verdict::Return));
    }
    match &config.include_inbound_ports {
        Ports::All => {
            for port in &config.exclude_inbound_ports {
                rules.push(Rule::new([Match::Port(*port)], Verdict::Return));
            }
            rules.push(Rule::new([], Verdict::Jump(to)));
        }
        Ports::These(ports) => {
            for port in ports {
                rules.push(Rule::new([Match::Port(*port)], Verdict::Jump(to)));
            }
        }
    }
    rules
}

/// What the sidecar sends to its own pod's address: the application called its own service.
fn to_self(config: &Config, verdict: &Verdict) -> Vec<Rule> {
    let mut rules = Vec::new();
    for who in proxies(config) {
        for loopback in LOOPBACK {
            let matches = [
                Match::Out("lo".to_owned()),
                Match::NotTo(Cidr::host(loopback)),
                who.clone(),
            ];
            rules.push(Rule::new(matches, verdict.clone()));
        }
    }
    rules
}

/// The sidecar's own connections to its pod are inbound again, but for those that it makes for a client: they
/// have the mark that brings the answers back.
fn mark_self(config: &Config) -> Vec<Rule> {
    let mut rules = vec![Rule::new([Match::Mark(MARK)], Verdict::Return)];
    rules.extend(to_self(config, &Verdict::Mark(SELF_MARK)));
    rules
}

fn proxies(config: &Config) -> Vec<Match> {
    let users = config.proxy_users.iter().copied().map(Match::User);
    let groups = config.proxy_groups.iter().copied().map(Match::Group);
    users.chain(groups).collect()
}

fn output(config: &Config) -> Vec<Rule> {
    let leave = |one: Match| Rule::new([one], Verdict::Return);
    let redirect = |matches: Vec<Match>| Rule::new(matches, Verdict::Jump(REDIRECT));
    let mut rules = Vec::new();
    rules.extend(
        config
            .exclude_interfaces
            .iter()
            .cloned()
            .map(Match::Out)
            .map(leave),
    );
    rules.extend(
        config
            .exclude_outbound_ports
            .iter()
            .copied()
            .map(Match::Port)
            .map(leave),
    );
    for source in [IpAddr::V4(TO_WORKLOAD.0), IpAddr::V6(TO_WORKLOAD.1)] {
        let matches = [Match::Out("lo".to_owned()), Match::From(Cidr::host(source))];
        rules.push(Rule::new(matches, Verdict::Return));
    }
    if config.mode == Mode::Redirect {
        rules.extend(to_self(config, &Verdict::Jump(IN_REDIRECT)));
    }
    rules.extend(proxies(config).into_iter().map(leave));
    // Between the pod's containers, over loopback.
    rules.push(leave(Match::Out("lo".to_owned())));
    rules.extend(
        config
            .exclude_outbound_users
            .iter()
            .copied()
            .map(Match::User)
            .map(leave),
    );
    rules.extend(
        config
            .exclude_outbound_groups
            .iter()
            .copied()
            .map(Match::Group)
            .map(leave),
    );
    if let Groups::These(groups) = &config.include_outbound_groups {
        let others = groups
            .iter()
            .copied()
            .map(Match::NotGroup)
            .collect::<Vec<_>>();
        rules.push(Rule::new(others, Verdict::Return));
    }
    rules.extend(LOOPBACK.map(|address| leave(Match::To(Cidr::host(address)))));
    rules.extend(
        config
            .exclude_outbound_cidrs
            .iter()
            .copied()
            .map(Match::To)
            .map(leave),
    );
    let ports = config.include_outbound_ports.iter().copied();
    rules.extend(ports.map(|port| redirect(vec![Match::Port(port)])));
    match &config.include_outbound_cidrs {
        Cidrs::All => rules.push(redirect(Vec::new())),
        Cidrs::These(ranges) => {
            rules.extend(ranges.iter().map(|range| redirect(vec![Match::To(*range)])));
        }
    }
    rules
}
