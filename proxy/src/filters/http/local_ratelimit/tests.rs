//! Conversion; what the filter does is shown beside Envoy.

use std::time::Duration;

use crate::filters::http::{Config, testing};

const LIMIT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

#[test]
fn limits_are_refused_by_path() {
    let found = testing::errors(&format!(
        r#"{{"@type": {LIMIT}, token_bucket: {{max_tokens: 1, tokens_per_fill: 0, fill_interval: 0.01s}},
            descriptors: [{{entries: [{{key: a}}], token_bucket: {{max_tokens: 1, fill_interval: 1s}}}}],
            rate_limits: [{{actions: [{{remote_address: {{}}}}]}}],
            local_cluster_rate_limit: {{}}, response_headers_to_add: [{{header: {{key: ":status", value: a}}}}]}}"#
    ));
    for expected in [
        "stat_prefix: ",
        "token_bucket.tokens_per_fill: ",
        "token_bucket.fill_interval: local rate limit token bucket fill timer must be >= 50ms",
        "descriptors: not supported",
        "rate_limits: not supported",
        "local_cluster_rate_limit: not supported",
        "response_headers_to_add[0].header.key: ",
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(expected)),
            "{expected}: {found:#?}"
        );
    }
    let found = testing::route_errors(&format!(r#"{{"@type": {LIMIT}, stat_prefix: a}}"#));
    testing::assert_says(
        &found,
        &["token_bucket: local rate limit token bucket must be set for per filter configs"],
    );
}

#[test]
fn limits_are_read() {
    let config = testing::config(&format!(
        r#"{{"@type": {LIMIT}, stat_prefix: a, status: {{code: 200}},
            token_bucket: {{max_tokens: 7, fill_interval: 2s}}}}"#
    ));
    let Config::LocalRatelimit(limit) = config else {
        panic!("{config:?}");
    };
    assert_eq!(limit.status, 429);
    let bucket = limit.bucket.unwrap();
    assert_eq!((bucket.max_tokens, bucket.tokens_per_fill), (7, 1));
    assert_eq!(bucket.fill_interval, Duration::from_secs(2));
    assert!(limit.enabled.is_none() && limit.enforced.is_none() && !limit.is_per_connection);
}
