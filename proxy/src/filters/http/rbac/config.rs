//! `envoy.extensions.filters.http.rbac.v3` and `envoy.config.rbac.v3`, as one kind of condition.

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc};

use outrigger_proto::envoy::{
    config::rbac::v3::{
        Permission, Policy as PolicyProto, Principal, Rbac as RulesProto,
        permission::{self, Rule},
        principal::{self, Authenticated, Identifier},
        rbac::Action as ActionProto,
    },
    extensions::filters::http::rbac::v3::{Rbac as Proto, RbacPerRoute},
    r#type::{
        matcher::v3::{PathMatcher, path_matcher},
        v3::Int32Range,
    },
};

use crate::{
    config::{
        from_proto::{header_matcher, string_matcher},
        matcher::{HeaderMatcher, StringMatcher},
    },
    convert::Cx,
    filters::http::FilterConfig,
    no_effect, unsupported,
};

/// The filter, or its override on a virtual host, a route or a weighted cluster.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What is enforced; none: nothing is.
    pub rules: Option<Arc<Rules>>,
    /// What is only counted.
    pub shadow_rules: Option<Arc<Rules>>,
    /// Before the names of the counters of `rules`; without a dot at its end, may be empty.
    pub rules_stat_prefix: Arc<str>,
    /// Before the names of the counters of `shadow_rules`; without a dot at its end, may be empty.
    pub shadow_rules_stat_prefix: Arc<str>,
    /// Each policy has counters of its own.
    pub track_per_rule_stats: bool,
}

/// Policies and what they do.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What a match means.
    pub action: Action,
    /// In the order of their names.
    pub policies: Box<[Policy]>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only requests that match are allowed.
    Allow,
    /// Requests that match are denied.
    Deny,
    /// All requests are allowed. (Envoy tells access loggers by dynamic metadata, which nothing reads here.)
    Log,
}

/// A policy matches when one of its permissions and one of its principals do.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub name: Arc<str>,
    /// `permissions`, one of which must hold.
    pub permissions: Box<[Condition]>,
    /// `principals`, one of which must hold.
    pub principals: Box<[Condition]>,
}

/// A permission or a principal.
#[derive(Clone, Debug)]
pub enum Condition {
    /// `any`
    Any,
    /// `authenticated`: a connection without TLS has no identity.
    Authenticated,
    /// `and_rules`, `and_ids`
    All(Box<[Self]>),
    /// `or_rules`, `or_ids`
    OneOf(Box<[Self]>),
    /// `not_rule`, `not_id`
    Not(Box<Self>),
    /// `header`
    Header(Box<HeaderMatcher>),
    /// `url_path`: the path without query and fragment.
    Path(StringMatcher),
    /// `destination_ip`: the address that the client connected to.
    DestinationIp(Network),
    /// `destination_port`, `destination_port_range`
    DestinationPort(RangeInclusive<u16>),
    /// `requested_server_name`: empty for a connection without TLS.
    ServerName(StringMatcher),
    /// `direct_remote_ip`, `source_ip`: the peer of the connection.
    DirectRemoteIp(Network),
    /// `remote_ip`: the client after `x-forwarded-for` was taken into account.
    RemoteIp(Network),
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// Addresses that have their first `length` bits in common with this one.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        Self { address, length }
    }

    /// Whether an address is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let length = u32::from(self.length);
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= length
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= length
            }
            _ => false,
        }
    }
}

impl FilterConfig for Config {
    type Proto = Proto;
    type RouteProto = RbacPerRoute;
    type RouteConfig = Self;

    fn from_proto(cx: &Cx<'_>, proto: Proto) -> Option<Self> {
        config(cx, proto)
    }

    /// Without `rbac` nothing is enforced there.
    fn route_from_proto(cx: &Cx<'_>, proto: RbacPerRoute) -> Option<Self> {
        cx.converts::<RbacPerRoute>();
        let RbacPerRoute { rbac } = proto;
        match rbac {
            Some(rbac) => config(&cx.field("rbac"), rbac),
            None => Some(Self::default()),
        }
    }
}

/// The filter's configuration.
pub(super) fn config(cx: &Cx<'_>, proto: Proto) -> Option<Config> {
    cx.converts::<Proto>();
    let Proto {
        rules: rules_proto,
        rules_stat_prefix,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        track_per_rule_stats,
    } = proto;
    unsupported!(cx, Proto, [matcher, shadow_matcher]);
    let errors = cx.error_count();
    let convert = |field, proto: Option<RulesProto>| {
        proto.and_then(|proto| rules(&cx.field(field), proto).map(Arc::new))
    };
    let config = Config {
        rules: convert("rules", rules_proto),
        shadow_rules: convert("shadow_rules", shadow_rules),
        rules_stat_prefix: rules_stat_prefix.trim_end_matches('.').into(),
        shadow_rules_stat_prefix: shadow_rules_stat_prefix.trim_end_matches('.').into(),
        track_per_rule_stats,
    };
    // Rules that could not be read must not become none.
    (cx.error_count() == errors).then_some(config)
}

fn rules(cx: &Cx<'_>, proto: RulesProto) -> Option<Rules> {
    cx.converts::<RulesProto>();
    cx.partly::<RulesProto>(
        "action",
        "LOG allows; the dynamic metadata that Envoy sets for it would have no reader",
    );
    let RulesProto {
        action,
        policies,
        audit_logging_options,
    } = proto;
    no_effect!(
        cx,
        RulesProto,
        "as in Envoy, which does not implement it",
        [audit_logging_options]
    );
    let action = match cx.enumeration("action", action)? {
        ActionProto::Allow => Action::Allow,
        ActionProto::Deny => Action::Deny,
        ActionProto::Log => Action::Log,
    };
    let mut named: Vec<_> = policies.into_iter().collect();
    named.sort_by(|(left, _), (right, _)| left.cmp(right));
    let at = cx.field("policies");
    // All are read before any failure counts, so that one run finds every error.
    let policies: Vec<_> = named
        .into_iter()
        .map(|(name, proto)| policy(&at.key(&name), &name, proto))
        .collect();
    Some(Rules {
        action,
        policies: policies.into_iter().collect::<Option<_>>()?,
    })
}

fn policy(cx: &Cx<'_>, name: &str, proto: PolicyProto) -> Option<Policy> {
    cx.converts::<PolicyProto>();
    let PolicyProto {
        permissions,
        principals,
        condition,
        checked_condition,
        cel_config,
    } = proto;
    unsupported!(cx, PolicyProto, [condition, checked_condition, cel_config]);
    let permissions = list(&cx.field("permissions"), permissions, permission);
    let principals = list(&cx.field("principals"), principals, principal);
    Some(Policy {
        name: name.into(),
        permissions: permissions?,
        principals: principals?,
    })
}

fn list<T>(
    cx: &Cx<'_>,
    items: Vec<T>,
    convert: impl Fn(&Cx<'_>, T) -> Option<Condition>,
) -> Option<Box<[Condition]>> {
    if items.is_empty() {
        cx.error("value must contain at least 1 item(s)");
        return None;
    }
    let converted: Vec<_> = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| convert(&cx.index(index), item))
        .collect();
    converted.into_iter().collect()
}

fn permission(cx: &Cx<'_>, proto: Permission) -> Option<Condition> {
    cx.converts::<Permission>();
    cx.refuses::<Permission>(&["metadata", "matcher", "uri_template", "sourced_metadata"]);
    let Permission { rule } = proto;
    #[expect(deprecated, reason = "named to be refused")]
    let refused = match rule {
        Some(Rule::AndRules(set)) => {
            return permissions(&cx.field("and_rules"), set).map(Condition::All);
        }
        Some(Rule::OrRules(set)) => {
            return permissions(&cx.field("or_rules"), set).map(Condition::OneOf);
        }
        Some(Rule::Any(any)) => return is_any(cx, any),
        Some(Rule::Header(matcher)) => {
            let matcher = header_matcher(&cx.field("header"), matcher)?;
            return Some(Condition::Header(Box::new(matcher)));
        }
        Some(Rule::UrlPath(path)) => return url_path(&cx.field("url_path"), path),
        Some(Rule::DestinationIp(range)) => {
            let (address, length) = cx.field("destination_ip").cidr(range)?;
            return Some(Condition::DestinationIp(Network::new(address, length)));
        }
        Some(Rule::DestinationPort(port)) => {
            return match u16::try_from(port) {
                Ok(port) => Some(Condition::DestinationPort(port..=port)),
                Err(_) => {
                    cx.field("destination_port")
                        .error("value must be less than or equal to 65535");
                    None
                }
            };
        }
        Some(Rule::DestinationPortRange(range)) => {
            return port_range(&cx.field("destination_port_range"), range)
                .map(Condition::DestinationPort);
        }
        Some(Rule::NotRule(inner)) => {
            let inner = permission(&cx.field("not_rule"), *inner)?;
            return Some(Condition::Not(Box::new(inner)));
        }
        Some(Rule::RequestedServerName(matcher)) => {
            return string_matcher(&cx.field("requested_server_name"), matcher)
                .map(Condition::ServerName);
        }
        Some(Rule::Metadata(_)) => "metadata",
        Some(Rule::Matcher(_)) => "matcher",
        Some(Rule::UriTemplate(_)) => "uri_template",
        Some(Rule::SourcedMetadata(_)) => "sourced_metadata",
        None => {
            cx.field("rule").error("value is required");
            return None;
        }
    };
    cx.field(refused).error("not supported");
    None
}

fn permissions(cx: &Cx<'_>, set: permission::Set) -> Option<Box<[Condition]>> {
    cx.converts::<permission::Set>();
    let permission::Set { rules } = set;
    list(&cx.field("rules"), rules, permission)
}

fn principal(cx: &Cx<'_>, proto: Principal) -> Option<Condition> {
    cx.converts::<Principal>();
    cx.refuses::<Principal>(&["metadata", "filter_state", "sourced_metadata", "custom"]);
    let Principal { identifier } = proto;
    let network = |field, range| {
        let (address, length) = cx.field(field).cidr(range)?;
        Some(Network::new(address, length))
    };
    #[expect(deprecated, reason = "Envoy still accepts source_ip")]
    let refused = match identifier {
        Some(Identifier::AndIds(set)) => {
            return principals(&cx.field("and_ids"), set).map(Condition::All);
        }
        Some(Identifier::OrIds(set)) => {
            return principals(&cx.field("or_ids"), set).map(Condition::OneOf);
        }
        Some(Identifier::Any(any)) => return is_any(cx, any),
        Some(Identifier::Authenticated(proto)) => {
            return authenticated(&cx.field("authenticated"), proto);
        }
        Some(Identifier::SourceIp(range)) => {
            return network("source_ip", range).map(Condition::DirectRemoteIp);
        }
        Some(Identifier::DirectRemoteIp(range)) => {
            return network("direct_remote_ip", range).map(Condition::DirectRemoteIp);
        }
        Some(Identifier::RemoteIp(range)) => {
            return network("remote_ip", range).map(Condition::RemoteIp);
        }
        Some(Identifier::Header(matcher)) => {
            let matcher = header_matcher(&cx.field("header"), matcher)?;
            return Some(Condition::Header(Box::new(matcher)));
        }
        Some(Identifier::UrlPath(path)) => return url_path(&cx.field("url_path"), path),
        Some(Identifier::NotId(inner)) => {
            let inner = principal(&cx.field("not_id"), *inner)?;
            return Some(Condition::Not(Box::new(inner)));
        }
        Some(Identifier::Metadata(_)) => "metadata",
        Some(Identifier::FilterState(_)) => "filter_state",
        Some(Identifier::SourcedMetadata(_)) => "sourced_metadata",
        Some(Identifier::Custom(_)) => "custom",
        None => {
            cx.field("identifier").error("value is required");
            return None;
        }
    };
    cx.field(refused).error("not supported");
    None
}

fn principals(cx: &Cx<'_>, set: principal::Set) -> Option<Box<[Condition]>> {
    cx.converts::<principal::Set>();
    let principal::Set { ids } = set;
    list(&cx.field("ids"), ids, principal)
}

/// Whatever name is asked for: there is no TLS, so that no peer has one. It is read to find its errors.
fn authenticated(cx: &Cx<'_>, proto: Authenticated) -> Option<Condition> {
    cx.converts::<Authenticated>();
    cx.partly::<Authenticated>(
        "principal_name",
        "never matches, as in Envoy on a connection without TLS",
    );
    let Authenticated { principal_name } = proto;
    if let Some(matcher) = principal_name {
        string_matcher(&cx.field("principal_name"), matcher)?;
    }
    Some(Condition::Authenticated)
}

fn is_any(cx: &Cx<'_>, any: bool) -> Option<Condition> {
    if !any {
        cx.field("any").error("value must equal true");
        return None;
    }
    Some(Condition::Any)
}

fn url_path(cx: &Cx<'_>, proto: PathMatcher) -> Option<Condition> {
    cx.converts::<PathMatcher>();
    let PathMatcher { rule } = proto;
    match rule {
        Some(path_matcher::Rule::Path(matcher)) => {
            string_matcher(&cx.field("path"), matcher).map(Condition::Path)
        }
        None => {
            cx.field("rule").error("value is required");
            None
        }
    }
}

/// `[start, end)`
fn port_range(cx: &Cx<'_>, range: Int32Range) -> Option<RangeInclusive<u16>> {
    cx.converts::<Int32Range>();
    let Int32Range { start, end } = range;
    let last = end.checked_sub(1).and_then(|last| u16::try_from(last).ok());
    match (u16::try_from(start), last) {
        (Ok(first), Some(last)) if first <= last => Some(first..=last),
        _ => {
            cx.error(format!(
                "[{start}, {end}) is not a range of ports: 0 <= start < end <= 65536"
            ));
            None
        }
    }
}
