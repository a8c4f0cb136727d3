//! The messages of the filter.

use http::HeaderValue;
use outrigger_proto::{
    envoy::{
        config::{
            core::v3::RuntimeFractionalPercent,
            route::v3::{CorsPolicy as LegacyPolicy, cors_policy::EnabledSpecifier},
        },
        extensions::filters::http::cors::v3::{Cors, CorsPolicy},
        r#type::matcher::v3::StringMatcher as StringProto,
    },
    google::protobuf::BoolValue,
};

use crate::{
    config::{
        fraction::Fraction,
        from_proto::{fraction, matcher},
        matcher::StringMatcher,
    },
    convert::Cx,
    filters::http::FilterConfig,
};

/// Where the settings of the deprecated fields are kept among those by filter name.
pub const LEGACY_NAME: &str = "\0cors";

/// `Cors`: everything is set per route.
#[derive(Clone, Copy, Debug)]
pub struct Config;

/// `CorsPolicy`; what is not set comes from the next level above.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// One of them must match.
    pub allow_origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`
    pub allow_methods: Option<HeaderValue>,
    /// `access-control-allow-headers`
    pub allow_headers: Option<HeaderValue>,
    /// `access-control-expose-headers`
    pub expose_headers: Option<HeaderValue>,
    /// `access-control-max-age`
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials`
    pub allow_credentials: Option<bool>,
    /// Of how many requests; all by default.
    pub filter_enabled: Option<Fraction>,
    /// Of how many requests origins are only counted; none by default.
    pub shadow_enabled: Option<Fraction>,
    /// `access-control-allow-private-network`
    pub allow_private_network_access: Option<bool>,
    /// Preflight requests of other origins go upstream; they do by default.
    pub forward_not_matching_preflights: Option<bool>,
}

impl FilterConfig for Config {
    type Proto = Cors;
    type RouteProto = CorsPolicy;
    type RouteConfig = RouteConfig;

    fn from_proto(cx: &Cx<'_>, proto: Cors) -> Option<Self> {
        cx.converts::<Cors>();
        let Cors {} = proto;
        Some(Self)
    }

    fn route_from_proto(cx: &Cx<'_>, proto: CorsPolicy) -> Option<RouteConfig> {
        cx.converts::<CorsPolicy>();
        let CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        } = proto;
        let policy = Policy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        };
        Some(policy.convert(cx))
    }
}

/// The deprecated field of a route or virtual host.
pub fn legacy(cx: &Cx<'_>, proto: LegacyPolicy) -> RouteConfig {
    cx.converts::<LegacyPolicy>();
    let LegacyPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
        enabled_specifier,
    } = proto;
    let policy = Policy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled: enabled_specifier.map(|EnabledSpecifier::FilterEnabled(fraction)| fraction),
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    };
    policy.convert(cx)
}

/// What both messages have.
struct Policy {
    allow_origin_string_match: Vec<StringProto>,
    allow_methods: String,
    allow_headers: String,
    expose_headers: String,
    max_age: String,
    allow_credentials: Option<BoolValue>,
    filter_enabled: Option<RuntimeFractionalPercent>,
    shadow_enabled: Option<RuntimeFractionalPercent>,
    allow_private_network_access: Option<BoolValue>,
    forward_not_matching_preflights: Option<BoolValue>,
}

impl Policy {
    fn convert(self, cx: &Cx<'_>) -> RouteConfig {
        let text = |field: &str, value: &str| {
            let value = (!value.is_empty()).then_some(value)?;
            cx.field(field).header_value(value)
        };
        let origins = cx.field("allow_origin_string_match");
        let bool = |value: Option<BoolValue>| value.map(|BoolValue { value }| value);
        RouteConfig {
            allow_origins: self
                .allow_origin_string_match
                .into_iter()
                .enumerate()
                .filter_map(|(index, proto)| matcher::string_matcher(&origins.index(index), proto))
                .collect(),
            allow_methods: text("allow_methods", &self.allow_methods),
            allow_headers: text("allow_headers", &self.allow_headers),
            expose_headers: text("expose_headers", &self.expose_headers),
            max_age: text("max_age", &self.max_age),
            allow_credentials: bool(self.allow_credentials),
            filter_enabled: fraction::runtime_fraction(cx, "filter_enabled", self.filter_enabled),
            shadow_enabled: fraction::runtime_fraction(cx, "shadow_enabled", self.shadow_enabled),
            allow_private_network_access: bool(self.allow_private_network_access),
            forward_not_matching_preflights: bool(self.forward_not_matching_preflights),
        }
    }
}
