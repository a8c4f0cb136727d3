//! Conversion; what the filter does is shown beside Envoy.

use crate::filters::http::testing;

const POLICY: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";

#[test]
fn policies_are_read_or_refused_by_path() {
    let found = testing::route_errors(&format!(
        r#"{{"@type": {POLICY}, allow_origin_string_match: [{{}}, {{safe_regex: {{regex: "("}}}}],
            allow_methods: "a\nb", filter_enabled: {{}}}}"#
    ));
    testing::assert_says(
        &found,
        &[
            "allow_origin_string_match[0].match_pattern: value is required",
            "allow_origin_string_match[1].safe_regex.regex: ",
            "allow_methods: ",
            "filter_enabled.default_value: value is required",
        ],
    );
    let config = testing::route_config(&format!(
        r#"{{"@type": {POLICY}, allow_origin_string_match: [{{exact: "*"}}], max_age: "5",
            allow_credentials: false, shadow_enabled: {{default_value: {{numerator: 7, denominator: MILLION}}}}}}"#
    ));
    let crate::filters::http::RouteConfig::Cors(policy) = config else {
        panic!("{config:?}");
    };
    assert_eq!(policy.max_age.as_ref().unwrap(), "5");
    assert_eq!(policy.allow_credentials, Some(false));
    assert_eq!(policy.shadow_enabled.unwrap().denominator, 1_000_000);
    assert!(policy.filter_enabled.is_none() && policy.allow_methods.is_none());
}

#[test]
fn the_filter_itself_has_no_settings() {
    let cors = r#"{"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}"#;
    assert!(testing::errors(cors).is_empty());
    let wrong = testing::route_errors(cors);
    testing::assert_says(
        &wrong,
        &[&format!(
            "per-route settings of this filter are a `{POLICY}`"
        )],
    );
}
