//! The registry, and settings of several levels.

use std::sync::Arc;

use super::{Overrides, RouteBuild, overrides::NameId, testing};
use crate::{
    config::per_filter::{PerFilterConfigs, Setting},
    telemetry::stats::Registry,
};

const PER_ROUTE: &str = r#"{"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute}"#;
const WRAPPER: &str = r#""@type": type.googleapis.com/envoy.config.route.v3.FilterConfig"#;

fn level(settings: &[(&str, Setting)]) -> PerFilterConfigs {
    PerFilterConfigs(
        settings
            .iter()
            .map(|(name, setting)| (Arc::from(*name), setting.clone()))
            .collect(),
    )
}

#[test]
fn levels_inherit_and_the_most_specific_switch_counts() {
    let registry = Registry::new(1);
    let build = RouteBuild {
        registry: &registry,
    };
    let config = Setting::Config(testing::route_config(PER_ROUTE));
    let top = Overrides::below(
        None,
        &level(&[("a", config.clone()), ("b", Setting::Disabled)]),
        build,
    );
    let same = Overrides::below(top.as_ref(), &level(&[]), build);
    assert!(Arc::ptr_eq(top.as_ref().unwrap(), same.as_ref().unwrap()));
    let route = Overrides::below(
        same.as_ref(),
        &level(&[
            ("a", config),
            ("b", Setting::Enabled),
            ("c", Setting::Disabled),
        ]),
        build,
    )
    .unwrap();
    let of = |name| {
        route
            .of(NameId::of(name))
            .map(|(off, all)| (off, all.len()))
    };
    assert_eq!(of("a"), Some((false, 2)));
    assert_eq!(of("b"), Some((false, 0)));
    assert_eq!(of("c"), Some((true, 0)));
    assert_eq!(of("d"), None);
    assert!(Overrides::below(None, &level(&[]), build).is_none());
}

#[test]
fn the_wrapper_disables_enables_or_holds_settings() {
    let errors = |rest: &str| testing::route_errors(&format!("{{{WRAPPER}{rest}}}"));
    assert!(errors(", disabled: true").is_empty());
    assert!(errors(", config: {}").is_empty());
    assert!(errors(&format!(", config: {PER_ROUTE}")).is_empty());
    testing::assert_says(
        &errors(""),
        &["Empty route/virtual host per filter configuration for f filter"],
    );
    let unknown = r#"{"@type": type.googleapis.com/envoy.extensions.filters.http.csrf.v3.CsrfPolicy, filter_enabled: {default_value: {}}}"#;
    testing::assert_says(
        &errors(&format!(", config: {unknown}")),
        &[
            "config: `type.googleapis.com/envoy.extensions.filters.http.csrf.v3.CsrfPolicy` is not a supported per-route setting",
        ],
    );
    assert!(errors(&format!(", is_optional: true, config: {unknown}")).is_empty());
}
