//! Takes over a pod's connections: which, as [`Config`]; by what rules, as data ([`Plan`]); as text for
//! `iptables-restore` or `nft`. All of that is pure; [`apply`] and [`verify`] touch the machine.
//!
//! The meanings of all lists are Istio's, so that what its users know stays true.

pub mod apply;
mod config;
mod iptables;
mod nft;
mod plan;
pub mod verify;

pub use config::{
    Cidr, Cidrs, Config, Family, Groups, Mode, Ports, Which, cidrs, ids, interfaces, ports,
};
pub use iptables::{missing as missing_from_iptables, restore, undo as undo_iptables};
pub use nft::{missing as missing_from_nft, script, undo as undo_nft};
pub use outrigger_mesh::scope::MARK;
pub use plan::{Base, Chain, Entries, Match, Plan, Rule, Table, Verdict, plan};

/// The mark of the sidecar's own connections to its pod.
pub const SELF_MARK: u32 = 1338;
/// The routing table that delivers marked packets locally.
pub const ROUTE_TABLE: u32 = 133;

/// The commands that deliver here what would otherwise not be, for people to read.
pub fn route_commands(plan: &Plan) -> Vec<String> {
    let mut commands = Vec::new();
    for family in plan.families.iter().filter(|_| plan.needs_route) {
        let flag = match family {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        commands.extend([
            format!("ip {flag} rule add fwmark {MARK} lookup {ROUTE_TABLE}"),
            format!("ip {flag} route replace local default dev lo table {ROUTE_TABLE}"),
        ]);
    }
    let loopback = plan.loopback.iter();
    commands.extend(loopback.map(|address| format!("ip -6 address add {address}/128 dev lo")));
    commands
}
