//! Conversions as a user meets them: text in, meaning or paths out.

mod acceptance;

use std::time::Duration;

use crate::{
    bootstrap::{LoadError, Overrides, load},
    config::{cluster::LbPolicy, http_connection_manager::RouteSource, listener::Listener},
};

fn errors(text: &str) -> Vec<String> {
    match load(text, &Overrides::default()) {
        Ok(_) => panic!("accepted"),
        Err(LoadError::Text(error)) => vec![error.to_string()],
        Err(LoadError::Content(errors)) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn mistyped_invalid_and_unsupported_fields_are_found_in_one_run() {
    let found = errors(
        r#"
static_resources:
  clusters:
  - name: a
    conect_timeout: 1s
    upstream_bind_config: {freebind: true, source_address: {address: 1.1.1.1, port_value: 0}}
  - name: a
    lb_policy: CLUSTER_PROVIDED
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 0, allow_metadata: true}}
"#,
    );
    for expected in [
        "static_resources.clusters[0].conect_timeout: unknown field; did you mean `connect_timeout`?",
        "static_resources.clusters[0].upstream_bind_config.freebind: not supported",
        "static_resources.clusters[1].name: duplicate",
        "static_resources.clusters[1].lb_policy: cluster provided LB specified but cluster 'a' did not provide one",
        "http2_protocol_options.max_concurrent_streams: ",
        "http2_protocol_options.allow_metadata: not supported",
    ] {
        assert_eq!(
            found
                .iter()
                .filter(|error| error.contains(expected))
                .count(),
            1,
            "{expected} once in {found:#?}"
        );
    }
}

#[test]
fn empty_bootstrap_is_valid() {
    let bootstrap = load("{}", &Overrides::default()).unwrap();
    assert!(bootstrap.listeners.is_empty());
}

#[test]
fn unsupported_fields_are_named_all_at_once() {
    let found = errors(
        "static_resources:\n  clusters:\n  - name: a\n    lb_subset_config: {}\n    lb_policy: CLUSTER_PROVIDED\noverload_manager: {resource_monitors: [{name: x}]}\n",
    );
    for expected in [
        "overload_manager: not supported",
        "static_resources.clusters[0].lb_subset_config: not supported",
        "static_resources.clusters[0].lb_policy: cluster provided LB specified but cluster 'a' did not provide one",
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(expected)),
            "{expected} not in {found:#?}"
        );
    }
}

/// The defaults that Envoy documents, where a message leaves everything open.
#[test]
fn defaults_are_envoys() {
    let text = r#"{static_resources: {
      clusters: [{name: a, circuit_breakers: {thresholds: [{priority: HIGH, max_requests: 1}]}}],
      listeners: [{name: l, address: {socket_address: {address: "::1", port_value: 0}}, filter_chains: [{filters: [{name: h,
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
          stat_prefix: s, route_config: {virtual_hosts: [{name: v, domains: [A.Example], routes: [{match: {prefix: /}, route: {cluster: a}}]}]},
          http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}]}}"#;
    let bootstrap = load(text, &Overrides::default()).unwrap();
    let cluster = &bootstrap.clusters[0];
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert!(matches!(cluster.lb_policy, LbPolicy::RoundRobin));
    let limits = &cluster.circuit_breakers.default;
    assert_eq!(
        (
            limits.max_connections,
            limits.max_pending_requests,
            limits.max_requests,
            limits.max_retries
        ),
        (1024, 1024, 1024, 3)
    );
    assert_eq!(cluster.circuit_breakers.high.max_requests, 1);
    assert_eq!(cluster.idle_timeout, Duration::from_secs(3600));
    assert_eq!(cluster.healthy_panic_threshold, 50);
    assert_eq!(cluster.per_connection_buffer_limit_bytes, 1024 * 1024);
    let listener: &Listener = &bootstrap.listeners[0];
    assert!(listener.reuse_port);
    let manager = listener.filter_chains[0].filter.http().unwrap();
    assert_eq!(manager.stream_idle_timeout, Duration::from_secs(300));
    assert_eq!(manager.request_timeout, Duration::ZERO);
    assert_eq!(manager.drain_timeout, Duration::from_secs(5));
    assert_eq!(manager.delayed_close_timeout, Duration::from_secs(1));
    assert_eq!(
        (manager.max_request_headers_kb, manager.max_headers_count),
        (60, 100)
    );
    assert!(manager.generate_request_id && !manager.use_remote_address);
    assert_eq!(manager.server_name, "envoy");
    let RouteSource::Inline(routes) = &manager.routes else {
        panic!("inline")
    };
    assert!(routes.validate_clusters);
    assert_eq!(&*routes.virtual_hosts[0].domains[0], "a.example");
    let crate::config::route::Action::Forward(forward) = &routes.virtual_hosts[0].routes[0].action
    else {
        panic!("forward")
    };
    assert_eq!(forward.timeout, Duration::from_secs(15));
    assert_eq!(
        forward.cluster_not_found_status,
        http::StatusCode::SERVICE_UNAVAILABLE
    );
}

#[test]
fn default_chain_alone_is_the_chain_and_has_its_own_path() {
    let chain = |cluster: &str| {
        format!(
            r#"{{static_resources: {{clusters: [{{name: a}}], listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, default_filter_chain: {{filters: [{{name: h,
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
          stat_prefix: s, route_config: {{virtual_hosts: [{{name: v, domains: [a], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}},
          http_filters: [{{name: r, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}}}]}}}}"#
        )
    };
    let good = load(&chain("a"), &Overrides::default()).unwrap();
    assert_eq!(good.listeners[0].filter_chains.len(), 1);
    assert_eq!(
        errors(&chain("b")),
        [
            "static_resources.listeners[0].default_filter_chain.filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route.cluster: route: unknown cluster 'b'"
        ]
    );
}

#[test]
fn unnamed_listeners_have_names_of_their_own() {
    let one = r#"{address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [{name: h,
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
          stat_prefix: s, route_config: {}, http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}"#;
    let text = format!("{{static_resources: {{listeners: [{one}, {one}]}}}}");
    let bootstrap = load(&text, &Overrides::default()).unwrap();
    assert_ne!(bootstrap.listeners[0].name, bootstrap.listeners[1].name);
}
