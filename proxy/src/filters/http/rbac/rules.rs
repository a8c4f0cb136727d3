//! Decides by rules. Nothing here allocates.

use std::net::SocketAddr;

use super::config::{Action, Condition, Policy, Rules};
use crate::router::matcher::{View, header_matches};

/// What conditions look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) view: View<'a>,
    /// The address that the client connected to.
    pub(super) local: SocketAddr,
    /// The peer of the connection.
    pub(super) direct_remote: SocketAddr,
    /// The client after `x-forwarded-for` was taken into account.
    pub(super) remote: SocketAddr,
}

/// What rules say of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision<'a> {
    pub(super) is_allowed: bool,
    /// The place of the policy that matched, and the policy.
    pub(super) policy: Option<(usize, &'a Policy)>,
}

/// The first policy that matches decides.
pub(super) fn decide<'a>(rules: &'a Rules, request: &Request<'_>) -> Decision<'a> {
    let policy = rules
        .policies
        .iter()
        .enumerate()
        .find(|(_, policy)| matches(policy, request));
    let is_allowed = match rules.action {
        Action::Allow => policy.is_some(),
        Action::Deny => policy.is_none(),
        Action::Log => true,
    };
    Decision { is_allowed, policy }
}

fn matches(policy: &Policy, request: &Request<'_>) -> bool {
    let any_holds =
        |conditions: &[Condition]| conditions.iter().any(|condition| holds(condition, request));
    any_holds(&policy.permissions) && any_holds(&policy.principals)
}

fn holds(condition: &Condition, request: &Request<'_>) -> bool {
    match condition {
        Condition::Any => true,
        Condition::Authenticated => false,
        Condition::All(conditions) => conditions.iter().all(|inner| holds(inner, request)),
        Condition::OneOf(conditions) => conditions.iter().any(|inner| holds(inner, request)),
        Condition::Not(inner) => !holds(inner, request),
        Condition::Header(matcher) => header_matches(matcher, &request.view),
        Condition::Path(matcher) => matcher.matches(request.view.path.as_bytes()),
        Condition::DestinationIp(network) => network.contains(request.local.ip()),
        Condition::DestinationPort(ports) => ports.contains(&request.local.port()),
        Condition::ServerName(matcher) => matcher.matches(b""),
        Condition::DirectRemoteIp(network) => network.contains(request.direct_remote.ip()),
        Condition::RemoteIp(network) => network.contains(request.remote.ip()),
    }
}
