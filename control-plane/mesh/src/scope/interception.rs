//! `node.metadata.outrigger.interception`: the connections of a pod that come to its proxy by rules of the
//! kernel, not because anyone dials the proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Where the rules send what the workload calls, unless the node says otherwise.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where they send what arrives.
pub const INBOUND_PORT: u16 = 15006;
/// What a sidecar's connections to its own workload come from: the rules leave these alone.
pub const TO_WORKLOAD: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(127, 0, 0, 6),
    Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6),
);
/// The mark of connections that TPROXY gives to a sidecar, and of those that it makes with a client's address.
pub const MARK: u32 = 1337;

/// How a proxy intercepts, and what it does with connections to nowhere in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Interception {
    /// The pod's own addresses, as `status.podIPs` has them: with commas between.
    #[serde(
        deserialize_with = "read_addresses",
        serialize_with = "write_addresses"
    )]
    pub addresses: Vec<IpAddr>,
    /// Where the rules send what the workload calls.
    #[serde(default = "outbound_port")]
    pub outbound: u16,
    /// Where they send what arrives.
    #[serde(default = "inbound_port")]
    pub inbound: u16,
    /// By which kind of rules.
    #[serde(default)]
    pub mode: Mode,
    /// What becomes of connections to addresses that no service of the mesh has.
    #[serde(default)]
    pub outbound_policy: OutboundPolicy,
}

/// The kind of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The kernel rewrites the destination and remembers it; the workload sees the proxy as its client.
    #[default]
    Redirect,
    /// Inbound connections keep both addresses.
    Tproxy,
}

/// What becomes of connections to addresses that no service of the mesh has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutboundPolicy {
    /// They go there.
    #[default]
    AllowAny,
    /// They are closed.
    RegistryOnly,
}

impl Interception {
    /// The wildcard address of each family that the pod has addresses of.
    pub fn wildcards(&self) -> Vec<IpAddr> {
        let has = |v6: bool| self.addresses.iter().any(|address| address.is_ipv6() == v6);
        let v4 = has(false).then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let v6 = has(true).then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        v4.into_iter().chain(v6).collect()
    }
}

const fn outbound_port() -> u16 {
    OUTBOUND_PORT
}

const fn inbound_port() -> u16 {
    INBOUND_PORT
}

fn read_addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let addresses = text
        .split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .map(|one| {
            one.parse()
                .map_err(|_| D::Error::custom(format!("'{one}' is no IP address")))
        })
        .collect::<Result<Vec<IpAddr>, _>>()?;
    if addresses.is_empty() {
        return Err(D::Error::custom("the pod must have an address"));
    }
    Ok(addresses)
}

fn write_addresses<S: Serializer>(addresses: &[IpAddr], serializer: S) -> Result<S::Ok, S::Error> {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    serializer.serialize_str(&texts.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Interception, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_read_as_kubernetes_gives_them() {
        let both = read(json!({"addresses": "10.1.0.5,fd00::5"})).unwrap();
        assert_eq!(both.wildcards().len(), 2);
        assert_eq!((both.outbound, both.inbound), (15001, 15006));
        let text = serde_json::to_value(&both).unwrap();
        assert_eq!(text["addresses"], "10.1.0.5,fd00::5");
        assert_eq!(read(text).unwrap(), both);
        let v6 = read(json!({"addresses": "fd00::5"})).unwrap();
        assert_eq!(v6.wildcards(), [IpAddr::V6(Ipv6Addr::UNSPECIFIED)]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (value, says) in [
            (json!({}), "missing field `addresses`"),
            (json!({"addresses": ""}), "must have an address"),
            (
                json!({"addresses": "10.1.0.5,pod"}),
                "'pod' is no IP address",
            ),
            (
                json!({"addresses": "10.1.0.5", "mode": "tun"}),
                "unknown variant `tun`",
            ),
            (
                json!({"addresses": "10.1.0.5", "outboundPolicy": "deny"}),
                "unknown variant `deny`",
            ),
            (
                json!({"addresses": "10.1.0.5", "port": 1}),
                "unknown field `port`",
            ),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert!(error.contains(says), "{value}: {error}");
        }
    }
}
