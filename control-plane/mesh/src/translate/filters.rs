//! HTTP filters: the same chain for every sidecar, in which each is switched off, and the settings
//! that switch one on for a virtual host, a route or a backend.
//!
//! So a policy changes routes, never a listener. What a proxy does not know in the chain it may leave out;
//! a setting that asks for it is then refused by its path. Only bulkheads are left out silently by
//! Envoy, which has no such thing, and the status of the object says so.

use std::collections::{BTreeMap, HashMap};

use outrigger_proto::{
    envoy::{
        config::{core::v3 as core, route::v3 as api},
        extensions::{
            common::ratelimit::v3::XRateLimitHeadersRfcVersion,
            filters::{
                common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
                http::{
                    cors::v3::{Cors as CorsFilter, CorsPolicy},
                    fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
                    local_ratelimit::v3::LocalRateLimit,
                    router::v3::Router,
                },
                network::http_connection_manager::v3 as hcm,
            },
        },
        r#type::v3::{FractionalPercent, HttpStatus, TokenBucket, fractional_percent},
    },
    google::protobuf::Any,
    outrigger::extensions::filters::http::bulkhead::v1alpha1 as own,
};

use super::{matcher, wire};
use crate::{
    model::{
        Cors, Model, NamespacedName, Rule,
        policy::{
            Abort, BulkheadSpec, Delay, FaultSpec, PerCaller, Percent, Policy, PriorityLanes,
            RateLimitSpec, RefusalSpec,
        },
    },
    resolve::ServiceAddress,
};

const ROUTER: &str = "envoy.filters.http.router";
const CORS: &str = "envoy.filters.http.cors";
const RATE_LIMIT: &str = "envoy.filters.http.local_ratelimit";
const FAULT: &str = "envoy.filters.http.fault";
/// Bulkheads of Services.
const BULKHEAD: &str = "outrigger.filters.http.bulkhead";
/// Bulkheads of HTTPRoutes: a request may have to pass one of each.
const ROUTE_BULKHEAD: &str = "outrigger.filters.http.bulkhead.route";

/// Settings by the filter's name in the chain.
pub(super) type Settings = BTreeMap<&'static str, Any>;

/// The chain of calls that leave. Preflight requests cost nothing of a limit; what is over a limit
/// takes no place in a bulkhead; a delay on purpose takes one, as a slow service would.
pub(super) fn outbound() -> Vec<hcm::HttpFilter> {
    vec![
        switched_off(CORS, wire::any(&CorsFilter {})),
        rate_limit_filter(),
        bulkhead_filter(ROUTE_BULKHEAD),
        bulkhead_filter(BULKHEAD),
        switched_off(FAULT, wire::any(&HttpFault::default())),
        router(),
    ]
}

/// The chain of requests that arrive for the workload.
pub(super) fn inbound() -> Vec<hcm::HttpFilter> {
    vec![rate_limit_filter(), bulkhead_filter(BULKHEAD), router()]
}

fn router() -> hcm::HttpFilter {
    hcm::HttpFilter {
        disabled: false,
        is_optional: false,
        ..switched_off(ROUTER, wire::any(&Router::default()))
    }
}

fn rate_limit_filter() -> hcm::HttpFilter {
    let config = LocalRateLimit {
        stat_prefix: "mesh".to_owned(),
        ..Default::default()
    };
    switched_off(RATE_LIMIT, wire::any(&config))
}

fn bulkhead_filter(name: &str) -> hcm::HttpFilter {
    let config = own::Bulkhead {
        stat_prefix: "mesh".to_owned(),
        max_concurrent: 1,
        ..Default::default()
    };
    switched_off(name, wire::any(&config))
}

fn switched_off(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        is_optional: true,
        disabled: true,
    }
}

/// What policies of a port say to its callers' sidecars.
pub(super) fn of_port(model: &Model, port: &ServiceAddress) -> Settings {
    let policies = model.policies();
    let mut settings = Settings::new();
    let mut bulkheads = policies.bulkheads.of_port(port);
    if let Some(policy) = bulkheads.find(|policy| policy.spec.side.is_client()) {
        settings.insert(BULKHEAD, bulkhead(policy));
    }
    let mut limits = policies.rate_limits.of_port(port);
    if let Some(policy) = limits.find(|policy| policy.spec.side.is_client()) {
        settings.insert(RATE_LIMIT, rate_limit(policy));
    }
    if let Some(policy) = policies.faults.of_port(port).next() {
        settings.insert(FAULT, fault(policy));
    }
    settings
}

/// What policies of a rule, and the rule itself, say.
pub(super) fn of_rule(model: &Model, route: &NamespacedName, rule: &Rule) -> Settings {
    let policies = model.policies();
    let mut settings = Settings::new();
    if let Some(cors) = &rule.filters.cors {
        settings.insert(CORS, wire::any(&cors_policy(cors)));
    }
    if let Some(policy) = policies.bulkheads.of_rule(route, rule).next() {
        settings.insert(ROUTE_BULKHEAD, bulkhead(policy));
    }
    if let Some(policy) = policies.rate_limits.of_rule(route, rule).next() {
        settings.insert(RATE_LIMIT, rate_limit(policy));
    }
    if let Some(policy) = policies.faults.of_rule(route, rule).next() {
        settings.insert(FAULT, fault(policy));
    }
    settings
}

/// What policies of these ports say to the sidecars of the workload behind them, the closest
/// first.
pub(super) fn of_inbound(model: &Model, ports: &[ServiceAddress]) -> Settings {
    let policies = model.policies();
    let mut settings = Settings::new();
    let mut bulkheads = ports
        .iter()
        .flat_map(|port| policies.bulkheads.of_port(port));
    if let Some(policy) = bulkheads.find(|policy| policy.spec.side.is_server()) {
        settings.insert(BULKHEAD, bulkhead(policy));
    }
    let mut limits = ports
        .iter()
        .flat_map(|port| policies.rate_limits.of_port(port));
    if let Some(policy) = limits.find(|policy| policy.spec.side.is_server()) {
        settings.insert(RATE_LIMIT, rate_limit(policy));
    }
    settings
}

/// As messages have them. Equal settings must be encoded equally, in every process, so that
/// nothing is sent that has not changed: a hash map is made until its order is that of the names,
/// which takes few tries for so few.
pub(super) fn in_order(settings: &Settings) -> HashMap<String, Any> {
    let entries = || {
        settings
            .iter()
            .map(|(name, config)| ((*name).to_owned(), config.clone()))
    };
    let mut map: HashMap<String, Any> = entries().collect();
    for _ in 0..10_000 {
        if map.keys().is_sorted() {
            break;
        }
        map = entries().collect();
    }
    map
}

fn bulkhead(policy: &Policy<BulkheadSpec>) -> Any {
    let BulkheadSpec {
        target_refs: _,
        max_concurrent,
        max_queued,
        queue_timeout,
        per_caller,
        priority,
        side: _,
    } = &policy.spec;
    let default = PerCaller::default();
    let PerCaller {
        header,
        source_address,
        identity,
        max_concurrent: own_share,
        max_tracked,
    } = per_caller.as_ref().unwrap_or(&default);
    let key = match (header, source_address, identity) {
        (Some(header), _, _) => Some(own::bulkhead::Key::CallerHeader(
            header.to_ascii_lowercase(),
        )),
        (_, Some(true), _) => Some(own::bulkhead::Key::CallerSourceAddress(true)),
        (_, _, Some(true)) => Some(own::bulkhead::Key::CallerIdentity(true)),
        _ => None,
    };
    let lanes = |priority: &PriorityLanes| {
        let PriorityLanes {
            header,
            lanes,
            default_lane,
        } = priority;
        own::PriorityLanes {
            header: header.to_ascii_lowercase(),
            lanes: lanes.clone().into_iter().collect(),
            default_lane: *default_lane,
        }
    };
    let message = own::Bulkhead {
        stat_prefix: format!("{}.{}", policy.id.namespace, policy.id.name),
        origin: policy.reference().to_string(),
        max_concurrent: *max_concurrent,
        max_queued: *max_queued,
        queue_timeout: queue_timeout.map(|timeout| wire::duration(timeout.0)),
        key,
        max_concurrent_per_caller: own_share.unwrap_or_default(),
        max_tracked_callers: max_tracked.unwrap_or_default(),
        priority: priority.as_ref().map(lanes),
        cluster: String::new(),
    };
    let setting = own::BulkheadPerRoute {
        r#override: Some(own::bulkhead_per_route::Override::Bulkhead(message)),
    };
    // Envoy leaves out what it does not know only if it is told so.
    wire::any(&api::FilterConfig {
        config: Some(wire::any(&setting)),
        is_optional: true,
        disabled: false,
    })
}

fn rate_limit(policy: &Policy<RateLimitSpec>) -> Any {
    let RateLimitSpec {
        target_refs: _,
        requests,
        per,
        burst,
        response:
            RefusalSpec {
                status,
                headers,
                rate_limit_headers,
            },
        side: _,
    } = &policy.spec;
    let headers = headers.iter().map(|header| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: header.name.clone(),
            // Values are format strings to the proxy.
            value: header.value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    });
    let version = if *rate_limit_headers {
        XRateLimitHeadersRfcVersion::DraftVersion03
    } else {
        XRateLimitHeadersRfcVersion::Off
    };
    let always = || {
        Some(core::RuntimeFractionalPercent {
            default_value: Some(hundred_percent()),
            ..Default::default()
        })
    };
    wire::any(&LocalRateLimit {
        // Our proxy's reasons show it.
        stat_prefix: policy.reference().to_string(),
        status: status.map(|status| HttpStatus {
            code: i32::from(status),
        }),
        token_bucket: Some(TokenBucket {
            max_tokens: burst.unwrap_or(*requests),
            tokens_per_fill: Some(wire::number(*requests)),
            fill_interval: Some(wire::duration(per.0)),
        }),
        filter_enabled: always(),
        filter_enforced: always(),
        response_headers_to_add: headers.collect(),
        enable_x_ratelimit_headers: version.into(),
        ..Default::default()
    })
}

fn hundred_percent() -> FractionalPercent {
    FractionalPercent {
        numerator: 100,
        denominator: fractional_percent::DenominatorType::Hundred.into(),
    }
}

fn fault(policy: &Policy<FaultSpec>) -> Any {
    let FaultSpec {
        target_refs: _,
        ttl: _,
        delay,
        abort,
        headers,
        max_active,
        life: _,
    } = &policy.spec;
    let delay = delay
        .as_ref()
        .map(|Delay { duration, percent }| FaultDelay {
            percentage: Some(millionths(*percent)),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(wire::duration(duration.0))),
        });
    let abort = abort.as_ref().map(|abort| {
        let Abort {
            http_status,
            grpc_status,
            percent,
        } = abort;
        let http = http_status.map(|status| ErrorType::HttpStatus(u32::from(status)));
        FaultAbort {
            percentage: Some(millionths(*percent)),
            error_type: http.or_else(|| grpc_status.map(ErrorType::GrpcStatus)),
            ..Default::default()
        }
    });
    wire::any(&HttpFault {
        delay,
        abort,
        headers: headers.iter().map(matcher::policy_header).collect(),
        max_active_faults: max_active.map(wire::number),
        filter_metadata: Some(wire::origin_fields(&policy.reference().to_string())),
        ..Default::default()
    })
}

fn millionths(percent: Percent) -> FractionalPercent {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a percentage is in 0..100"
    )]
    let numerator = (percent.0 * 10_000.0).round() as u32;
    FractionalPercent {
        numerator,
        denominator: fractional_percent::DenominatorType::Million.into(),
    }
}

fn cors_policy(cors: &Cors) -> CorsPolicy {
    let Cors {
        allow_origins,
        allow_methods,
        allow_headers,
        expose_headers,
        allow_credentials,
        max_age,
    } = cors;
    CorsPolicy {
        allow_origin_string_match: allow_origins.iter().map(|o| matcher::origin(o)).collect(),
        allow_methods: allow_methods.join(","),
        allow_headers: allow_headers.join(","),
        expose_headers: expose_headers.join(","),
        allow_credentials: allow_credentials.then(|| wire::boolean(true)),
        max_age: max_age.to_string(),
        ..Default::default()
    }
}
