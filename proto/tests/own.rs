//! Outrigger's own messages in text, in an `Any` and in validation.

use outrigger_proto::{
    any_to_value, decode_any,
    envoy::{
        config::cluster::v3::Cluster,
        extensions::filters::network::http_connection_manager::v3::{
            HttpFilter, http_filter::ConfigType,
        },
    },
    message_from_value,
    outrigger::extensions::{
        filters::http::bulkhead::v1alpha1::{Bulkhead, BulkheadPerRoute, bulkhead::Key},
        load_balancing_policies::peak_ewma::v1alpha1::PeakEwma,
    },
    parse_yaml, value_from_message,
};
use serde_json::{Value, json};

const BULKHEAD: &str =
    "type.googleapis.com/outrigger.extensions.filters.http.bulkhead.v1alpha1.Bulkhead";

fn errors(value: Value) -> Vec<String> {
    let Err(errors) = message_from_value::<Bulkhead>(value) else {
        panic!("it is accepted");
    };
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_filter_carries_a_bulkhead_as_it_carries_envoys_types() {
    let text = format!(
        "
name: outrigger.filters.http.bulkhead
typed_config:
  '@type': {BULKHEAD}
  stat_prefix: reviews
  max_concurrent: 100
  max_queued: 50
  queue_timeout: 0.250s
  callerHeader: x-caller
  priority:
    header: x-lane
    lanes: {{ batch: 7, live: 0 }}
    default_lane: 3
"
    );
    let filter: HttpFilter = message_from_value(parse_yaml(&text).unwrap()).unwrap();
    let Some(ConfigType::TypedConfig(any)) = filter.config_type else {
        panic!("no typed_config");
    };
    let bulkhead: Bulkhead = decode_any(&any).unwrap();
    assert_eq!(bulkhead.max_concurrent, 100);
    assert_eq!(bulkhead.queue_timeout.unwrap().nanos, 250_000_000);
    assert_eq!(bulkhead.key, Some(Key::CallerHeader("x-caller".to_owned())));
    let lanes = bulkhead.priority.unwrap().lanes;
    assert_eq!(
        lanes.into_iter().collect::<Vec<_>>(),
        [("batch".to_owned(), 7), ("live".to_owned(), 0)]
    );
    let value = any_to_value(&any);
    assert_eq!(value["@type"], BULKHEAD);
    assert_eq!(value["caller_header"], "x-caller");
}

#[test]
fn a_cluster_carries_peak_ewma_with_envoys_slow_start() {
    let value = json!({
        "name": "c",
        "load_balancing_policy": {"policies": [{"typed_extension_config": {
            "name": "outrigger.load_balancing_policies.peak_ewma",
            "typed_config": {
                "@type": "type.googleapis.com/outrigger.extensions.load_balancing_policies.peak_ewma.v1alpha1.PeakEwma",
                "decay_time": "5s",
                "choice_count": 3,
                "slow_start_config": {"slow_start_window": "10s"}
            }
        }}]}
    });
    let cluster: Cluster = message_from_value(value.clone()).unwrap();
    assert_eq!(value_from_message(&cluster).unwrap(), value);

    let policy =
        |value: Value| message_from_value::<PeakEwma>(value).map_err(|all| all[0].to_string());
    assert!(policy(json!({"choice_count": 2})).is_ok());
    assert_eq!(
        policy(json!({"choice_count": 1})).unwrap_err(),
        "choice_count: value must be greater than or equal to 2"
    );
    assert!(
        policy(json!({"decay_time": "0s"}))
            .unwrap_err()
            .starts_with("decay_time: ")
    );
    assert!(
        policy(json!({"default_rtt": "0s"}))
            .unwrap_err()
            .starts_with("default_rtt: ")
    );
}

#[test]
fn the_rules_of_our_own_messages_are_kept() {
    let found = errors(
        json!({"max_queued": 70000, "queue_timeout": "0s", "caller_source_address": false,
        "priority": {"lanes": {"a": 8}, "default_lane": 9}}),
    );
    let paths: Vec<_> = found
        .iter()
        .map(|error| error.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "stat_prefix",
            "max_concurrent",
            "max_queued",
            "queue_timeout",
            "caller_source_address",
            "priority.header",
            "priority.lanes[\"a\"]",
            "priority.default_lane",
        ],
        "{found:#?}"
    );
    let both = json!({"stat_prefix": "x", "max_concurrent": 1, "caller_header": "a", "caller_identity": true});
    assert_eq!(errors(both).len(), 1);
    assert!(message_from_value::<BulkheadPerRoute>(json!({})).is_err());
    assert!(message_from_value::<BulkheadPerRoute>(json!({"disabled": false})).is_err());
    assert!(message_from_value::<BulkheadPerRoute>(json!({"disabled": true})).is_ok());
}
