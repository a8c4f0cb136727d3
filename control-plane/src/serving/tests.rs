//! The account of changes, without sockets.

use std::time::Duration;

use outrigger_mesh::parse;
use outrigger_xds::{Form, TypeUrl};

use super::*;

fn model(version: u64, port: u16) -> Update {
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{ports: [{{port: {port}}}]}}}}"
    );
    let objects = parse::parse_file("web.yaml", &text).objects;
    let objects: Vec<_> = objects.into_iter().map(|located| located.object).collect();
    let changed = objects.iter().map(|object| object.reference()).collect();
    let model = Arc::new(Model::build(version, objects));
    Update {
        model,
        objects: changed,
        noticed: Instant::now(),
        noticed_at: SystemTime::now(),
    }
}

fn stream(id: u64) -> StreamInfo {
    let node = outrigger_xds::Node {
        id: format!("p{id}"),
        ..Default::default()
    };
    StreamInfo {
        id: StreamId(id),
        node,
        peer: None,
        form: Form::Delta,
        connected_at: SystemTime::now(),
    }
}

fn state(in_sync: bool) -> Vec<TypeState> {
    vec![TypeState {
        type_url: TypeUrl::Cluster,
        wildcard: true,
        names: Vec::new(),
        version_sent: Some("v".to_owned()),
        sent_at: None,
        version_acked: None,
        acked_at: None,
        nack: None,
        resources: 1,
        in_sync,
    }]
}

#[test]
fn streams_wait_for_the_first_model() {
    let serving = Serving::new();
    let receiver = serving.connected(&stream(1)).unwrap();
    assert!(receiver.borrow().is_none());
    serving.publish(model(1, 80));
    assert!(receiver.borrow().is_some());
}

#[test]
fn an_acknowledgement_of_an_older_snapshot_is_not_one_of_the_latest() {
    let serving = Serving::new();
    serving.publish(model(1, 80));
    let receiver = serving.connected(&stream(1)).unwrap();
    let first = receiver.borrow().clone().unwrap();
    serving.observed(StreamId(1), Some(&first), state(true));
    assert_eq!(serving.counts(), (1, 1));
    serving.publish(model(2, 81));
    let second = receiver.borrow().clone().unwrap();
    // The stream has not seen the second snapshot yet.
    serving.observed(StreamId(1), Some(&first), state(true));
    assert_eq!(serving.changes()[0].acked, 0);
    assert_eq!(serving.counts(), (1, 0));
    serving.observed(StreamId(1), Some(&second), state(false));
    assert_eq!(serving.changes()[0].acked, 0);
    serving.observed(StreamId(1), Some(&second), state(true));
    let change = &serving.changes()[0];
    assert_eq!((change.version, change.proxies, change.acked), (2, 1, 1));
    assert!(change.ack_ms.is_some());
}

#[test]
fn proxies_that_leave_are_not_waited_for() {
    let serving = Serving::new();
    serving.publish(model(1, 80));
    let mut snapshots = Vec::new();
    for id in [1, 2] {
        let receiver = serving.connected(&stream(id)).unwrap();
        let snapshot = receiver.borrow().clone().unwrap();
        serving.observed(StreamId(id), Some(&snapshot), state(true));
        snapshots.push(receiver);
    }
    serving.publish(model(2, 81));
    let second = snapshots[0].borrow().clone().unwrap();
    serving.observed(StreamId(1), Some(&second), state(true));
    assert!(serving.changes()[0].ack_ms.is_none());
    serving.disconnected(StreamId(2), "killed");
    let change = &serving.changes()[0];
    assert_eq!(
        (change.proxies, change.acked, change.gone, change.pending),
        (2, 1, 1, 0)
    );
    assert!(change.ack_ms.is_some());
}

#[test]
fn proxies_of_one_scope_share_what_they_get() {
    let serving = Serving::new();
    serving.publish(model(1, 80));
    let one = serving.connected(&stream(1)).unwrap();
    let two = serving.connected(&stream(2)).unwrap();
    serving.publish(model(2, 81));
    let (one, two) = (one.borrow().clone().unwrap(), two.borrow().clone().unwrap());
    for kind in [TypeUrl::Cluster, TypeUrl::Endpoint, TypeUrl::Route] {
        assert!(Arc::ptr_eq(
            one.resources(&kind).unwrap(),
            two.resources(&kind).unwrap()
        ));
    }
    // A version that says the same for a proxy asks nothing of it.
    serving.observed(StreamId(1), Some(&one), state(true));
    serving.disconnected(StreamId(2), "done");
    serving.publish(model(3, 81));
    let change = &serving.changes()[0];
    assert_eq!((change.version, change.proxies), (3, 0));
    assert!(change.ack_ms.is_some());
    assert!(Duration::from_secs(60).as_secs_f64() * 1000.0 > change.ack_ms.unwrap());
}

#[test]
fn a_node_that_makes_no_sense_is_refused_with_the_path() {
    use outrigger_proto::{envoy::config::core::v3, message_from_value};
    let serving = Serving::new();
    let mut info = stream(1);
    info.node = message_from_value::<v3::Node>(serde_json::json!({
        "id": "p1", "metadata": {"outrigger": {"outbuond": "127.0.0.1:1"}},
    }))
    .unwrap();
    let status = serving.connected(&info).unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("node.metadata.outrigger.outbuond: unknown field"),
        "{}",
        status.message()
    );
}
