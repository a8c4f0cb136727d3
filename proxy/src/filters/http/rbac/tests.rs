use http::{Request as HttpRequest, request::Parts, uri::Scheme};
use outrigger_proto::{envoy::extensions::filters::http::rbac::v3::Rbac, message_from_value};
use serde_json::{Value, json};

use super::{
    config::{Config, config},
    rules::{Request, decide},
};
use crate::{convert::Sink, router::matcher::View};

fn read(value: Value) -> Result<Config, Vec<String>> {
    let proto = message_from_value::<Rbac>(value).map_err(|errors| {
        let texts = errors.iter().map(ToString::to_string);
        texts.collect::<Vec<_>>()
    })?;
    let sink = Sink::new();
    let converted = config(&sink.root(""), proto);
    sink.finish(converted)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// Rules with one policy `p`.
fn policy(action: &str, permission: Value, principal: Value) -> Config {
    read(json!({"rules": {"action": action, "policies": {
        "p": {"permissions": [permission], "principals": [principal]}
    }}}))
    .unwrap()
}

fn parts(path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut builder = HttpRequest::builder().uri(path).header("host", "shop");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn allows(config: &Config, parts: &Parts) -> bool {
    let request = Request {
        view: View::new(parts, &Scheme::HTTP),
        local: "10.0.0.1:8080".parse().unwrap(),
        direct_remote: "192.168.1.9:40000".parse().unwrap(),
        remote: "[2001:db8::7]:0".parse().unwrap(),
    };
    decide(config.rules.as_deref().unwrap(), &request).is_allowed
}

#[test]
fn permissions_look_at_the_request_and_where_it_came_to() {
    let any = json!({"any": true});
    let request = parts("/shop/cart?x=1", &[("x-role", "admin")]);
    for (permission, expected) in [
        (json!({"any": true}), true),
        (
            json!({"header": {"name": ":method", "string_match": {"exact": "GET"}}}),
            true,
        ),
        (
            json!({"header": {"name": ":path", "string_match": {"suffix": "x=1"}}}),
            true,
        ),
        (
            json!({"header": {"name": "x-role", "string_match": {"exact": "user"}}}),
            false,
        ),
        (json!({"url_path": {"path": {"exact": "/shop/cart"}}}), true),
        (json!({"url_path": {"path": {"suffix": "x=1"}}}), false),
        (
            json!({"destination_ip": {"address_prefix": "10.0.0.0", "prefix_len": 24}}),
            true,
        ),
        (
            json!({"destination_ip": {"address_prefix": "10.0.1.0", "prefix_len": 24}}),
            false,
        ),
        (
            json!({"destination_ip": {"address_prefix": "::", "prefix_len": 0}}),
            false,
        ),
        (json!({"destination_port": 8080}), true),
        (json!({"destination_port": 8081}), false),
        (
            json!({"destination_port_range": {"start": 8080, "end": 8081}}),
            true,
        ),
        (
            json!({"destination_port_range": {"start": 8081, "end": 65536}}),
            false,
        ),
        (json!({"requested_server_name": {"exact": ""}}), true),
        (json!({"requested_server_name": {"prefix": "s"}}), false),
        (json!({"not_rule": {"destination_port": 8081}}), true),
        (
            json!({"and_rules": {"rules": [{"any": true}, {"destination_port": 1}]}}),
            false,
        ),
        (
            json!({"or_rules": {"rules": [{"destination_port": 1}, {"any": true}]}}),
            true,
        ),
    ] {
        let config = policy("ALLOW", permission.clone(), any.clone());
        assert_eq!(allows(&config, &request), expected, "{permission}");
        let config = policy("DENY", permission.clone(), any.clone());
        assert_eq!(allows(&config, &request), !expected, "{permission}");
        let config = policy("LOG", permission.clone(), any.clone());
        assert!(allows(&config, &request), "{permission}");
    }
}

#[test]
fn principals_look_at_who_asks() {
    let any = json!({"any": true});
    let request = parts("/", &[("x-role", "admin")]);
    for (principal, expected) in [
        (json!({"any": true}), true),
        (json!({"authenticated": {}}), false),
        (
            json!({"authenticated": {"principal_name": {"prefix": "spiffe://"}}}),
            false,
        ),
        (json!({"not_id": {"authenticated": {}}}), true),
        (
            json!({"source_ip": {"address_prefix": "192.168.0.0", "prefix_len": 16}}),
            true,
        ),
        (
            json!({"direct_remote_ip": {"address_prefix": "192.168.1.9", "prefix_len": 32}}),
            true,
        ),
        (
            json!({"direct_remote_ip": {"address_prefix": "192.168.1.8", "prefix_len": 32}}),
            false,
        ),
        (
            json!({"remote_ip": {"address_prefix": "2001:db8::", "prefix_len": 32}}),
            true,
        ),
        (
            json!({"remote_ip": {"address_prefix": "192.168.1.9", "prefix_len": 32}}),
            false,
        ),
        (
            json!({"header": {"name": "x-role", "present_match": true}}),
            true,
        ),
        (json!({"url_path": {"path": {"prefix": "/a"}}}), false),
        (
            json!({"and_ids": {"ids": [{"any": true}, {"any": true}]}}),
            true,
        ),
        (json!({"or_ids": {"ids": [{"authenticated": {}}]}}), false),
    ] {
        let config = policy("ALLOW", any.clone(), principal.clone());
        assert_eq!(allows(&config, &request), expected, "{principal}");
    }
}

#[test]
fn deciding_allocates_nothing() {
    let rules = read(json!({"rules": {"policies": {
        "a": {
            "permissions": [{"and_rules": {"rules": [
                {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
                {"url_path": {"path": {"safe_regex": {"regex": "/shop/[a-z]+"}}}}
            ]}}],
            "principals": [{"header": {"name": "x-role", "string_match": {"exact": "user,admin"}}}]
        },
        "b": {
            "permissions": [{"destination_port_range": {"start": 1, "end": 9000}}],
            "principals": [{"not_id": {"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}}]
        }
    }}}))
    .unwrap();
    let request = parts("/shop/cart?x=1", &[("x-role", "user"), ("x-role", "admin")]);
    // The first match of an expression makes its scratch space.
    assert!(allows(&rules, &request));
    let (allowed, count) = crate::allocations::during(|| allows(&rules, &request));
    assert!(allowed);
    assert_eq!(count, 0);
}

#[test]
fn the_first_policy_by_name_decides() {
    let both = json!({"permissions": [{"any": true}], "principals": [{"any": true}]});
    let config = read(json!({"rules": {"policies": {"b": both, "a": both}}})).unwrap();
    let parts = parts("/", &[]);
    let request = Request {
        view: View::new(&parts, &Scheme::HTTP),
        local: "10.0.0.1:8080".parse().unwrap(),
        direct_remote: "192.168.1.9:40000".parse().unwrap(),
        remote: "192.168.1.9:40000".parse().unwrap(),
    };
    let decision = decide(config.rules.as_deref().unwrap(), &request);
    let (place, policy) = decision.policy.unwrap();
    assert_eq!((place, &*policy.name), (0, "a"));
    let none = read(json!({"rules": {}})).unwrap();
    let decision = decide(none.rules.as_deref().unwrap(), &request);
    assert!(!decision.is_allowed && decision.policy.is_none());
}

#[test]
fn what_is_not_supported_is_refused_by_its_path() {
    let rules = |permission: Value, principal: Value| json!({"rules": {"policies": {"p": {"permissions": [permission], "principals": [principal]}}}});
    let any = json!({"any": true});
    let template = json!({"name": "t", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
        "path_template": "/a/*"
    }});
    let metadata = json!({"filter": "f", "path": [{"key": "k"}], "value": {"null_match": {}}});
    for (value, error) in [
        (
            rules(json!({"uri_template": template}), any.clone()),
            "rules.policies[\"p\"].permissions[0].uri_template: not supported",
        ),
        (
            rules(json!({"not_rule": {"metadata": metadata}}), any.clone()),
            "rules.policies[\"p\"].permissions[0].not_rule.metadata: not supported",
        ),
        (
            rules(
                any.clone(),
                json!({"or_ids": {"ids": [{"metadata": metadata}]}}),
            ),
            "rules.policies[\"p\"].principals[0].or_ids.ids[0].metadata: not supported",
        ),
        (
            rules(
                json!({"destination_port_range": {"start": 9, "end": 9}}),
                any.clone(),
            ),
            "rules.policies[\"p\"].permissions[0].destination_port_range: [9, 9) is not a range of ports: 0 <= start < end <= 65536",
        ),
        (
            json!({"rules": {"policies": {"p": {"permissions": [any], "principals": [any], "condition": {}}}}}),
            "rules.policies[\"p\"].condition: not supported",
        ),
        (json!({"matcher": {}}), "matcher: not supported"),
        (
            json!({"shadow_matcher": {}}),
            "shadow_matcher: not supported",
        ),
    ] {
        assert_eq!(read(value).unwrap_err(), [error]);
    }
    // Rules that match nobody by mistake are errors already in the schema.
    assert_eq!(read(rules(json!({}), any)).unwrap_err().len(), 1);
    assert!(read(json!({"rules": {"policies": {"p": {}}}})).is_err());
}
