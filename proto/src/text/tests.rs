use prost::{Message, Name};
use serde_json::{Value, json};

use super::*;
use crate::{
    envoy::{
        config::{
            bootstrap::v3::Bootstrap,
            cluster::v3::{Cluster, cluster::LbPolicy},
            core::v3::{Metadata, SocketAddress},
            listener::v3::Listener,
            route::v3::{Route, RouteConfiguration, RouteMatch, route_match},
        },
        extensions::transport_sockets::tls::v3::Secret,
    },
    google::protobuf::Struct,
};

const HTTP_CONNECTION_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn read<M: Message + Default + Name>(value: Value) -> M {
    message_from_value(value).unwrap()
}

/// The errors, as `path: reason`.
fn errors<M: Message + Default + Name + std::fmt::Debug>(value: Value) -> Vec<String> {
    let errors = message_from_value::<M>(value).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

fn cluster(more: Value) -> Value {
    let mut value = json!({"name": "one"});
    value
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    value
}

#[test]
fn names_may_be_snake_case_or_camel_case() {
    let snake: Cluster = read(cluster(
        json!({"connect_timeout": "1s", "lb_policy": "RANDOM"}),
    ));
    let camel: Cluster = read(cluster(
        json!({"connectTimeout": "1s", "lbPolicy": "RANDOM"}),
    ));
    assert_eq!(snake, camel);
    assert_eq!(snake.lb_policy(), LbPolicy::Random);
}

#[test]
fn enums_are_read_by_name_in_any_case_and_by_number() {
    for policy in [json!("RING_HASH"), json!("ring_hash"), json!(2), json!("2")] {
        let cluster: Cluster = read(cluster(json!({"lb_policy": policy})));
        assert_eq!(cluster.lb_policy(), LbPolicy::RingHash);
    }
}

#[test]
fn durations_have_fractions() {
    let cluster: Cluster = read(cluster(json!({"connect_timeout": "1.25s"})));
    let timeout = cluster.connect_timeout.unwrap();
    assert_eq!((timeout.seconds, timeout.nanos), (1, 250_000_000));
}

#[test]
fn wrappers_take_the_plain_value_and_numbers_as_text() {
    for limit in [json!(5), json!("5"), json!(5.0)] {
        let cluster: Cluster = read(cluster(json!({"per_connection_buffer_limit_bytes": limit})));
        assert_eq!(cluster.per_connection_buffer_limit_bytes.unwrap().value, 5);
    }
    for word in [json!(true), json!("true"), json!("yes"), json!("On")] {
        let listener: Listener = read(json!({"use_original_dst": word}));
        assert!(listener.use_original_dst.unwrap().value);
    }
}

#[test]
fn int64_is_read_from_text_and_number() {
    for max in [json!(9), json!("9")] {
        let value = json!({"name": "h", "ring_hash_lb_config": {"minimum_ring_size": max}});
        let cluster: Cluster = read(value);
        assert!(
            format!("{:?}", cluster.lb_config)
                .contains("minimum_ring_size: Some(UInt64Value { value: 9")
        );
    }
}

#[test]
fn bytes_are_base64() {
    let secret: Secret = read(json!({
        "name": "s", "generic_secret": {"secret": {"inline_bytes": "aGk="}}
    }));
    assert!(secret.encode_to_vec().ends_with(b"hi"));
    let bad = errors::<Secret>(json!({
        "name": "s", "generic_secret": {"secret": {"inline_bytes": "%"}}
    }));
    assert_eq!(
        bad,
        [r#"generic_secret.secret.inline_bytes: expected a base64 string, got "%""#]
    );
}

#[test]
fn null_is_absent() {
    let with_null: Cluster = read(cluster(json!({"connect_timeout": null, "lb_policy": null})));
    assert_eq!(with_null, read(cluster(json!({}))));
}

#[test]
fn free_form_structs_keep_their_shape() {
    let value = json!({"filter_metadata": {"a": {"b": [1.0, null, {"c": "x"}], "d": null}}});
    let metadata: Metadata = read(value.clone());
    assert_eq!(value_from_message(&metadata).unwrap(), value);
    let Struct { fields } = &metadata.filter_metadata["a"];
    assert_eq!(fields.len(), 2);
}

#[test]
fn any_is_read_by_its_type_also_when_nested() {
    let listener: Listener = read(json!({"filter_chains": [{"filters": [{
        "name": "http",
        "typed_config": {
            "@type": HTTP_CONNECTION_MANAGER,
            "stat_prefix": "in",
            "rds": {"config_source": {"ads": {}}, "route_config_name": "r"},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                "suppress_envoy_headers": true,
            }}],
        },
    }]}]}));
    let filter = &listener.filter_chains[0].filters[0];
    let wire = filter.encode_to_vec();
    let router = b"envoy.extensions.filters.http.router.v3.Router";
    assert!(wire.windows(router.len()).any(|part| part == router));
}

#[test]
fn any_of_a_well_known_type_has_its_content_in_value() {
    let duration = json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "2s"});
    let value = json!({"typed_filter_metadata": {"d": duration}});
    let metadata: Metadata = read(value.clone());
    assert_eq!(metadata.typed_filter_metadata["d"].value, [8, 2]);
    assert_eq!(value_from_message(&metadata).unwrap(), value);
}

#[test]
fn unknown_fields_name_the_nearest() {
    assert_eq!(
        errors::<Cluster>(cluster(
            json!({"conect_timeout": "1s", "lbPolcy": "RANDOM", "zzz": 1})
        )),
        [
            "conect_timeout: unknown field; did you mean `connect_timeout`?",
            "lbPolcy: unknown field; did you mean `lb_policy`?",
            "zzz: unknown field",
        ]
    );
}

#[test]
fn a_type_has_no_place_in_a_plain_message() {
    assert_eq!(
        errors::<RouteMatch>(json!({"prefix": "/", "@type": "x/y"})),
        ["@type: unknown field"]
    );
}

#[test]
fn wrong_types_say_what_was_expected() {
    assert_eq!(
        errors::<Cluster>(json!({
            "name": 1.5,
            "connect_timeout": "5 s",
            "lb_policy": "RANDOMM",
            "per_connection_buffer_limit_bytes": -1,
            "load_assignment": [],
            "health_checks": {},
            "respect_dns_ttl": 1,
        })),
        [
            "name: expected a string, got 1.5; write it in quotes",
            r#"connect_timeout: expected a duration such as "1.5s", got "5 s""#,
            r#"lb_policy: unknown enum value "RANDOMM"; did you mean `RANDOM`?"#,
            "per_connection_buffer_limit_bytes: expected an unsigned 32-bit integer, got -1",
            "load_assignment: expected an object, got a list",
            "health_checks: expected a list, got an object",
            "respect_dns_ttl: expected true or false, got 1",
        ]
    );
}

#[test]
fn enum_values_far_from_any_list_all() {
    let errors = errors::<SocketAddress>(json!({
        "address": "::1", "port_value": 1, "protocol": "QUIC_IS_NOT_HERE"
    }));
    assert_eq!(
        errors,
        [r#"protocol: unknown enum value "QUIC_IS_NOT_HERE"; expected one of TCP, UDP"#]
    );
}

#[test]
fn type_urls_that_nobody_knows_name_the_nearest() {
    let with_type = |url: &str| json!({"filter_chains": [{"filters": [{"name": "f", "typed_config": {"@type": url}}]}]});
    let place = "filter_chains[0].filters[0].typed_config";
    assert_eq!(
        errors::<Listener>(with_type(
            "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxi"
        )),
        [format!(
            "{place}: unknown type URL \
             `type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxi`; did you mean \
             `type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`?"
        )]
    );
    assert_eq!(
        errors::<Listener>(with_type("type.googleapis.com/acme.Filter")),
        [format!(
            "{place}: unknown type URL `type.googleapis.com/acme.Filter`"
        )]
    );
    assert!(errors::<Listener>(with_type("acme.Filter"))[0].contains("`@type` must be a type URL"));
    let no_type =
        json!({"filter_chains": [{"filters": [{"name": "f", "typed_config": {"x": 1}}]}]});
    assert!(errors::<Listener>(no_type)[0].contains("`@type` is missing"));
}

#[test]
fn paths_go_through_any_and_maps() {
    let value = json!({
        "match": {"prefix": "/"},
        "route": {"cluster": "c"},
        "typed_per_filter_config": {"envoy.fault": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "delay": {"fixed_delay": "soon"},
            "abort": {"http_status": 99},
        }},
    });
    assert_eq!(
        errors::<Route>(value),
        [
            r#"typed_per_filter_config["envoy.fault"].delay.fixed_delay: expected a duration such as "1.5s", got "soon""#,
            r#"typed_per_filter_config["envoy.fault"].abort.http_status: value must be inside range [200, 600)"#,
        ]
    );
}

#[test]
fn syntax_and_rules_are_checked_in_one_run() {
    assert_eq!(
        errors::<Bootstrap>(json!({
            "admin": {"address": {"socket_address": {"address": "::1", "port_value": 70000}}},
            "static_resources": {
                "clusters": [{"name": ""}, 5, {"name": "c", "bogus": 1, "connect_timeout": "0s"}],
                "listeners": [{"adress": {}}],
            },
        })),
        [
            "static_resources.clusters[1]: expected an object, got 5",
            "static_resources.clusters[2].bogus: unknown field",
            "static_resources.listeners[0].adress: unknown field; did you mean `address`?",
            "static_resources.clusters[0].name: value length must be at least 1 characters",
            "static_resources.clusters[2].connect_timeout: value must be greater than 0s",
            "admin.address.socket_address.port_value: value must be less than or equal to 65535",
        ]
    );
}

#[test]
fn an_error_is_not_reported_again_as_a_missing_value() {
    // `match` and `action` are required, but they are only missing because they could not be read.
    let value = json!({"match": {"prefx": "/"}, "route": 5});
    assert_eq!(
        errors::<Route>(value),
        [
            "match.prefx: unknown field; did you mean `prefix`?",
            "route: expected an object, got 5",
        ]
    );
}

#[test]
fn a_value_that_is_no_object_is_one_error() {
    for value in [json!(null), json!(5), json!([])] {
        let errors = errors::<Cluster>(value);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].starts_with("expected an object, got "),
            "{errors:?}"
        );
    }
}

#[test]
fn fields_that_envoy_disallows_are_refused() {
    let metadata =
        json!({"descriptor_key": "a", "metadata_key": {"key": "a", "path": [{"key": "b"}]}});
    let rate_limit = json!({"actions": [{"dynamic_metadata": metadata}]});
    let value =
        json!({"match": {"prefix": "/"}, "route": {"cluster": "c", "rate_limits": [rate_limit]}});
    assert_eq!(
        errors::<Route>(value),
        [
            "route.rate_limits[0].actions[0].dynamic_metadata: the field is deprecated and disallowed"
        ]
    );
}

#[test]
fn of_a_oneof_only_one_member_may_be_given() {
    let value = json!({"prefix": "/", "path": "/x"});
    assert_eq!(
        errors::<RouteMatch>(value),
        ["path: only one of `prefix` and `path` may be set"]
    );
    let one: RouteMatch = read(json!({"prefix": "/", "path": null}));
    assert_eq!(
        one.path_specifier,
        Some(route_match::PathSpecifier::Prefix("/".to_owned()))
    );
}

#[test]
fn a_field_may_be_given_under_one_name_only() {
    let value = cluster(json!({"connect_timeout": "1s", "connectTimeout": "1s"}));
    assert_eq!(
        errors::<Cluster>(value),
        ["connect_timeout: given twice, as `connect_timeout` and as `connectTimeout`"]
    );
}

#[test]
fn nesting_is_bounded() {
    let mut deep = json!({"any": true});
    for _ in 0..200 {
        deep = json!({"not_id": deep});
    }
    let errors = errors::<Metadata>(json!({"typed_filter_metadata": {"p": {
        "@type": "type.googleapis.com/envoy.config.rbac.v3.Policy",
        "permissions": [{"any": true}],
        "principals": [deep],
    }}}));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("nested more than"), "{errors:?}");

    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    let errors = message_from_value::<Metadata>(json!({"filter_metadata": {"a": {"x": deep}}}));
    assert_eq!(
        errors.unwrap_err()[0].reason,
        "the value is nested too deep"
    );
}

#[test]
fn hostile_input_gives_a_bounded_list_of_errors() {
    let value = json!({"clusters": vec![json!(1); 5000]});
    let errors = message_from_value::<
        crate::envoy::config::bootstrap::v3::bootstrap::StaticResources,
    >(value);
    let errors = errors.unwrap_err();
    assert_eq!(errors.len(), crate::error::MAX_ERRORS);
    assert!(errors.last().unwrap().reason.contains("not shown"));
}

#[test]
fn messages_are_written_with_envoys_names() {
    let value = json!({
        "name": "c",
        "lb_policy": "RANDOM",
        "connect_timeout": "0.250s",
        "per_connection_buffer_limit_bytes": 7,
        "ring_hash_lb_config": {"minimum_ring_size": "9"},
        "metadata": {"filter_metadata": {"z": {}, "a": {"n": 1.0}}},
    });
    let cluster: Cluster = read(value.clone());
    assert_eq!(value_from_message(&cluster).unwrap(), value);
}

#[test]
fn values_survive_the_way_there_and_back() {
    let value = json!({
        "name": "r",
        "virtual_hosts": [{
            "name": "v",
            "domains": ["*"],
            "routes": [{
                "match": {"safe_regex": {"regex": ".*"}, "headers": [{"name": "x", "present_match": false}]},
                "route": {"weighted_clusters": {"clusters": [{"name": "c", "weight": 0}]}, "timeout": "0s"},
                "typed_per_filter_config": {"f": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                    "abort": {"http_status": 503, "percentage": {"numerator": 5, "denominator": "MILLION"}},
                }},
            }],
        }],
    });
    let message: RouteConfiguration = read(value.clone());
    assert_eq!(value_from_message(&message).unwrap(), value);
    let again: RouteConfiguration = read(value_from_message(&message).unwrap());
    assert_eq!(again, message);
}

#[test]
fn secrets_are_redacted() {
    let secret: Secret = read(json!({"name": "s", "tls_certificate": {
        "certificate_chain": {"inline_string": "public"},
        "private_key": {"inline_string": "private"},
        "password": {"inline_bytes": "cHJpdmF0ZQ=="},
    }}));
    let any = Any {
        type_url: Secret::type_url(),
        value: secret.encode_to_vec(),
    };
    let shown = any_to_value(&any);
    assert_eq!(
        shown,
        json!({
            "@type": Secret::type_url(),
            "name": "s",
            "tls_certificate": {
                "certificate_chain": {"inline_string": "public"},
                "private_key": {"inline_string": "[redacted]"},
                "password": {"inline_bytes": "W3JlZGFjdGVkXQ=="},
            },
        })
    );
}

#[test]
fn any_of_an_unknown_type_is_shown_as_bytes() {
    let any = Any {
        type_url: "type.googleapis.com/acme.X".to_owned(),
        value: b"hi".to_vec(),
    };
    let shown = any_to_value(&any);
    assert_eq!(
        shown,
        json!({"@type": "type.googleapis.com/acme.X", "value": "aGk="})
    );
    assert_eq!(any_to_value(&Any::default()), json!({}));
}
