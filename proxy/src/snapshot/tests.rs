//! Warming and make-before-break, driven by messages as they come over the wire.

use std::{sync::Arc, time::SystemTime};

use outrigger_proto::google::protobuf::{Any, Duration};

use super::{
    Origin, Resource, Snapshot, State,
    state::{Kind, Rejection},
};
use crate::{
    bootstrap::{Overrides, load},
    telemetry::stats::Registry,
    worker::testing::TestHost,
};

struct Fixture {
    registry: Registry,
    state: State,
    host: TestHost,
}

impl Fixture {
    /// A proxy that has an aggregated stream.
    fn new() -> Self {
        Self::with(
            "{node: {id: n, cluster: c}, static_resources: {clusters: [{name: xds}]}, dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}}}",
        )
    }

    fn with(bootstrap: &str) -> Self {
        let registry = Registry::new(1);
        let mut host = TestHost::new(&registry);
        let bootstrap = load(bootstrap, &Overrides::default()).unwrap();
        let mut state = State::new(&bootstrap, &registry, &mut host).unwrap();
        state.settle();
        Self {
            registry,
            state,
            host,
        }
    }

    fn send<M>(&mut self, kind: Kind, messages: &[(&str, &str)], removed: &[&str]) -> Vec<Rejection>
    where
        M: prost::Message + Default + prost::Name,
    {
        let added = messages
            .iter()
            .map(|(name, yaml)| resource::<M>(name, yaml))
            .collect();
        let removed = removed
            .iter()
            .map(|name| Arc::from(*name))
            .collect::<Vec<_>>();
        self.state.update(kind, added, &removed, &mut self.host)
    }

    fn settled(&mut self) -> Snapshot {
        self.state.settle().expect("something changed")
    }
}

fn resource<M: prost::Message + Default + prost::Name>(name: &str, yaml: &str) -> Resource {
    let value = outrigger_proto::parse_yaml(yaml).unwrap();
    packed(
        name,
        &outrigger_proto::message_from_value::<M>(value).unwrap(),
    )
}

fn packed<M: prost::Message + prost::Name>(name: &str, message: &M) -> Resource {
    Resource {
        name: Arc::from(name),
        version: Arc::from("1"),
        body: Any {
            type_url: M::type_url(),
            value: message.encode_to_vec(),
        },
        origin: Origin::Dynamic,
        updated: SystemTime::now(),
    }
}

use outrigger_proto::envoy::config::{
    cluster::v3::Cluster as Cds, endpoint::v3::ClusterLoadAssignment as Eds,
    listener::v3::Listener as Lds, route::v3::RouteConfiguration as Rds,
};

const EDS_CLUSTER: &str =
    "{name: a, type: EDS, eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}}";
const ENDPOINTS: &str = "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]}";
const ROUTES: &str = "{name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: a}}]}]}";
const LISTENER: &str = r#"{name: l, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [{name: hcm, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, rds: {route_config_name: r, config_source: {ads: {}, resource_api_version: V3}}, http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}"#;

#[test]
fn updates_count_at_who_subscribed() {
    let mut fixture = Fixture::new();
    let registry = fixture.registry.clone();
    let stat = |name: &str| registry.scope("").counter(name).value();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    fixture.send::<Eds>(Kind::Endpoints, &[("a", ENDPOINTS)], &[]);
    fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    fixture.settled();
    let warming = registry.scope("listener_manager");
    assert_eq!(warming.gauge("total_listeners_warming").value(), 1);
    assert_eq!(stat("listener_manager.listener_create_success"), 0);
    fixture.send::<Rds>(Kind::Route, &[("r", ROUTES)], &[]);
    fixture.settled();
    // The same again is an update, and no other configuration.
    fixture.send::<Rds>(Kind::Route, &[("r", ROUTES)], &[]);
    fixture.send::<Rds>(Kind::Route, &[("r", "{name: other}")], &[]);
    for (name, value) in [
        ("cluster_manager.cluster_added", 2),
        ("cluster.a.update_success", 1),
        ("listener_manager.listener_added", 1),
        ("listener_manager.listener_create_success", 1),
        ("http.s.rds.r.update_success", 2),
        ("http.s.rds.r.update_rejected", 1),
        ("http.s.rds.r.update_attempt", 3),
        ("http.s.rds.r.config_reload", 1),
    ] {
        assert_eq!(stat(name), value, "{name}");
    }
    let gauge = |scope: &str, name: &str| registry.scope(scope).gauge(name).value();
    assert_eq!(gauge("cluster_manager", "active_clusters"), 2);
    assert_eq!(gauge("listener_manager", "total_listeners_warming"), 0);
    assert_eq!(gauge("listener_manager", "total_listeners_active"), 1);
    fixture.send::<Lds>(Kind::Listener, &[], &["l", "unknown"]);
    assert_eq!(stat("listener_manager.listener_removed"), 1);
}

#[test]
fn published_listeners_take_connections_before_a_worker_does() {
    let mut fixture = Fixture::new();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    fixture.send::<Eds>(Kind::Endpoints, &[("a", ENDPOINTS)], &[]);
    fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    fixture.send::<Rds>(Kind::Route, &[("r", ROUTES)], &[]);
    let snapshot = fixture.settled();
    let address = snapshot.listeners[0].sockets[0].address();
    assert!(std::net::TcpStream::connect(address).is_err());
    let publisher = super::Publisher::new();
    publisher.publish(snapshot);
    std::net::TcpStream::connect(address).unwrap();
}

#[test]
fn cluster_serves_when_its_endpoints_are_there() {
    let mut fixture = Fixture::new();
    assert!(
        fixture
            .send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[])
            .is_empty()
    );
    assert!(fixture.state.settle().is_none(), "nothing is warm yet");
    let wanted = fixture.state.wanted(Kind::Endpoints);
    assert_eq!(
        wanted.iter().map(|(_, name)| &**name).collect::<Vec<_>>(),
        ["a"]
    );
    fixture.send::<Eds>(Kind::Endpoints, &[("a", ENDPOINTS)], &[]);
    let snapshot = fixture.settled();
    assert_eq!(snapshot.cluster("a").unwrap().hosts.load().hosts.len(), 1);
}

#[test]
fn route_waits_for_its_cluster_and_listener_for_its_route() {
    let mut fixture = Fixture::new();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    assert!(fixture.state.settle().is_none());
    fixture.send::<Rds>(Kind::Route, &[("r", ROUTES)], &[]);
    assert!(
        fixture.state.settle().is_none(),
        "the route's cluster is not warm"
    );
    fixture.send::<Eds>(Kind::Endpoints, &[("a", ENDPOINTS)], &[]);
    let snapshot = fixture.settled();
    assert!(snapshot.routes.contains_key("r"));
    assert_eq!(snapshot.listeners.len(), 1);
    assert!(!fixture.state.is_warming());
}

#[test]
fn fetch_timeout_lets_waiting_parts_go_on() {
    let mut fixture = Fixture::new();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    fixture.state.give_up(Kind::Endpoints, "a");
    fixture.state.give_up(Kind::Route, "r");
    let snapshot = fixture.settled();
    assert!(snapshot.cluster("a").is_some());
    assert_eq!(snapshot.listeners.len(), 1);
}

#[test]
fn refused_resource_keeps_its_last_good_version_and_its_neighbours_pass() {
    let mut fixture = Fixture::new();
    let good = "{name: a, connect_timeout: 1s}";
    fixture.send::<Cds>(Kind::Cluster, &[("a", good)], &[]);
    fixture.settled();
    let bad = "{name: a, connect_timeout: 1s, lb_policy: CLUSTER_PROVIDED}";
    let rejections = fixture.send::<Cds>(Kind::Cluster, &[("a", bad), ("b", "{name: b}")], &[]);
    assert_eq!(rejections.len(), 1);
    assert_eq!(&*rejections[0].name, "a");
    assert_eq!(rejections[0].errors[0].path, "lb_policy");
    let snapshot = fixture.settled();
    assert!(snapshot.cluster("a").is_some() && snapshot.cluster("b").is_some());
    let dump = fixture.state.dump();
    assert!(dump.entries.iter().any(|entry| matches!(&entry.state, super::DumpState::Refused(reason) if reason.contains("lb_policy"))));
}

#[test]
fn a_refusal_names_what_is_not_valid_and_what_is_not_supported() {
    let mut fixture = Fixture::new();
    let refused = Cds {
        name: "a".to_owned(),
        // Not allowed by the API's rules, and not supported here.
        connect_timeout: Some(Duration {
            seconds: -1,
            nanos: 0,
        }),
        lb_subset_config: Some(Default::default()),
        ..Cds::default()
    };
    let rejections = fixture.state.update(
        Kind::Cluster,
        vec![packed("a", &refused)],
        &[],
        &mut fixture.host,
    );
    let paths: Vec<&str> = rejections[0]
        .errors
        .iter()
        .map(|error| error.path.as_str())
        .collect();
    assert!(paths.contains(&"connect_timeout"), "{paths:?}");
    assert!(paths.contains(&"lb_subset_config"), "{paths:?}");
    let of_timeout = paths.iter().filter(|path| **path == "connect_timeout");
    assert_eq!(of_timeout.count(), 1, "{paths:?}");
}

#[test]
fn changed_cluster_starts_from_the_endpoints_it_had() {
    let mut fixture = Fixture::new();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    fixture.send::<Eds>(Kind::Endpoints, &[("a", ENDPOINTS)], &[]);
    let before = fixture.settled();
    let changed = EDS_CLUSTER.replace("type: EDS", "type: EDS, connect_timeout: 2s");
    fixture.send::<Cds>(Kind::Cluster, &[("a", &changed)], &[]);
    let after = fixture.settled();
    let (before, after) = (before.cluster("a").unwrap(), after.cluster("a").unwrap());
    assert!(!Arc::ptr_eq(before, after));
    assert_eq!(after.hosts.load().hosts.len(), 1);
}

#[test]
fn removed_listener_ends_its_routes() {
    let mut fixture = Fixture::new();
    fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    fixture.send::<Rds>(Kind::Route, &[("r", ROUTES)], &[]);
    assert_eq!(fixture.settled().listeners.len(), 1);
    fixture.send::<Lds>(Kind::Listener, &[], &["l"]);
    let snapshot = fixture.settled();
    assert!(snapshot.listeners.is_empty() && snapshot.routes.is_empty());
    assert!(fixture.state.wanted(Kind::Route).is_empty());
}

#[test]
fn second_listener_on_an_address_is_refused() {
    let mut fixture = Fixture::new();
    let at = |name: &str| {
        LISTENER
            .replace("name: l,", &format!("name: {name},"))
            .replace("port_value: 0", "port_value: 39999")
    };
    fixture.send::<Lds>(Kind::Listener, &[("one", &at("one"))], &[]);
    let rejections = fixture.send::<Lds>(Kind::Listener, &[("two", &at("two"))], &[]);
    assert!(
        rejections[0].to_string().contains("duplicate address"),
        "{}",
        rejections[0]
    );
}

#[test]
fn changed_cluster_is_replaced_by_the_last_version_only() {
    let mut fixture = Fixture::new();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    fixture.send::<Eds>(Kind::Endpoints, &[("a", ENDPOINTS)], &[]);
    let first = fixture.settled();
    // Another service: its endpoints are not known, so this version warms.
    let to = |service: &str| {
        EDS_CLUSTER.replace(
            "eds_cluster_config: {",
            &format!("eds_cluster_config: {{service_name: {service}, "),
        )
    };
    fixture.send::<Cds>(Kind::Cluster, &[("a", &to("s1"))], &[]);
    assert!(fixture.state.settle().is_none());
    fixture.send::<Cds>(Kind::Cluster, &[("a", &to("s2"))], &[]);
    assert!(fixture.state.settle().is_none());
    // Late endpoints of the version that is no more change nothing.
    fixture.send::<Eds>(
        Kind::Endpoints,
        &[(
            "s1",
            &ENDPOINTS.replace("cluster_name: a", "cluster_name: s1"),
        )],
        &[],
    );
    assert!(fixture.state.settle().is_none());
    assert!(
        first.cluster("a").is_some(),
        "the last good version serves meanwhile"
    );
    fixture.send::<Eds>(
        Kind::Endpoints,
        &[(
            "s2",
            &ENDPOINTS.replace("cluster_name: a", "cluster_name: s2"),
        )],
        &[],
    );
    let snapshot = fixture.settled();
    assert_eq!(snapshot.cluster("a").unwrap().hosts.load().hosts.len(), 1);
    assert!(!fixture.state.is_warming());
}

#[test]
fn cluster_added_after_its_service_was_given_up_does_not_wait() {
    let mut fixture = Fixture::new();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    fixture.state.give_up(Kind::Endpoints, "a");
    fixture.settled();
    let other = EDS_CLUSTER.replace("name: a", "name: b").replace(
        "eds_cluster_config: {",
        "eds_cluster_config: {service_name: a, ",
    );
    fixture.send::<Cds>(Kind::Cluster, &[("b", &other)], &[]);
    assert!(fixture.settled().cluster("b").is_some());
}

#[test]
fn removed_endpoints_and_routes_stay_in_use_and_end_a_wait() {
    let mut fixture = Fixture::new();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    fixture.send::<Eds>(Kind::Endpoints, &[("a", ENDPOINTS)], &[]);
    fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    fixture.send::<Rds>(Kind::Route, &[("r", ROUTES)], &[]);
    let before = fixture.settled();
    fixture.send::<Eds>(Kind::Endpoints, &[], &["a"]);
    fixture.send::<Rds>(Kind::Route, &[], &["r"]);
    assert!(fixture.state.settle().is_none());
    assert_eq!(before.cluster("a").unwrap().hosts.load().hosts.len(), 1);
    // Of a name that never came, a removal says that it does not exist.
    fixture.send::<Cds>(
        Kind::Cluster,
        &[("n", &EDS_CLUSTER.replace("name: a", "name: n"))],
        &[],
    );
    assert!(fixture.state.settle().is_none());
    fixture.send::<Eds>(Kind::Endpoints, &[], &["n"]);
    assert!(fixture.settled().cluster("n").is_some());
}

#[test]
fn inline_routes_wait_for_their_clusters_and_must_know_them() {
    let mut fixture = Fixture::new();
    let inline = LISTENER.replace(
        "rds: {route_config_name: r, config_source: {ads: {}, resource_api_version: V3}}",
        &format!("route_config: {ROUTES}"),
    );
    let rejections = fixture.send::<Lds>(Kind::Listener, &[("l", &inline)], &[]);
    assert_eq!(
        rejections[0].errors[0].to_string(),
        "route_config.virtual_hosts[0].routes[0].route.cluster: route: unknown cluster 'a'"
    );
    fixture.state.settle();
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    assert!(
        fixture
            .send::<Lds>(Kind::Listener, &[("l", &inline)], &[])
            .is_empty()
    );
    assert!(fixture.state.settle().is_none(), "the cluster warms");
    fixture.send::<Eds>(Kind::Endpoints, &[("a", ENDPOINTS)], &[]);
    assert_eq!(fixture.settled().listeners.len(), 1);
}

#[test]
fn draining_connections_keep_their_routes() {
    let mut fixture = Fixture::new();
    fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    fixture.send::<Rds>(Kind::Route, &[("r", ROUTES)], &[]);
    let serving = fixture.settled();
    fixture.send::<Lds>(Kind::Listener, &[], &["l"]);
    let draining = fixture.settled();
    assert!(draining.listeners.is_empty());
    assert!(
        draining.routes.contains_key("r"),
        "`serving` stands for a connection that drains"
    );
    drop((serving, draining));
    fixture.send::<Cds>(Kind::Cluster, &[("b", "{name: b}")], &[]);
    assert!(fixture.settled().routes.is_empty());
}

#[test]
fn listener_that_takes_anothers_address_in_one_update_takes_its_sockets() {
    let mut fixture = Fixture::new();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let at = |name: &str| {
        LISTENER
            .replace("name: l,", &format!("name: {name},"))
            .replace("port_value: 0", &format!("port_value: {port}"))
    };
    assert!(
        fixture
            .send::<Lds>(Kind::Listener, &[("one", &at("one"))], &[])
            .is_empty()
    );
    fixture.send::<Rds>(Kind::Route, &[("r", ROUTES)], &[]);
    let before = fixture.settled();
    let rejections = fixture.send::<Lds>(Kind::Listener, &[("two", &at("two"))], &["one"]);
    assert!(rejections.is_empty(), "{rejections:?}");
    let after = fixture.settled();
    assert_eq!(&*after.listeners[0].config.name, "two");
    assert!(Arc::ptr_eq(
        &before.listeners[0].sockets[0],
        &after.listeners[0].sockets[0]
    ));
}

#[test]
fn static_names_are_not_taken_even_while_they_warm() {
    let mut fixture = Fixture::with(
        "{node: {id: n, cluster: c}, static_resources: {clusters: [{name: xds}, {name: s, type: EDS, eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}}]}, dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}}}",
    );
    for name in ["s", "xds"] {
        let rejections =
            fixture.send::<Cds>(Kind::Cluster, &[(name, &format!("{{name: {name}}}"))], &[]);
        assert!(
            rejections[0]
                .to_string()
                .contains("a static cluster has this name")
        );
    }
    fixture.send::<Cds>(Kind::Cluster, &[], &["s"]);
    assert!(fixture.state.static_cluster("s").is_some());
}

#[test]
fn one_name_from_two_sources_is_refused() {
    let mut fixture = Fixture::new();
    let path = "{path_config_source: {path: /nowhere/x.yaml}, resource_api_version: V3}";
    let ads = "{ads: {}, resource_api_version: V3}";
    fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    let other = EDS_CLUSTER.replace("name: a", "name: b").replace(
        &format!("eds_config: {ads}"),
        &format!("service_name: a, eds_config: {path}"),
    );
    let rejections = fixture.send::<Cds>(Kind::Cluster, &[("b", &other)], &[]);
    assert!(
        rejections[0]
            .to_string()
            .contains("EDS service 'a' comes from another source"),
        "{rejections:?}"
    );
    fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    let other = LISTENER.replace("name: l,", "name: m,").replace(
        &format!("config_source: {ads}"),
        &format!("config_source: {path}"),
    );
    let rejections = fixture.send::<Lds>(Kind::Listener, &[("m", &other)], &[]);
    assert!(
        rejections[0]
            .to_string()
            .contains("route configuration 'r' comes from another source"),
        "{rejections:?}"
    );
}

#[test]
fn ads_source_without_a_stream_is_refused() {
    let mut fixture = Fixture::with("{}");
    let rejections = fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]);
    assert_eq!(
        rejections[0].errors[0].path,
        "eds_cluster_config.eds_config"
    );
    let rejections = fixture.send::<Lds>(Kind::Listener, &[("l", LISTENER)], &[]);
    assert_eq!(rejections[0].errors[0].path, "rds.config_source");
}

#[test]
fn resource_goes_by_the_name_of_its_content() {
    let mut fixture = Fixture::new();
    let rejections = fixture.send::<Cds>(Kind::Cluster, &[("x", "{name: y}")], &[]);
    assert!(rejections[0].to_string().contains("its content says `y`"));
}

mod properties {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{
        http_connection_manager::RouteSource,
        route::{Action, ClusterSpecifier},
    };

    /// What a management server may do next, good and bad.
    #[derive(Clone, Debug)]
    enum Step {
        Cluster { name: u8, timeout: u8, is_eds: bool },
        BadCluster(u8),
        Endpoints(u8),
        GiveUp(u8),
        Route { name: u8, cluster: u8 },
        BadRoute(u8),
        Listener { name: u8, route: u8 },
        BadListener(u8),
        RemoveListener(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_u8, 1..4_u8, any::<bool>()).prop_map(|(name, timeout, is_eds)| Step::Cluster { name, timeout, is_eds }),
            1 => (0..3_u8).prop_map(Step::BadCluster),
            3 => (0..3_u8).prop_map(Step::Endpoints),
            1 => (0..3_u8).prop_map(Step::GiveUp),
            4 => (0..2_u8, 0..3_u8).prop_map(|(name, cluster)| Step::Route { name, cluster }),
            1 => (0..2_u8).prop_map(Step::BadRoute),
            3 => (0..2_u8, 0..2_u8).prop_map(|(name, route)| Step::Listener { name, route }),
            1 => (0..2_u8).prop_map(Step::BadListener),
            1 => (0..2_u8).prop_map(Step::RemoveListener),
        ]
    }

    fn apply(fixture: &mut Fixture, step: &Step) -> Vec<Rejection> {
        match step {
            Step::Cluster {
                name,
                timeout,
                is_eds,
            } => {
                let yaml = if *is_eds {
                    format!(
                        "{{name: c{name}, connect_timeout: {timeout}s, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}, resource_api_version: V3}}}}}}"
                    )
                } else {
                    format!("{{name: c{name}, connect_timeout: {timeout}s}}")
                };
                fixture.send::<Cds>(Kind::Cluster, &[(&format!("c{name}"), &yaml)], &[])
            }
            Step::BadCluster(name) => {
                let yaml = format!("{{name: c{name}, lb_policy: CLUSTER_PROVIDED}}");
                fixture.send::<Cds>(Kind::Cluster, &[(&format!("c{name}"), &yaml)], &[])
            }
            Step::Endpoints(name) => {
                let yaml = ENDPOINTS.replace("cluster_name: a", &format!("cluster_name: c{name}"));
                fixture.send::<Eds>(Kind::Endpoints, &[(&format!("c{name}"), &yaml)], &[])
            }
            Step::GiveUp(name) => {
                fixture.state.give_up(Kind::Endpoints, &format!("c{name}"));
                Vec::new()
            }
            Step::Route { name, cluster } => {
                let yaml = ROUTES
                    .replace("name: r", &format!("name: r{name}"))
                    .replace("cluster: a", &format!("cluster: c{cluster}"));
                fixture.send::<Rds>(Kind::Route, &[(&format!("r{name}"), &yaml)], &[])
            }
            Step::BadRoute(name) => {
                let yaml =
                    format!("{{name: r{name}, virtual_hosts: [{{name: v, domains: ['*', '*']}}]}}");
                fixture.send::<Rds>(Kind::Route, &[(&format!("r{name}"), &yaml)], &[])
            }
            Step::Listener { name, route } => {
                let yaml = LISTENER
                    .replace("name: l,", &format!("name: l{name},"))
                    .replace(
                        "route_config_name: r,",
                        &format!("route_config_name: r{route},"),
                    );
                fixture.send::<Lds>(Kind::Listener, &[(&format!("l{name}"), &yaml)], &[])
            }
            Step::BadListener(name) => {
                let yaml =
                    LISTENER.replace("name: l,", &format!("name: l{name}, enable_mptcp: true,"));
                fixture.send::<Lds>(Kind::Listener, &[(&format!("l{name}"), &yaml)], &[])
            }
            Step::RemoveListener(name) => {
                fixture.send::<Lds>(Kind::Listener, &[], &[&format!("l{name}")])
            }
        }
    }

    /// The clusters that the tables of a snapshot name, by table.
    fn named(snapshot: &Snapshot) -> Vec<(Arc<str>, Arc<str>)> {
        let mut named = Vec::new();
        for (name, table) in &snapshot.routes {
            for route in table
                .config
                .virtual_hosts
                .iter()
                .flat_map(|host| &host.routes)
            {
                if let Action::Forward(forward) = &route.action
                    && let ClusterSpecifier::Cluster(cluster) = &forward.cluster
                {
                    named.push((Arc::clone(name), Arc::clone(cluster)));
                }
            }
        }
        named
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn snapshots_keep_the_invariants(steps in prop::collection::vec(step(), 1..40)) {
            let mut fixture = Fixture::new();
            let mut last = Snapshot::default();
            let mut known = BTreeSet::new();
            for step in &steps {
                let rejections = apply(&mut fixture, step);
                let is_bad = matches!(step, Step::BadCluster(_) | Step::BadRoute(_) | Step::BadListener(_));
                prop_assert_eq!(!rejections.is_empty(), is_bad, "{:?}: {:?}", step, rejections);
                let before = known.clone();
                if let Step::Cluster { name, .. } = step {
                    known.insert(format!("c{name}"));
                }
                let Some(next) = fixture.state.settle() else { continue };
                // No cluster is ever removed here, so none that served may be missing.
                for name in last.clusters.keys() {
                    prop_assert!(next.clusters.contains_key(name), "lost cluster {}", name);
                }
                // A table that is new names no cluster that is known and not warm.
                let old = named(&last);
                for (table, cluster) in named(&next) {
                    let is_new = !old.contains(&(Arc::clone(&table), Arc::clone(&cluster)));
                    prop_assert!(
                        !is_new || next.clusters.contains_key(&cluster) || !before.contains(&*cluster),
                        "table {} names {}, which warms", table, cluster
                    );
                }
                for listener in &next.listeners {
                    let manager = listener.config.filter_chains[0].filter.http().unwrap();
                    let RouteSource::Rds { name, .. } = &manager.routes else { panic!("by RDS") };
                    prop_assert!(next.routes.contains_key(name), "listener without routes");
                }
                // What served stays until something good takes its place or the server takes it away.
                for listener in &last.listeners {
                    let is_gone = matches!(step, Step::RemoveListener(name) if *listener.config.name == *format!("l{name}"));
                    let is_there = next.listeners.iter().any(|one| one.config.name == listener.config.name);
                    prop_assert!(is_there || is_gone, "lost listener {}", listener.config.name);
                }
                last = next;
            }
        }
    }
}
