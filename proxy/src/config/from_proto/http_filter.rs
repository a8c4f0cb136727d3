//! `HttpFilter`s of a connection manager, and `typed_per_filter_config`.

use std::{collections::HashMap, sync::Arc};

use outrigger_proto::{
    envoy::{
        config::route::v3::{CorsPolicy, FilterConfig},
        extensions::filters::network::http_connection_manager::v3::{
            HttpFilter as FilterProto, http_filter,
        },
    },
    google::protobuf::Any,
};
use prost::Name;

use crate::{
    config::{
        http_connection_manager::HttpFilter,
        per_filter::{PerFilterConfigs, Setting},
        route::{Action, ClusterSpecifier, RouteConfiguration},
    },
    convert::Cx,
    filters::http::{Config, RouteConfig, cors},
};

/// Converts a chain; `router` checks the message of the filter that ends it.
pub(super) fn chain(
    cx: &Cx<'_>,
    filters: Vec<FilterProto>,
    router: impl Fn(&Cx<'_>, &Any) -> Option<()>,
) -> Vec<HttpFilter> {
    let last = filters.len().saturating_sub(1);
    let mut converted = Vec::with_capacity(filters.len());
    let mut has_terminal = false;
    for (index, filter) in filters.into_iter().enumerate() {
        let cx = cx.index(index);
        cx.converts::<FilterProto>();
        cx.refuses::<FilterProto>(&["config_discovery"]);
        let FilterProto {
            name,
            is_optional,
            disabled,
            config_type,
        } = filter;
        let name = cx.non_empty("name", &name);
        let any = match config_type {
            Some(http_filter::ConfigType::TypedConfig(any)) => any,
            Some(http_filter::ConfigType::ConfigDiscovery(_)) => {
                cx.field("config_discovery").error("not supported");
                continue;
            }
            None => {
                cx.field("typed_config").error("value is required");
                continue;
            }
        };
        let at = cx.field("typed_config");
        let config = if router(&at, &any).is_some() {
            if disabled {
                cx.field("disabled").error("the router can't be disabled");
            }
            if index != last {
                cx.error(format!(
                    "terminal filter `{name}` must be the last filter in the chain"
                ));
            }
            has_terminal = true;
            Some(Config::Router)
        } else if let Some(config) = Config::from_any(&at, &any) {
            config
        } else {
            // `is_optional` asks to go on without a filter that is not known; it is not silent:
            // the warning is logged and /config_dump shows the chain without it.
            if is_optional {
                ::tracing::warn!(path = %at, type_url = any.type_url, "optional HTTP filter is not supported and left out");
            } else {
                at.error(format!("`{}` is not a supported HTTP filter", any.type_url));
            }
            None
        };
        converted.extend(config.map(|config| HttpFilter {
            name,
            is_disabled: disabled,
            config,
        }));
    }
    if !has_terminal {
        cx.error("the last HTTP filter must be the router");
    }
    converted
}

/// `typed_per_filter_config` of one level. As in Envoy, the message's type says whose setting it is,
/// and a name that is not in the chain is nobody's.
pub(super) fn per_filter(cx: &Cx<'_>, configs: HashMap<String, Any>) -> PerFilterConfigs {
    let cx = cx.field("typed_per_filter_config");
    let mut configs: Vec<_> = configs.into_iter().collect();
    configs.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let converted = configs
        .into_iter()
        .filter_map(|(name, any)| Some((Arc::from(&*name), setting(&cx.key(&name), &name, &any)?)));
    PerFilterConfigs(converted.collect())
}

/// Adds the deprecated `cors` field of a route or virtual host.
pub(super) fn with_cors(
    cx: &Cx<'_>,
    mut configs: PerFilterConfigs,
    policy: Option<CorsPolicy>,
) -> PerFilterConfigs {
    if let Some(policy) = policy {
        let policy = Arc::new(cors::legacy(&cx.field("cors"), policy));
        let setting = Setting::Config(RouteConfig::Cors(policy));
        configs.0.push((Arc::from(cors::LEGACY_NAME), setting));
    }
    configs
}

fn setting(cx: &Cx<'_>, name: &str, any: &Any) -> Option<Setting> {
    if any.type_url != FilterConfig::type_url() {
        return route_config(cx, any, false);
    }
    cx.converts::<FilterConfig>();
    let FilterConfig {
        config,
        is_optional,
        disabled,
    } = cx.any::<FilterConfig>(any)?;
    if disabled {
        return Some(Setting::Disabled);
    }
    match config {
        // Envoy demands the field: an empty message in it says `enabled`.
        None => {
            cx.error(format!(
                "Empty route/virtual host per filter configuration for {name} filter"
            ));
            None
        }
        Some(config) if config.type_url.is_empty() => Some(Setting::Enabled),
        Some(config) => route_config(&cx.field("config"), &config, is_optional),
    }
}

fn route_config(cx: &Cx<'_>, any: &Any, is_optional: bool) -> Option<Setting> {
    match RouteConfig::from_any(cx, any) {
        Some(config) => config.map(Setting::Config),
        None if is_optional => {
            ::tracing::warn!(path = %cx, type_url = any.type_url, "optional per-route setting is not supported and left out");
            Some(Setting::Enabled)
        }
        None => {
            cx.error(format!(
                "`{}` is not a supported per-route setting of an HTTP filter",
                any.type_url
            ));
            None
        }
    }
}

/// Refuses settings under the name of a filter of another type. Envoy ignores them; where chain and
/// routes are in one message, we know better.
pub(super) fn check_settings(cx: &Cx<'_>, filters: &[HttpFilter], routes: &RouteConfiguration) {
    let check = |cx: &Cx<'_>, settings: &PerFilterConfigs| {
        let cx = cx.field("typed_per_filter_config");
        for (name, setting) in settings.iter() {
            let Setting::Config(config) = setting else {
                continue;
            };
            let mut named = filters.iter().filter(|filter| &*filter.name == name);
            if named.any(|filter| !config.is_for(&filter.config)) {
                cx.key(name)
                    .error("is the setting of a filter of another type than the one of this name");
            }
        }
    };
    check(cx, &routes.per_filter);
    let hosts = cx.field("virtual_hosts");
    for (index, host) in routes.virtual_hosts.iter().enumerate() {
        let cx = hosts.index(index);
        check(&cx, &host.per_filter);
        let routes = cx.field("routes");
        for (index, route) in host.routes.iter().enumerate() {
            let cx = routes.index(index);
            check(&cx, &route.per_filter);
            let Action::Forward(forward) = &route.action else {
                continue;
            };
            let ClusterSpecifier::Weighted(weighted) = &forward.cluster else {
                continue;
            };
            let action = cx.field("route");
            let weighted_cx = action.field("weighted_clusters");
            let clusters = weighted_cx.field("clusters");
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                check(&clusters.index(index), &cluster.per_filter);
            }
        }
    }
}
