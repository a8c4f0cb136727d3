//! Which connections are redirected, read from words.

use std::{fmt, net::IpAddr, str::FromStr};

/// How inbound connections are given to the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Their destination is rewritten; the sidecar asks the kernel for the original one.
    #[default]
    Redirect,
    /// They keep both addresses; the sidecar's socket is transparent.
    Tproxy,
}

impl Mode {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Its first address.
    pub address: IpAddr,
    /// How many leading bits are fixed.
    pub prefix: u8,
}

impl Cidr {
    /// One address alone.
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            prefix: width(address),
        }
    }

    /// Its address family.
    pub fn family(&self) -> Family {
        match self.address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Whether it is one address alone.
    pub fn is_host(&self) -> bool {
        self.prefix == width(self.address)
    }
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no CIDR, such as 10.0.0.0/8 or fd00::/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = width(address);
        let prefix = match prefix {
            None => width,
            Some(prefix) => prefix
                .parse::<u8>()
                .ok()
                .filter(|prefix| *prefix <= width)
                .ok_or_else(wrong)?,
        };
        // Kernel tools show ranges with the other bits cleared, and so do we.
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(address) & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(address) & mask).into())
            }
        };
        Ok(Self { address, prefix })
    }
}

/// All, or those of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which<T> {
    /// `*`
    All,
    /// These; an empty list is none.
    These(Vec<T>),
}

/// Ports: all or some.
pub type Ports = Which<u16>;
/// Addresses: all or some.
pub type Cidrs = Which<Cidr>;
/// Groups: all or some.
pub type Groups = Which<u32>;

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        all_or(text, ports)
    }
}

impl FromStr for Cidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        all_or(text, cidrs)
    }
}

impl FromStr for Groups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        all_or(text, ids)
    }
}

impl<T: fmt::Display> fmt::Display for Which<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::These(list) => f.write_str(&join(list)),
        }
    }
}

fn all_or<T>(text: &str, list: fn(&str) -> Result<Vec<T>, String>) -> Result<Which<T>, String> {
    if text.trim() == "*" {
        Ok(Which::All)
    } else {
        list(text).map(Which::These)
    }
}

fn join<T: fmt::Display>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn list<T>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|word| one(word.trim())).collect()
}

/// A list of ports.
///
/// # Errors
/// When a word is no port.
pub fn ports(text: &str) -> Result<Vec<u16>, String> {
    list(text, |word| match word.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{word}` is no port from 1 to 65535")),
    })
}

/// A list of address ranges.
///
/// # Errors
/// When a word is no CIDR.
pub fn cidrs(text: &str) -> Result<Vec<Cidr>, String> {
    list(text, str::parse)
}

/// A list of numeric user or group ids.
///
/// # Errors
/// When a word is no id.
pub fn ids(text: &str) -> Result<Vec<u32>, String> {
    list(text, |word| match word.parse::<u32>() {
        Ok(id) if id < u32::MAX => Ok(id),
        _ => Err(format!("`{word}` is no numeric id")),
    })
}

/// A list of names of interfaces; a `+` at the end stands for any rest.
///
/// # Errors
/// When a word is no such name.
pub fn interfaces(text: &str) -> Result<Vec<String>, String> {
    list(text, |word| {
        let stem = word.strip_suffix('+').unwrap_or(word);
        let is_fine = !stem.is_empty()
            && word.len() <= 15
            && stem
                .chars()
                .all(|one| one.is_ascii_alphanumeric() || "._-@".contains(one));
        if is_fine {
            Ok(word.to_owned())
        } else {
            Err(format!("`{word}` is no name of a network interface"))
        }
    })
}

/// Which connections are redirected, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How inbound ones are.
    pub mode: Mode,
    /// The sidecar's port for inbound connections.
    pub inbound_port: u16,
    /// The sidecar's port for outbound connections.
    pub outbound_port: u16,
    /// Inbound ports that are redirected.
    pub include_inbound_ports: Ports,
    /// Inbound ports that are not, where all are redirected.
    pub exclude_inbound_ports: Vec<u16>,
    /// Outbound ports that are redirected also outside of the included ranges.
    pub include_outbound_ports: Vec<u16>,
    /// Outbound ports that are not.
    pub exclude_outbound_ports: Vec<u16>,
    /// Destinations that are redirected.
    pub include_outbound_cidrs: Cidrs,
    /// Destinations that are not.
    pub exclude_outbound_cidrs: Vec<Cidr>,
    /// Groups whose connections are redirected.
    pub include_outbound_groups: Groups,
    /// Groups whose connections are not.
    pub exclude_outbound_groups: Vec<u32>,
    /// Users whose connections are not.
    pub exclude_outbound_users: Vec<u32>,
    /// Interfaces whose connections are not.
    pub exclude_interfaces: Vec<String>,
    /// The users that the sidecar runs as.
    pub proxy_users: Vec<u32>,
    /// The groups that the sidecar runs as.
    pub proxy_groups: Vec<u32>,
    /// Whether IPv6 is redirected too.
    pub ipv6: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Redirect,
            inbound_port: crate::spec::INBOUND_PORT,
            outbound_port: crate::spec::OUTBOUND_PORT,
            include_inbound_ports: Ports::All,
            exclude_inbound_ports: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            include_outbound_cidrs: Cidrs::All,
            exclude_outbound_cidrs: Vec::new(),
            include_outbound_groups: Groups::All,
            exclude_outbound_groups: Vec::new(),
            exclude_outbound_users: Vec::new(),
            exclude_interfaces: Vec::new(),
            proxy_users: vec![crate::spec::PROXY_USER],
            proxy_groups: vec![crate::spec::PROXY_USER],
            ipv6: true,
        }
    }
}

impl Config {
    /// The same in another mode.
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The flags of `outrigger redirect` that mean this: those that differ from the defaults.
    pub fn to_args(&self) -> Vec<String> {
        self.words()
            .into_iter()
            .zip(Self::default().words())
            .filter(|(word, default)| word != default)
            .map(|((name, word), _)| format!("--{name}={word}"))
            .collect()
    }

    /// All flags with their values.
    fn words(&self) -> [(&'static str, String); 16] {
        let Self {
            mode,
            inbound_port,
            outbound_port,
            include_inbound_ports,
            exclude_inbound_ports,
            include_outbound_ports,
            exclude_outbound_ports,
            include_outbound_cidrs,
            exclude_outbound_cidrs,
            include_outbound_groups,
            exclude_outbound_groups,
            exclude_outbound_users,
            exclude_interfaces,
            proxy_users,
            proxy_groups,
            ipv6,
        } = self;
        [
            ("mode", mode.name().to_owned()),
            ("inbound-port", inbound_port.to_string()),
            ("outbound-port", outbound_port.to_string()),
            ("include-inbound-ports", include_inbound_ports.to_string()),
            ("exclude-inbound-ports", join(exclude_inbound_ports)),
            ("include-outbound-ports", join(include_outbound_ports)),
            ("exclude-outbound-ports", join(exclude_outbound_ports)),
            ("include-outbound-cidrs", include_outbound_cidrs.to_string()),
            ("exclude-outbound-cidrs", join(exclude_outbound_cidrs)),
            (
                "include-outbound-groups",
                include_outbound_groups.to_string(),
            ),
            ("exclude-outbound-groups", join(exclude_outbound_groups)),
            ("exclude-outbound-users", join(exclude_outbound_users)),
            ("exclude-interfaces", join(exclude_interfaces)),
            ("proxy-users", join(proxy_users)),
            ("proxy-groups", join(proxy_groups)),
            ("ipv6", ipv6.to_string()),
        ]
    }
}
