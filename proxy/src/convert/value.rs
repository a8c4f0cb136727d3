//! Scalars, durations, names and addresses.

use std::{net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use outrigger_proto::{
    envoy::config::core::v3::{
        Address, CidrRange, DataSource, SocketAddress, address, data_source, socket_address,
    },
    google::protobuf::{Any, BoolValue, Duration as ProtoDuration, UInt32Value},
};
use prost::Name;

use super::{ConfigError, Cx};

/// The longest duration, as in Envoy: what an `i64` of nanoseconds holds, 292 years.
const MAX_SECONDS: u64 = 9_223_372_036;

/// An address of a listener or endpoint before names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPort {
    /// A numeric address.
    Socket(SocketAddr),
    /// A name and a port.
    Name(Arc<str>, u16),
}

impl Cx<'_> {
    /// A duration of at least zero, and short enough to be added to any clock's reading.
    #[must_use]
    pub fn duration(&self, value: ProtoDuration) -> Option<Duration> {
        match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
            (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => {
                if seconds > MAX_SECONDS {
                    self.error(format!(
                        "duration out of range: at most {MAX_SECONDS} s are possible"
                    ));
                    return None;
                }
                Some(Duration::new(seconds, nanos))
            }
            _ => {
                self.error("must be a duration of zero or more");
                None
            }
        }
    }

    /// The duration of an optional field, or the default where it is not set or not valid.
    #[must_use]
    pub fn duration_or(
        &self,
        field: &str,
        value: Option<ProtoDuration>,
        default: Duration,
    ) -> Duration {
        value
            .and_then(|value| self.field(field).duration(value))
            .unwrap_or(default)
    }

    /// The duration of an optional field.
    #[must_use]
    pub fn optional_duration(&self, field: &str, value: Option<ProtoDuration>) -> Option<Duration> {
        value.and_then(|value| self.field(field).duration(value))
    }

    /// A required message; its absence is an error.
    #[must_use]
    pub fn required<T>(&self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.field(field).error("value is required");
        }
        value
    }

    /// A name that must not be empty.
    #[must_use]
    pub fn non_empty(&self, field: &str, value: &str) -> Arc<str> {
        if value.is_empty() {
            self.field(field)
                .error("value length must be at least 1 characters");
        }
        Arc::from(value)
    }

    /// A header name; pseudo-headers are errors.
    #[must_use]
    pub fn header_name(&self, value: &str) -> Option<http::HeaderName> {
        match http::HeaderName::from_str(value) {
            Ok(name) => Some(name),
            Err(_) => {
                self.error(format!("`{value}` is not a valid header name"));
                None
            }
        }
    }

    /// A header value.
    #[must_use]
    pub fn header_value(&self, value: &str) -> Option<http::HeaderValue> {
        match http::HeaderValue::from_str(value) {
            Ok(value) => Some(value),
            Err(_) => {
                self.error(format!("`{value}` is not a valid header value"));
                None
            }
        }
    }

    /// The value of an enum field.
    #[must_use]
    pub fn enumeration<E: TryFrom<i32>>(&self, field: &str, value: i32) -> Option<E> {
        let converted = E::try_from(value).ok();
        if converted.is_none() {
            self.field(field)
                .error(format!("{value} is not a value of this enum"));
        }
        converted
    }

    /// The message inside an `Any`, validated; errors carry this path. One that is not valid is given all the
    /// same where it can be decoded, so that its conversion finds what else is wrong with it.
    #[must_use]
    pub fn any<M: prost::Message + Default + Name>(&self, any: &Any) -> Option<M> {
        match outrigger_proto::decode_any(any) {
            Ok(message) => Some(message),
            Err(errors) => {
                errors
                    .into_iter()
                    .for_each(|error: ConfigError| self.error_below(error));
                (any.type_url == M::type_url())
                    .then(|| M::decode(any.value.as_slice()).ok())
                    .flatten()
            }
        }
    }

    /// An address: TCP, numeric or a name, with a numeric port.
    #[must_use]
    pub fn address(&self, address: Address) -> Option<HostPort> {
        self.converts::<Address>();
        self.refuses::<Address>(&["pipe", "envoy_internal_address"]);
        let Address { address } = address;
        let (field, other) = match address {
            Some(address::Address::SocketAddress(address)) => {
                return self.field("socket_address").socket_address(address);
            }
            Some(address::Address::Pipe(_)) => ("pipe", "not supported"),
            Some(address::Address::EnvoyInternalAddress(_)) => {
                ("envoy_internal_address", "not supported")
            }
            None => ("address", "value is required"),
        };
        self.field(field).error(other);
        None
    }

    fn socket_address(&self, address: SocketAddress) -> Option<HostPort> {
        self.converts::<SocketAddress>();
        self.refuses::<SocketAddress>(&["named_port"]);
        let SocketAddress {
            protocol,
            address,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath,
            port_specifier,
        } = address;
        crate::unsupported!(
            self,
            SocketAddress,
            [protocol, resolver_name, network_namespace_filepath]
        );
        self.partly::<SocketAddress>("ipv4_compat", "of listeners");
        if ipv4_compat {
            self.field("ipv4_compat")
                .error("not supported: only a listener takes connections");
        }
        let port = match port_specifier {
            Some(socket_address::PortSpecifier::PortValue(port)) => {
                u16::try_from(port).ok().or_else(|| {
                    self.field("port_value")
                        .error("value must be less than or equal to 65535");
                    None
                })?
            }
            Some(socket_address::PortSpecifier::NamedPort(_)) => {
                self.field("named_port").error("not supported");
                return None;
            }
            None => {
                self.field("port_value").error("value is required");
                return None;
            }
        };
        if address.is_empty() {
            self.field("address")
                .error("value length must be at least 1 characters");
            return None;
        }
        Some(match address.parse() {
            Ok(ip) => HostPort::Socket(SocketAddr::new(ip, port)),
            Err(_) => HostPort::Name(Arc::from(address), port),
        })
    }

    /// A numeric address; a name is an error.
    #[must_use]
    pub fn numeric_address(&self, address: Address) -> Option<SocketAddr> {
        let found = self.address(address)?;
        self.field("socket_address").numeric(found)
    }

    /// A numeric address to listen at, and whether one of IPv6 takes IPv4 too.
    #[must_use]
    pub fn listen_address(&self, mut address: Address) -> Option<(SocketAddr, bool)> {
        let takes_ipv4 = match &mut address.address {
            Some(address::Address::SocketAddress(socket)) => {
                std::mem::take(&mut socket.ipv4_compat)
            }
            _ => false,
        };
        let address = self.numeric_address(address)?;
        Some((address, takes_ipv4 && address.is_ipv6()))
    }

    /// The same of the message within it.
    #[must_use]
    pub fn numeric_socket_address(&self, address: SocketAddress) -> Option<SocketAddr> {
        let found = self.socket_address(address)?;
        self.numeric(found)
    }

    fn numeric(&self, found: HostPort) -> Option<SocketAddr> {
        match found {
            HostPort::Socket(address) => Some(address),
            HostPort::Name(name, _) => {
                self.field("address").error(format!(
                    "malformed IP address: {name}; a name is only possible in a STRICT_DNS cluster"
                ));
                None
            }
        }
    }

    /// A network.
    #[must_use]
    pub fn cidr(&self, range: CidrRange) -> Option<(std::net::IpAddr, u8)> {
        self.converts::<CidrRange>();
        let CidrRange {
            address_prefix,
            prefix_len,
        } = range;
        let Ok(ip) = address_prefix.parse::<std::net::IpAddr>() else {
            self.field("address_prefix")
                .error(format!("`{address_prefix}` is not an IP address"));
            return None;
        };
        let max = if ip.is_ipv4() { 32 } else { 128 };
        let length = prefix_len.map_or(0, |UInt32Value { value }| value);
        match u8::try_from(length) {
            Ok(length) if length <= max => Some((ip, length)),
            _ => {
                self.field("prefix_len")
                    .error(format!("value must be less than or equal to {max}"));
                None
            }
        }
    }

    /// Data given in place. (Files and environment variables are read at load time by nobody yet.)
    #[must_use]
    pub fn inline_data(&self, source: DataSource) -> Option<bytes::Bytes> {
        self.converts::<DataSource>();
        self.refuses::<DataSource>(&["filename", "environment_variable"]);
        let DataSource {
            watched_directory,
            specifier,
        } = source;
        crate::unsupported!(self, DataSource, [watched_directory]);
        let field = match specifier {
            Some(data_source::Specifier::InlineString(text)) => return Some(text.into()),
            Some(data_source::Specifier::InlineBytes(bytes)) => return Some(bytes.into()),
            Some(data_source::Specifier::Filename(_)) => "filename",
            Some(data_source::Specifier::EnvironmentVariable(_)) => "environment_variable",
            None => {
                self.field("specifier").error("value is required");
                return None;
            }
        };
        self.field(field)
            .error("not supported; give the data in place");
        None
    }
}

/// The value of an optional wrapper.
pub fn bool_or(value: Option<BoolValue>, default: bool) -> bool {
    value.map_or(default, |BoolValue { value }| value)
}

/// The value of an optional wrapper.
pub fn u32_or(value: Option<UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |UInt32Value { value }| value)
}
