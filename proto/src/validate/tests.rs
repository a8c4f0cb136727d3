use std::collections::HashMap;

use prost::{Message as _, Name};

use super::*;
use crate::{
    decode_any, decode_resource,
    envoy::config::{
        cluster::v3::Cluster,
        core::v3::{HeaderValue, HeaderValueOption, SocketAddress, socket_address::PortSpecifier},
        endpoint::v3::ClusterLoadAssignment,
        listener::v3::{Filter, FilterChain, Listener, filter::ConfigType},
        route::v3::{Route, RouteMatch, VirtualHost},
    },
    google::protobuf::{Any, Duration},
    schema::table::{Check, Rules},
};

fn errors<M: prost::Message + Name>(message: &M) -> Vec<String> {
    let errors = validate(&M::full_name(), &message.encode_to_vec());
    errors.iter().map(ToString::to_string).collect()
}

fn cluster() -> Cluster {
    Cluster {
        name: "c".to_owned(),
        ..Cluster::default()
    }
}

#[test]
fn absent_fields_without_presence_count_as_their_default() {
    assert_eq!(
        errors(&Cluster::default()),
        ["name: value length must be at least 1 characters"]
    );
    assert!(errors(&cluster()).is_empty());
}

#[test]
fn unknown_field_numbers_are_errors_with_the_path_of_their_message() {
    let mut wire = cluster().encode_to_vec();
    // Field 4095, varint 1; then an empty `load_assignment` (33) with field 99 in it.
    wire.extend([0xf8, 0xff, 0x01, 0x01]);
    let inner = [0x0a, 1, b'x', 0x98, 0x06, 0x01];
    wire.extend([0x8a, 0x02, inner.len() as u8]);
    wire.extend(inner);
    let errors = decode_resource::<Cluster>(&wire).unwrap_err();
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "unknown field number 4095",
            "load_assignment: unknown field number 99"
        ]
    );
}

#[test]
fn required_messages_and_oneofs_must_be_there() {
    assert_eq!(
        errors(&Route::default()),
        ["action: value is required", "match: value is required"]
    );
    let header = HeaderValueOption::default();
    assert_eq!(errors(&header), ["header: value is required"]);
    // Required inside a oneof asks nothing of the other members.
    let matches = RouteMatch {
        path_specifier: Some(
            crate::envoy::config::route::v3::route_match::PathSpecifier::Prefix(String::new()),
        ),
        ..RouteMatch::default()
    };
    assert!(errors(&matches).is_empty());
}

#[test]
fn numbers_have_bounds() {
    let address = SocketAddress {
        address: "::1".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(65_536)),
        ..SocketAddress::default()
    };
    assert_eq!(
        errors(&address),
        ["port_value: value must be less than or equal to 65535"]
    );
}

#[test]
fn durations_have_bounds_and_a_range() {
    let with = |seconds, nanos| {
        errors(&Cluster {
            connect_timeout: Some(Duration { seconds, nanos }),
            ..cluster()
        })
    };
    assert!(with(0, 1).is_empty());
    assert_eq!(
        with(0, 0),
        ["connect_timeout: value must be greater than 0s"]
    );
    assert_eq!(with(1, -1), ["connect_timeout: duration is out of range"]);
    assert_eq!(
        with(i64::MAX, 0),
        ["connect_timeout: duration is out of range"]
    );
}

#[test]
fn repeated_fields_have_counts_and_rules_of_their_items() {
    let host = VirtualHost {
        name: "v".to_owned(),
        ..VirtualHost::default()
    };
    assert_eq!(
        errors(&host),
        ["domains: value must contain at least 1 item(s)"]
    );
    let host = VirtualHost {
        domains: vec!["a".to_owned(), "b\n".to_owned()],
        ..host
    };
    assert_eq!(
        errors(&host),
        ["domains[1]: value must not contain NUL, LF or CR"]
    );
}

#[test]
fn wrappers_are_checked_by_the_rules_of_their_value() {
    let mut assignment = ClusterLoadAssignment {
        cluster_name: "c".to_owned(),
        ..ClusterLoadAssignment::default()
    };
    assignment.policy = Some(
        crate::envoy::config::endpoint::v3::cluster_load_assignment::Policy {
            overprovisioning_factor: Some(crate::google::protobuf::UInt32Value { value: 0 }),
            ..Default::default()
        },
    );
    assert_eq!(
        errors(&assignment),
        ["policy.overprovisioning_factor: value must be greater than 0"]
    );
}

#[test]
fn enums_must_be_defined_where_envoy_says_so() {
    let cluster = Cluster {
        lb_policy: 99,
        ..cluster()
    };
    assert_eq!(
        errors(&cluster),
        ["lb_policy: value must be one of the defined enum values, got 99"]
    );
}

#[test]
fn header_names_and_values_are_checked() {
    let header = HeaderValue {
        key: "a\nb".to_owned(),
        value: "c\0".to_owned(),
        ..HeaderValue::default()
    };
    assert_eq!(
        errors(&header),
        [
            "key: value must not contain NUL, LF or CR",
            "value: value must not contain NUL, LF or CR",
        ]
    );
}

#[test]
fn the_walk_goes_into_any_and_maps() {
    let route_match = Any {
        type_url: RouteMatch::type_url(),
        value: Vec::new(),
    };
    let filter = Filter {
        name: "f".to_owned(),
        config_type: Some(ConfigType::TypedConfig(route_match.clone())),
    };
    let listener = Listener {
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..FilterChain::default()
        }],
        ..Listener::default()
    };
    assert_eq!(
        errors(&listener),
        ["filter_chains[0].filters[0].typed_config.path_specifier: value is required"]
    );
    let host = VirtualHost {
        name: "v".to_owned(),
        domains: vec!["*".to_owned()],
        typed_per_filter_config: HashMap::from([("a.b".to_owned(), route_match)]),
        ..VirtualHost::default()
    };
    assert_eq!(
        errors(&host),
        [r#"typed_per_filter_config["a.b"].path_specifier: value is required"#]
    );
}

#[test]
fn any_of_an_unknown_type_is_left_to_the_caller() {
    let any = Any {
        type_url: "type.googleapis.com/acme.X".to_owned(),
        value: vec![0xff],
    };
    assert!(errors(&any).is_empty());
}

#[test]
fn the_last_member_of_a_oneof_counts() {
    let port = |value: PortSpecifier| {
        SocketAddress {
            address: "::1".to_owned(),
            port_specifier: Some(value),
            ..SocketAddress::default()
        }
        .encode_to_vec()
    };
    let mut wire = port(PortSpecifier::PortValue(70_000));
    wire.extend(port(PortSpecifier::NamedPort("http".to_owned())));
    assert!(validate(&SocketAddress::full_name(), &wire).is_empty());
}

#[test]
fn a_message_in_parts_is_checked_as_a_whole() {
    // `header` (1) of HeaderValueOption: first its key, then its value.
    let key_only = [0x0a, 3, 0x0a, 1, b'k'];
    let value_only = [0x0a, 3, 0x12, 1, b'v'];
    let wire = [value_only, key_only].concat();
    assert!(validate(&HeaderValueOption::full_name(), &wire).is_empty());
    assert!(!validate(&HeaderValueOption::full_name(), &value_only).is_empty());
}

#[test]
fn broken_bytes_are_errors() {
    for wire in [
        &[0x0a, 5, b'x'][..],
        &[0x0a],
        &[0x00],
        &[0xff; 11],
        &[0x0a, 1, 0xff],
        &[0x08, 1],
        // A group where the name should be.
        &[0x0b, 0x0c],
    ] {
        assert!(
            !validate(&Cluster::full_name(), wire).is_empty(),
            "{wire:?}"
        );
    }
    assert_eq!(
        validate("acme.X", &[])[0].reason,
        "unknown message type `acme.X`"
    );
}

#[test]
fn nesting_is_bounded() {
    // Any in Any in Any …
    let mut any = Any::default();
    for _ in 0..500 {
        any = Any {
            type_url: Any::type_url(),
            value: any.encode_to_vec(),
        };
    }
    let errors = errors(&any);
    assert_eq!(
        errors,
        [format!(
            "messages are nested more than {} deep",
            crate::error::MAX_DEPTH
        )]
    );
}

#[test]
fn decode_any_checks_the_type() {
    let any = Any {
        type_url: Cluster::type_url(),
        value: cluster().encode_to_vec(),
    };
    assert_eq!(decode_any::<Cluster>(&any).unwrap(), cluster());
    let reason = &decode_any::<Listener>(&any).unwrap_err()[0].reason;
    assert!(
        reason.contains("expected the type `envoy.config.listener.v3.Listener`"),
        "{reason}"
    );
}

#[test]
fn every_pattern_of_the_table_is_a_regular_expression() {
    fn patterns(rules: &'static Rules) -> usize {
        let inner = [rules.items, rules.keys, rules.values]
            .into_iter()
            .flatten();
        let own = rules.checks.iter().filter(|check| match check {
            Check::Pattern(pattern) => {
                regex::Regex::new(pattern.text()).unwrap();
                true
            }
            _ => false,
        });
        own.count() + inner.map(patterns).sum::<usize>()
    }
    let rows = Message::all().iter().flat_map(|row| row.fields());
    assert!(rows.map(|field| patterns(field.rules())).sum::<usize>() > 0);
}
