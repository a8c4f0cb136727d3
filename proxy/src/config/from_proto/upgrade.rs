//! `upgrade_configs` of connection managers and routes.

use outrigger_proto::envoy::{
    config::route::v3::route_action::UpgradeConfig as RouteProto,
    extensions::filters::network::http_connection_manager::v3::http_connection_manager::UpgradeConfig as Proto,
};

use crate::{
    config::upgrade::Upgrade,
    convert::{Cx, bool_or},
    unsupported,
};

/// Of a connection manager.
pub(super) fn upgrades(cx: &Cx<'_>, protos: Vec<Proto>) -> Vec<Upgrade> {
    cx.converts::<Proto>();
    cx.partly::<Proto>("upgrade_type", "all but CONNECT and CONNECT-UDP");
    let mut upgrades = Vec::with_capacity(protos.len());
    for (index, proto) in protos.into_iter().enumerate() {
        let cx = cx.index(index);
        let Proto {
            upgrade_type,
            filters,
            enabled,
        } = proto;
        unsupported!(cx, Proto, [filters]);
        add(&cx, &mut upgrades, upgrade_type, bool_or(enabled, true));
    }
    upgrades
}

/// Of a route.
pub(super) fn of_route(cx: &Cx<'_>, protos: Vec<RouteProto>) -> Vec<Upgrade> {
    cx.converts::<RouteProto>();
    cx.partly::<RouteProto>("upgrade_type", "all but CONNECT and CONNECT-UDP");
    let mut upgrades = Vec::with_capacity(protos.len());
    for (index, proto) in protos.into_iter().enumerate() {
        let cx = cx.index(index);
        let RouteProto {
            upgrade_type,
            enabled,
            connect_config,
        } = proto;
        unsupported!(cx, RouteProto, [connect_config]);
        add(&cx, &mut upgrades, upgrade_type, bool_or(enabled, true));
    }
    upgrades
}

fn add(cx: &Cx<'_>, upgrades: &mut Vec<Upgrade>, protocol: String, is_enabled: bool) {
    let is = |name: &str| protocol.eq_ignore_ascii_case(name);
    if protocol.is_empty() {
        cx.field("upgrade_type").error("value is required");
    } else if is_enabled && (is("CONNECT") || is("CONNECT-UDP")) {
        cx.field("upgrade_type")
            .error(format!("{protocol} is not supported"));
    }
    if upgrades.iter().any(|other| is(&other.protocol)) {
        cx.error(format!(
            "Duplicate upgrade {}",
            protocol.to_ascii_lowercase()
        ));
    }
    upgrades.push(Upgrade {
        protocol: protocol.into(),
        is_enabled,
    });
}
