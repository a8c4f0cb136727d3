//! Input that nobody meant: it must give errors, never a panic or a hang.

use outrigger_proto::{
    any_to_value, decode_resource,
    envoy::config::{bootstrap::v3::Bootstrap, listener::v3::Listener},
    google::protobuf::Any,
    message_from_value, parse_yaml, validate, value_from_message,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Names that lead somewhere in a bootstrap, so that the walk gets deep.
fn name() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "@type",
        "value",
        "admin",
        "address",
        "socketAddress",
        "port_value",
        "static_resources",
        "listeners",
        "clusters",
        "filter_chains",
        "filters",
        "typed_config",
        "name",
        "metadata",
        "filter_metadata",
        "connect_timeout",
        "node",
        "layered_runtime",
        "layers",
        "static_layer",
        "load_assignment",
        "endpoints",
        "lb_policy",
        "dynamic_resources",
        "ads_config",
        "api_type",
    ];
    prop_oneof![8 => prop::sample::select(KNOWN).prop_map(str::to_owned), 1 => ".{0,8}"]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("1.5s")),
        Just(json!(
            "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap"
        )),
        Just(json!("type.googleapis.com/google.protobuf.Struct")),
    ];
    leaf.prop_recursive(8, 128, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_read_or_refused(value in any_value()) {
        // What is read must also survive being written and read again.
        if let Ok(message) = message_from_value::<Bootstrap>(value) {
            value_from_message(&message).unwrap();
        }
    }

    #[test]
    fn any_object_below_static_resources_is_read_or_refused(listeners in any_value(), clusters in any_value()) {
        let value = json!({"static_resources": {"listeners": [listeners], "clusters": clusters}});
        if let Err(errors) = message_from_value::<Bootstrap>(value) {
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "[\\[\\]{}:,&*!|>'\"a-c0-9\\-\n\t ]{0,80}") {
        if let Err(err) = parse_yaml(&text) {
            prop_assert!(!err.message.is_empty());
        }
    }

    #[test]
    fn any_bytes_are_validated(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let is_valid = validate("envoy.config.bootstrap.v3.Bootstrap", &bytes).is_empty();
        prop_assert!(is_valid || decode_resource::<Bootstrap>(&bytes).is_err());
        let any = Any {
            type_url: "type.googleapis.com/envoy.config.listener.v3.Listener".to_owned(),
            value: bytes,
        };
        prop_assert!(any_to_value(&any).is_object());
    }
}

/// What the walk lets pass, prost must be able to decode, whichever byte is damaged.
#[test]
fn damaged_messages_are_validated() {
    for at in 0..LISTENER.len() {
        for byte in (0..=255).step_by(7) {
            let mut wire = LISTENER.clone();
            wire[at] = byte;
            let is_valid = validate("envoy.config.listener.v3.Listener", &wire).is_empty();
            let is_decoded = decode_resource::<Listener>(&wire).is_ok();
            assert_eq!(is_valid, is_decoded, "byte {at} set to {byte}");
        }
    }
}

static LISTENER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let listener: Listener = message_from_value(json!({
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "t",
            "weighted_clusters": {"clusters": [{"name": "a", "weight": 1}]},
            "access_log": [{"name": "stdout", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                "log_format": {"json_format": {"a": {"b": ["%PROTOCOL%"]}}},
            }}],
        }}]}],
    }))
    .expect("the listener is valid");
    prost::Message::encode_to_vec(&listener)
});
