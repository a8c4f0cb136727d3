//! Warming and make-before-break, driven by messages as they come over the wire.

use std::{sync::Arc, time::SystemTime};

use outrigger_proto::google::protobuf::Any;

use super::{
    Origin, Resource, Snapshot, State,
    state::{Host, Kind, Rejection},
};
use crate::{
    bootstrap::{Overrides, load},
    config,
    listener::{Active, Build},
    telemetry::{access_log::AccessLogs, otlp::Exporters, stats::Registry},
    upstream::Cluster,
};

struct FakeHost(Build);

impl Host for FakeHost {
    fn activate(
        &mut self,
        config: Arc<config::listener::Listener>,
        previous: Option<&Arc<Active>>,
    ) -> Result<Arc<Active>, String> {
        Active::new(config, previous, &self.0)
    }

    fn discover(&mut self, _cluster: &Arc<Cluster>) {}
}

struct Fixture {
    state: State,
    host: FakeHost,
}

impl Fixture {
    fn new() -> Self {
        let registry = Registry::new(1);
        let mut host = FakeHost(Build {
            registry: registry.clone(),
            workers: 1,
            access_logs: AccessLogs::new(&registry),
            exporters: Exporters::new(&registry).0,
            own_address: std::net::Ipv4Addr::LOCALHOST.into(),
            service_cluster: Arc::from(""),
            service_node: Arc::from(""),
        });
        let bootstrap = load("{}", &Overrides::default()).unwrap();
        let mut state = State::new(&bootstrap, &registry, &mut host).unwrap();
        state.settle();
        Self { state, host }
    }

    fn send<M>(&mut self, kind: Kind, messages: &[(&str, &str)], removed: &[&str]) -> Vec<Rejection>
    where
        M: prost::Message + Default + prost::Name,
    {
        let added = messages.iter().map(|(name, yaml)| resource::<M>(name, yaml)).collect();
        let removed = removed.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>();
        self.state.update(kind, added, &removed, &mut self.host)
    }

    fn settled(&mut self) -> Snapshot {
        self.state.settle().expect("something changed")
    }
}

fn resource<M: prost::Message + Default + prost::Name>(name: &str, yaml: &str) -> Resource {
    let value = outrigger_proto::parse_yaml(yaml).unwrap();
    let message = outrigger_proto::message_from_value::<M>(value).unwrap();
    Resource {
        name: Arc::from(name),
        version: Arc::from("1"),
        body: Any { type_url: M::type_url(), value: message.encode_to_vec() },
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
fn cluster_serves_when_its_endpoints_are_there() {
    let mut fixture = Fixture::new();
    assert!(fixture.send::<Cds>(Kind::Cluster, &[("a", EDS_CLUSTER)], &[]).is_empty());
    assert!(fixture.state.settle().is_none(), "nothing is warm yet");
    let wanted = fixture.state.wanted(Kind::Endpoints);
    assert_eq!(wanted.iter().map(|(_, name)| &**name).collect::<Vec<_>>(), ["a"]);
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
    assert!(fixture.state.settle().is_none(), "the route's cluster is not warm");
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
    let bad = "{name: a, connect_timeout: 1s, lb_policy: MAGLEV}";
    let rejections =
        fixture.send::<Cds>(Kind::Cluster, &[("a", bad), ("b", "{name: b}")], &[]);
    assert_eq!(rejections.len(), 1);
    assert_eq!(&*rejections[0].name, "a");
    assert_eq!(rejections[0].errors[0].path, "lb_policy");
    let snapshot = fixture.settled();
    assert!(snapshot.cluster("a").is_some() && snapshot.cluster("b").is_some());
    let dump = fixture.state.dump();
    assert!(dump.entries.iter().any(|entry| matches!(&entry.state, super::DumpState::Refused(reason) if reason.contains("lb_policy"))));
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
        LISTENER.replace("name: l,", &format!("name: {name},")).replace("port_value: 0", "port_value: 39999")
    };
    fixture.send::<Lds>(Kind::Listener, &[("one", &at("one"))], &[]);
    let rejections = fixture.send::<Lds>(Kind::Listener, &[("two", &at("two"))], &[]);
    assert!(rejections[0].to_string().contains("duplicate address"), "{}", rejections[0]);
}
