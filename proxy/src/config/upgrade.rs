//! To which protocols connections of HTTP/1 may switch (`upgrade_configs`).

/// One entry of `upgrade_configs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// What the `upgrade` header says, in any case.
    pub protocol: Box<str>,
    /// Whether it is allowed.
    pub is_enabled: bool,
}

/// Whether a connection may switch to `protocol`: as the route says, else as the connection manager does.
#[must_use]
pub fn is_allowed(route: &[Upgrade], manager: &[Upgrade], protocol: &[u8]) -> bool {
    let find = |upgrades: &[Upgrade]| {
        upgrades
            .iter()
            .find(|upgrade| upgrade.protocol.as_bytes().eq_ignore_ascii_case(protocol))
            .map(|upgrade| upgrade.is_enabled)
    };
    find(route).or_else(|| find(manager)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrades(all: &[(&str, bool)]) -> Vec<Upgrade> {
        let upgrade = |&(protocol, is_enabled): &(&str, bool)| Upgrade {
            protocol: protocol.into(),
            is_enabled,
        };
        all.iter().map(upgrade).collect()
    }

    #[test]
    fn the_route_decides_before_the_connection_manager() {
        let manager = upgrades(&[("websocket", true), ("Foo", false)]);
        assert!(is_allowed(&[], &manager, b"WebSocket"));
        assert!(!is_allowed(&[], &manager, b"foo"));
        assert!(!is_allowed(&[], &manager, b"bar"));
        assert!(!is_allowed(&[], &manager, b"websocket, foo"));
        let route = upgrades(&[("WEBSOCKET", false), ("foo", true), ("bar", true)]);
        assert!(!is_allowed(&route, &manager, b"websocket"));
        assert!(is_allowed(&route, &manager, b"FOO"));
        assert!(is_allowed(&route, &manager, b"bar"));
    }
}
