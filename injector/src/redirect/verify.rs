//! Proves the rules: that each is there, and that a real connection to the outside ends at the sidecar's port.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{
    Cidrs, Config, Family, Groups,
    apply::{Backend, missing},
};

const TIMEOUT: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(10);

/// What was proven, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One line for each proof.
    pub proven: Vec<String>,
    /// One line for each thing that could not be tried, with the reason.
    pub untried: Vec<String>,
    /// One line for each thing that is missing.
    pub wrong: Vec<String>,
}

/// Verifies the rules of the network namespace that the process is in.
///
/// # Errors
/// When a tool is missing or refuses.
pub fn verify(config: &Config, backend: Backend) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let missing = missing(config, backend)?;
    if missing.is_empty() {
        report.proven.push("every rule is there".to_owned());
    }
    report
        .wrong
        .extend(missing.into_iter().map(|rule| format!("missing: {rule}")));
    outbound(config, Family::V4, &mut report);
    if config.ipv6 {
        outbound(config, Family::V6, &mut report);
    }
    Ok(report)
}

fn outbound(config: &Config, family: Family, report: &mut Report) {
    let Some(target) = target(config, family) else {
        let name = name(family);
        report
            .untried
            .push(format!("outbound {name}: no destination is redirected"));
        return;
    };
    if let Groups::These(_) = config.include_outbound_groups {
        let name = name(family);
        report.untried.push(format!(
            "outbound {name}: only connections of other groups are redirected"
        ));
        return;
    }
    if let Some(who) = is_left_alone(config) {
        let name = name(family);
        report.untried.push(format!(
            "outbound {name}: connections of {who}, as whom this runs, are left alone"
        ));
        return;
    }
    let loopback: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let sidecar = SocketAddr::new(loopback, config.outbound_port);
    let listener = match TcpListener::bind(sidecar) {
        Ok(listener) => Some(listener),
        // The sidecar runs already; that it answers for an address of nobody proves as much.
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => {
            report
                .untried
                .push(format!("outbound to {target}: {sidecar}: {error}"));
            return;
        }
    };
    match (TcpStream::connect_timeout(&target, TIMEOUT), listener) {
        (Err(error), _) if unreachable(&error) => {
            report.untried.push(format!(
                "outbound to {target}: no route leads there ({error})"
            ));
        }
        (Err(error), _) if !config.exclude_interfaces.is_empty() => report.untried.push(format!(
            "outbound to {target}: it may leave by an interface that is left alone ({error})"
        )),
        (Err(error), _) => report.wrong.push(format!(
            "outbound to {target} does not get to port {}: {error}",
            config.outbound_port
        )),
        (Ok(_), None) => report
            .proven
            .push(format!("outbound to {target} is answered by the sidecar")),
        (Ok(_stream), Some(listener)) => match accepted(&listener, family) {
            Some(original) if original == target => report.proven.push(format!(
                "outbound to {target} gets to port {} and keeps its address",
                config.outbound_port
            )),
            Some(original) => report.wrong.push(format!(
                "outbound to {target} gets to port {} as {original}",
                config.outbound_port
            )),
            None => report.wrong.push(format!(
                "outbound to {target} is answered, but not at port {}",
                config.outbound_port
            )),
        },
    }
}

/// Whether what this process sends is redirected by no rule at all.
fn is_left_alone(config: &Config) -> Option<String> {
    // The kernel gives a process's own folder to its user and group.
    let own = std::fs::metadata("/proc/self").ok()?;
    let (user, group) = (own.uid(), own.gid());
    let is_in = |lists: [&[u32]; 2], id| lists.iter().any(|list| list.contains(&id));
    if is_in([&config.exclude_outbound_users, &config.proxy_users], user) {
        return Some(format!("user {user}"));
    }
    is_in(
        [&config.exclude_outbound_groups, &config.proxy_groups],
        group,
    )
    .then(|| format!("group {group}"))
}

fn unreachable(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable
    )
}

/// The original destination of the connection that arrives.
fn accepted(listener: &TcpListener, family: Family) -> Option<SocketAddr> {
    listener.set_nonblocking(true).ok()?;
    let end = Instant::now() + TIMEOUT;
    let (stream, _) = loop {
        match listener.accept() {
            Ok(accepted) => break accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::park_timeout(PAUSE);
            }
            Err(_) => return None,
        }
    };
    let socket = SockRef::from(&stream);
    let original = match family {
        Family::V4 => socket.original_dst_v4(),
        Family::V6 => socket.original_dst_v6(),
    };
    original.ok()?.as_socket()
}

/// An address of nobody that the rules redirect.
fn target(config: &Config, family: Family) -> Option<SocketAddr> {
    // Kept for documentation: nobody has them.
    let nobody: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let free = |port: &u16| !config.exclude_outbound_ports.contains(port);
    let excluded = |address: IpAddr| {
        config
            .exclude_outbound_cidrs
            .iter()
            .any(|range| contains(range, address))
    };
    let address = match &config.include_outbound_cidrs {
        Cidrs::All => Some(nobody),
        Cidrs::These(ranges) => ranges
            .iter()
            .filter(|range| range.family() == family)
            .map(|range| range.address)
            .find(|address| !excluded(*address)),
    };
    if let Some(address) = address.filter(|address| !excluded(*address)) {
        let port = [80, 9, 13, 17].into_iter().find(free).unwrap_or(7);
        return Some(SocketAddr::new(address, port));
    }
    let port = config.include_outbound_ports.iter().copied().find(free)?;
    (!excluded(nobody)).then(|| SocketAddr::new(nobody, port))
}

fn contains(range: &super::Cidr, address: IpAddr) -> bool {
    let text = format!("{address}/{}", range.prefix);
    text.parse::<super::Cidr>()
        .is_ok_and(|other| other == *range)
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
