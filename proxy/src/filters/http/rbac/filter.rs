//! Allows and denies, and counts it.

use std::sync::{Arc, OnceLock};

use http::{StatusCode, request::Parts};

use super::{
    config::{Action, Config, Rules},
    rules::{Decision, Request, decide},
};
use crate::{
    filters::http::{FilterBuild, FilterCx, Flow, HttpFilter, RouteBuild},
    http::{LocalReply, StreamCx},
    router::matcher::View,
    telemetry::stats::{Counter, Scope},
};

/// The filter of a connection manager.
#[derive(Debug)]
pub struct Filter {
    config: Arc<Config>,
    enforced: Stats,
    shadow: Stats,
    policies: PolicyStats,
}

/// The run-time object of a per-route setting. Its policies are counted in the scope of the filter.
#[derive(Debug)]
pub struct Route {
    config: Arc<Config>,
    /// For the first connection manager that came here: nearly always the only one.
    policies: OnceLock<PolicyStats>,
}

/// Counters of all rules of one kind.
#[derive(Debug)]
struct Stats {
    scope: Scope,
    allowed: Counter,
    denied: Counter,
}

/// Counters of each policy, where they are wanted.
#[derive(Debug, Default)]
struct PolicyStats {
    /// The scopes of the filter that they belong to.
    scopes: [Arc<str>; 2],
    enforced: Box<[Counter]>,
    shadow: Box<[Counter]>,
}

impl Filter {
    /// Built when its listener is.
    #[must_use]
    pub fn new(config: &Arc<Config>, build: FilterBuild<'_>) -> Self {
        let scope = build.registry.scope(build.scope).scope("rbac");
        let enforced = Stats::new(scope.scope(&config.rules_stat_prefix), "");
        let shadow = Stats::new(scope.scope(&config.shadow_rules_stat_prefix), "shadow_");
        Self {
            policies: PolicyStats::new(config, &enforced, &shadow),
            config: Arc::clone(config),
            enforced,
            shadow,
        }
    }

    fn count_policy(&self, route: Option<&Route>, decision: &Decision<'_>, is_shadow: bool) {
        let Some((place, _)) = decision.policy else {
            return;
        };
        let make = |config| PolicyStats::new(config, &self.enforced, &self.shadow);
        let count = |stats: &PolicyStats| {
            if let Some(counter) = stats.of(is_shadow).get(place) {
                counter.inc();
            }
        };
        match route {
            None => count(&self.policies),
            Some(route) if !route.config.track_per_rule_stats => {}
            Some(route) => {
                let stats = route.policies.get_or_init(|| make(&route.config));
                if stats.is_for(&self.enforced, &self.shadow) {
                    count(stats);
                } else {
                    // A route table that several connection managers share.
                    count(&make(&route.config));
                }
            }
        }
    }
}

impl Route {
    /// Built when its route table is.
    #[must_use]
    pub fn new(config: &Arc<Config>, _: RouteBuild<'_>) -> Self {
        Self {
            config: Arc::clone(config),
            policies: OnceLock::new(),
        }
    }
}

impl Stats {
    fn new(scope: Scope, prefix: &str) -> Self {
        Self {
            allowed: scope.counter(&format!("{prefix}allowed")),
            denied: scope.counter(&format!("{prefix}denied")),
            scope,
        }
    }

    fn count(&self, is_allowed: bool) {
        if is_allowed {
            self.allowed.inc();
        } else {
            self.denied.inc();
        }
    }
}

impl PolicyStats {
    fn new(config: &Config, enforced: &Stats, shadow: &Stats) -> Self {
        if !config.track_per_rule_stats {
            return Self::default();
        }
        let counters = |rules: &Option<Arc<Rules>>, stats: &Stats, prefix: &str| {
            rules
                .iter()
                .flat_map(|rules| {
                    // What a match means is known before.
                    let verdict = match rules.action {
                        Action::Allow | Action::Log => "allowed",
                        Action::Deny => "denied",
                    };
                    let name = move |policy: &str| format!("policy.{policy}.{prefix}{verdict}");
                    rules
                        .policies
                        .iter()
                        .map(move |policy| stats.scope.counter(&name(&policy.name)))
                })
                .collect()
        };
        Self {
            scopes: [enforced, shadow].map(|stats| stats.scope.prefix().into()),
            enforced: counters(&config.rules, enforced, ""),
            shadow: counters(&config.shadow_rules, shadow, "shadow_"),
        }
    }

    fn of(&self, is_shadow: bool) -> &[Counter] {
        if is_shadow {
            &self.shadow
        } else {
            &self.enforced
        }
    }

    fn is_for(&self, enforced: &Stats, shadow: &Stats) -> bool {
        let [own_enforced, own_shadow] = &self.scopes;
        **own_enforced == *enforced.scope.prefix() && **own_shadow == *shadow.scope.prefix()
    }
}

impl HttpFilter for Filter {
    type State = ();
    type Route = Route;

    fn request_headers(&self, head: &mut Parts, cx: &mut FilterCx<'_, Self>) -> Flow {
        let route = cx.route();
        let config = route.map_or(&self.config, |route| &route.config);
        let stream = &*cx.stream;
        let request = Request {
            view: View::new(head, &stream.scheme),
            local: stream.info.connection.local,
            direct_remote: stream.info.connection.remote,
            remote: stream.info.downstream_remote,
        };
        if let Some(rules) = &config.shadow_rules {
            let decision = decide(rules, &request);
            self.shadow.count(decision.is_allowed);
            self.count_policy(route, &decision, true);
        }
        let Some(rules) = &config.rules else {
            return Flow::Continue;
        };
        let decision = decide(rules, &request);
        self.enforced.count(decision.is_allowed);
        self.count_policy(route, &decision, false);
        if decision.is_allowed {
            Flow::Continue
        } else {
            Flow::Reply(denial(stream, rules, &decision))
        }
    }
}

fn denial(stream: &StreamCx, rules: &Rules, decision: &Decision<'_>) -> LocalReply {
    let policy = decision.policy.map(|(_, policy)| &*policy.name);
    let shown = policy.unwrap_or("none").replace(
        |letter: char| letter.is_ascii_whitespace() || letter == '\u{b}',
        "_",
    );
    let rule = match policy {
        Some(policy) => format!("rbac policy \"{}\" denies it", policy.escape_default()),
        None => format!("none of {} rbac policies allows it", rules.policies.len()),
    };
    let origin = stream.matched.as_ref().map(|matched| &matched.route.origin);
    LocalReply::new(
        StatusCode::FORBIDDEN,
        "RBAC: access denied",
        format!("rbac_access_denied_matched_policy[{shown}]"),
    )
    .with_reason(match origin {
        Some(origin) => format!("{rule} ({origin})"),
        None => rule,
    })
}
