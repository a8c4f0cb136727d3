//! `BindConfig`: what upstream connections come from.

use std::net::SocketAddr;

use outrigger_proto::envoy::config::core::v3::{BindConfig, ExtraSourceAddress};

use crate::{config::cluster::Sources, convert::Cx, unsupported};

/// The source addresses of a cluster's connections.
pub(super) fn bind_config(cx: &Cx<'_>, config: BindConfig) -> Sources {
    cx.converts::<BindConfig>();
    #[expect(deprecated, reason = "named to be refused")]
    let BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = config;
    unsupported!(
        cx,
        BindConfig,
        [
            freebind,
            socket_options,
            additional_source_addresses,
            local_address_selector,
            validate_network_namespaces
        ]
    );
    if source_address.is_none() && !extra_source_addresses.is_empty() {
        cx.field("source_address")
            .error("required where there are extra_source_addresses");
    }
    let mut addresses = Vec::new();
    if let Some(source) = source_address {
        addresses.extend(cx.field("source_address").numeric_socket_address(source));
    }
    let extra_cx = cx.field("extra_source_addresses");
    for (index, extra) in extra_source_addresses.into_iter().enumerate() {
        let cx = extra_cx.index(index);
        cx.converts::<ExtraSourceAddress>();
        let ExtraSourceAddress {
            address,
            socket_options,
        } = extra;
        unsupported!(cx, ExtraSourceAddress, [socket_options]);
        let Some(source) = cx.required("address", address) else {
            continue;
        };
        let Some(source) = cx.field("address").numeric_socket_address(source) else {
            continue;
        };
        // The first of a family is the only one that is ever used.
        if addresses
            .iter()
            .any(|one: &SocketAddr| one.is_ipv4() == source.is_ipv4())
        {
            let family = if source.is_ipv4() { "IPv4" } else { "IPv6" };
            cx.field("address").error(format!(
                "a source address of {family} is there already, and only the first is used"
            ));
        }
        addresses.push(source);
    }
    Sources(addresses)
}
