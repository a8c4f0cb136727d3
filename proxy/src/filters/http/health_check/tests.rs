//! Conversion; what the filter does is shown beside Envoy.

use super::Mode;
use crate::filters::http::{Config, testing};

const CHECK: &str = "type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck";

#[test]
fn checks_are_refused_by_path() {
    let found = testing::errors(&format!(
        r#"{{"@type": {CHECK}, pass_through_mode: false, cache_time: 1s}}"#
    ));
    testing::assert_says(
        &found,
        &["cache_time: cache_time_ms must not be set when path_through_mode is disabled"],
    );
    let found = testing::errors(&format!(
        r#"{{"@type": {CHECK}, pass_through_mode: true, cluster_min_healthy_percentages: {{a: {{value: 1}}}}}}"#
    ));
    testing::assert_says(
        &found,
        &["cluster_min_healthy_percentages: has no effect in pass-through mode"],
    );
    let found = testing::errors(&format!(r#"{{"@type": {CHECK}}}"#));
    assert!(
        found
            .iter()
            .any(|error| error.starts_with("pass_through_mode: ")),
        "{found:#?}"
    );
    let found = testing::route_errors(&format!(r#"{{"@type": {CHECK}, pass_through_mode: true}}"#));
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn percentages_are_whole_and_in_order() {
    let config = testing::config(&format!(
        r#"{{"@type": {CHECK}, pass_through_mode: false,
            cluster_min_healthy_percentages: {{b: {{value: 12.9}}, a: {{value: 100}}}}}}"#
    ));
    let Config::HealthCheck(check) = config else {
        panic!("{config:?}");
    };
    let Mode::Own(clusters) = &check.mode else {
        panic!("{check:?}");
    };
    let clusters: Vec<_> = clusters.iter().map(|(name, min)| (&**name, *min)).collect();
    assert_eq!(clusters, [("a", 100), ("b", 12)]);
}
