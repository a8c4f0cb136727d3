//! Scripted exchanges, one per rule of the protocol.

use std::time::{Duration, Instant};

use super::{Client, Event, ResourceError, Update, Verdict};
use crate::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use crate::{Any, Form, INVALID_ARGUMENT, Node, Request, Response, TypeUrl, WILDCARD};

const CDS: TypeUrl = TypeUrl::Cluster;
const EDS: TypeUrl = TypeUrl::Endpoint;
const RDS: TypeUrl = TypeUrl::Route;

fn client(form: Form) -> Client {
    let mut client = Client::new(
        form,
        Node {
            id: "n".to_owned(),
            ..Node::default()
        },
    );
    client.stream_opened();
    client
}

fn want(client: &mut Client, type_url: &TypeUrl, names: &[&str]) {
    client.subscribe(type_url, names.iter().copied(), None, Instant::now());
}

fn body(type_url: &TypeUrl, name: &str) -> Any {
    let mut value = vec![10, u8::try_from(name.len()).unwrap()];
    value.extend(name.bytes());
    Any {
        type_url: type_url.as_str().to_owned(),
        value,
    }
}

fn sotw(type_url: &TypeUrl, version: &str, nonce: &str, names: &[&str]) -> Response {
    Response::Sotw(DiscoveryResponse {
        version_info: version.to_owned(),
        nonce: nonce.to_owned(),
        type_url: type_url.as_str().to_owned(),
        resources: names.iter().map(|name| body(type_url, name)).collect(),
        ..Default::default()
    })
}

fn delta(type_url: &TypeUrl, nonce: &str, added: &[(&str, &str)], removed: &[&str]) -> Response {
    let resource = |(name, version): &(&str, &str)| Resource {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        resource: Some(body(type_url, name)),
        ..Default::default()
    };
    Response::Delta(DeltaDiscoveryResponse {
        nonce: nonce.to_owned(),
        type_url: type_url.as_str().to_owned(),
        resources: added.iter().map(resource).collect(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    })
}

fn sotw_request(client: &mut Client) -> DiscoveryRequest {
    match client.poll_request() {
        Some(Request::Sotw(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn delta_request(client: &mut Client) -> DeltaDiscoveryRequest {
    match client.poll_request() {
        Some(Request::Delta(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn update(client: &mut Client) -> Update {
    match client.poll_event() {
        Some(Event::Update(update)) => update,
        other => panic!("{other:?}"),
    }
}

fn names(update: &Update) -> Vec<&str> {
    update
        .added
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[test]
fn sotw_acks_nacks_and_keeps_the_last_good_version() {
    let mut client = client(Form::Sotw);
    want(&mut client, &CDS, &[WILDCARD]);
    want(&mut client, &RDS, &["r"]);
    let first = sotw_request(&mut client);
    assert_eq!(first.type_url, CDS.as_str());
    assert!(first.node.is_some() && first.resource_names.is_empty());
    let second = sotw_request(&mut client);
    assert!(second.node.is_none(), "the node is sent once per stream");
    assert_eq!(second.resource_names, ["r"]);
    assert!(client.poll_request().is_none());

    client.on_response(sotw(&CDS, "1", "n1", &["a", "b"]));
    let change = update(&mut client);
    assert_eq!(names(&change), ["a", "b"]);
    assert!(
        client.poll_request().is_none(),
        "no answer before the verdict"
    );
    assert!(client.verdict(change.id, &Verdict::Ack));
    assert!(
        !client.verdict(change.id, &Verdict::Ack),
        "one verdict per update"
    );
    let ack = sotw_request(&mut client);
    assert_eq!(
        (ack.version_info.as_str(), ack.response_nonce.as_str()),
        ("1", "n1")
    );
    assert!(ack.error_detail.is_none());

    client.on_response(sotw(&CDS, "2", "n2", &["b"]));
    let change = update(&mut client);
    assert_eq!(change.removed, ["a"], "a missing cluster is a removed one");
    client.verdict(change.id, &Verdict::Nack("no".to_owned()));
    let nack = sotw_request(&mut client);
    assert_eq!(
        (nack.version_info.as_str(), nack.response_nonce.as_str()),
        ("1", "n2")
    );
    let detail = nack.error_detail.unwrap();
    assert_eq!(
        (detail.code, detail.message.as_str()),
        (INVALID_ARGUMENT, "no")
    );

    // Nothing of it counts: the next response removes `a` again.
    client.on_response(sotw(&CDS, "3", "n3", &["b"]));
    let change = update(&mut client);
    assert_eq!(change.removed, ["a"]);
    client.verdict(change.id, &Verdict::Ack);

    client.stream_closed();
    client.stream_opened();
    let again = sotw_request(&mut client);
    assert_eq!(
        (again.version_info.as_str(), again.response_nonce.as_str()),
        ("3", "")
    );
    assert!(again.node.is_some());
    let stats = client
        .stats()
        .find(|(type_url, _)| **type_url == CDS)
        .unwrap()
        .1;
    assert_eq!(
        (
            stats.update_success,
            stats.update_rejected,
            stats.update_failure
        ),
        (2, 1, 1)
    );
    assert_eq!(stats.version, "3");
}

#[test]
fn sotw_routes_are_not_removed_by_being_absent() {
    let mut client = client(Form::Sotw);
    want(&mut client, &RDS, &["a", "b"]);
    sotw_request(&mut client);
    client.on_response(sotw(&RDS, "1", "n1", &["a", "b"]));
    let change = update(&mut client);
    client.verdict(change.id, &Verdict::Ack);
    client.on_response(sotw(&RDS, "2", "n2", &["b", "never-wanted"]));
    let change = update(&mut client);
    assert_eq!((names(&change), change.removed.len()), (vec!["b"], 0));
}

#[test]
fn sotw_wildcard_is_legacy_then_explicit_then_left() {
    let mut client = client(Form::Sotw);
    want(&mut client, &CDS, &[WILDCARD]);
    assert!(sotw_request(&mut client).resource_names.is_empty());
    want(&mut client, &CDS, &["a"]);
    assert_eq!(sotw_request(&mut client).resource_names, [WILDCARD, "a"]);
    client.unsubscribe(&CDS, ["a"]);
    assert_eq!(sotw_request(&mut client).resource_names, [WILDCARD]);
    client.unsubscribe(&CDS, [WILDCARD]);
    assert!(sotw_request(&mut client).resource_names.is_empty());
    assert!(client.poll_request().is_none());

    // Straight from the legacy form: an empty list would change nothing.
    client.stream_closed();
    client.stream_opened();
    want(&mut client, &CDS, &[WILDCARD]);
    assert!(sotw_request(&mut client).resource_names.is_empty());
    client.unsubscribe(&CDS, [WILDCARD]);
    assert_eq!(sotw_request(&mut client).resource_names, [WILDCARD]);
    assert!(sotw_request(&mut client).resource_names.is_empty());
    assert!(client.poll_request().is_none());
}

#[test]
fn names_found_in_an_update_leave_in_one_request_after_the_ack() {
    for form in [Form::Sotw, Form::Delta] {
        let mut client = client(form);
        want(&mut client, &CDS, &[WILDCARD]);
        client.poll_request().unwrap();
        client.on_response(match form {
            Form::Sotw => sotw(&CDS, "1", "n1", &["a", "b"]),
            Form::Delta => delta(&CDS, "n1", &[("a", "1"), ("b", "1")], &[]),
        });
        let change = update(&mut client);
        want(&mut client, &EDS, &["a"]);
        assert!(client.poll_request().is_none());
        want(&mut client, &EDS, &["b"]);
        client.verdict(change.id, &Verdict::Ack);
        let (ack, names) = match (client.poll_request(), client.poll_request()) {
            (Some(Request::Sotw(ack)), Some(Request::Sotw(eds))) => {
                (ack.response_nonce, eds.resource_names)
            }
            (Some(Request::Delta(ack)), Some(Request::Delta(eds))) => {
                (ack.response_nonce, eds.resource_names_subscribe)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (ack.as_str(), names),
            ("n1", vec!["a".to_owned(), "b".to_owned()])
        );
        client.pause(&EDS);
        want(&mut client, &EDS, &["c"]);
        assert!(client.poll_request().is_none());
        client.resume(&EDS);
        assert!(client.poll_request().is_some());
    }
}

#[test]
fn delta_tracks_names_versions_and_partial_refusals() {
    let mut client = client(Form::Delta);
    want(&mut client, &RDS, &["a", "b"]);
    let first = delta_request(&mut client);
    assert_eq!(first.resource_names_subscribe, ["a", "b"]);
    assert!(first.initial_resource_versions.is_empty() && first.response_nonce.is_empty());
    client.on_response(delta(&RDS, "n1", &[("a", "1"), ("b", "1")], &[]));
    let change = update(&mut client);
    let refused = ResourceError {
        name: "b".to_owned(),
        reason: "odd".to_owned(),
    };
    client.verdict(change.id, &Verdict::Partial(vec![refused]));
    let nack = delta_request(&mut client);
    assert_eq!(nack.response_nonce, "n1");
    assert_eq!(nack.error_detail.unwrap().message, "b: odd");
    assert!(nack.resource_names_subscribe.is_empty());

    // Dropped and wanted again: it must be asked for again, though the names are the same.
    client.unsubscribe(&RDS, ["a"]);
    want(&mut client, &RDS, &["a"]);
    let again = delta_request(&mut client);
    assert_eq!(again.resource_names_subscribe, ["a"]);
    assert!(again.resource_names_unsubscribe.is_empty() && again.response_nonce.is_empty());
    client.on_response(delta(&RDS, "n2", &[("a", "2")], &["b", "unknown"]));
    let change = update(&mut client);
    assert_eq!(
        (names(&change), change.removed.clone()),
        (vec!["a"], vec![])
    );
    client.verdict(change.id, &Verdict::Ack);
    delta_request(&mut client);
    client.unsubscribe(&RDS, ["b"]);
    assert_eq!(delta_request(&mut client).resource_names_unsubscribe, ["b"]);

    client.stream_closed();
    client.stream_opened();
    let again = delta_request(&mut client);
    assert_eq!(again.resource_names_subscribe, ["a"]);
    assert_eq!(
        again.initial_resource_versions.get("a").map(String::as_str),
        Some("2")
    );
    assert_eq!(again.initial_resource_versions.len(), 1);
}

#[test]
fn a_verdict_that_outlives_its_stream_counts_but_is_not_sent() {
    let mut client = client(Form::Sotw);
    want(&mut client, &CDS, &[WILDCARD]);
    sotw_request(&mut client);
    client.on_response(sotw(&CDS, "7", "old", &["a"]));
    let change = update(&mut client);
    client.stream_closed();
    client.stream_opened();
    assert!(
        client.poll_request().is_none(),
        "the version to resume from is not known yet"
    );
    client.verdict(change.id, &Verdict::Ack);
    let first = sotw_request(&mut client);
    assert_eq!(
        (first.version_info.as_str(), first.response_nonce.as_str()),
        ("7", "")
    );
    assert!(client.poll_request().is_none());
}

#[test]
fn a_second_response_waits_for_the_first_verdict() {
    let mut client = client(Form::Sotw);
    want(&mut client, &CDS, &[WILDCARD]);
    sotw_request(&mut client);
    for version in 0..16 {
        assert!(client.wants_responses());
        client.on_response(sotw(
            &CDS,
            &version.to_string(),
            &format!("n{version}"),
            &[],
        ));
    }
    client.on_response(sotw(&CDS, "16", "n16", &[]));
    assert!(!client.wants_responses());
    for version in 0..=16 {
        let change = update(&mut client);
        assert_eq!(change.version, version.to_string());
        assert!(client.poll_event().is_none());
        client.verdict(change.id, &Verdict::Ack);
        assert_eq!(
            sotw_request(&mut client).response_nonce,
            format!("n{version}")
        );
    }
}

#[test]
fn unanswered_names_time_out_once() {
    let mut client = client(Form::Delta);
    let start = Instant::now();
    let second = Duration::from_secs(1);
    client.subscribe(&RDS, ["a", "b"], Some(second), start);
    client.subscribe(&CDS, [WILDCARD], Some(Duration::ZERO), start);
    client.poll_request();
    client.poll_request();
    assert_eq!(client.next_deadline(), Some(start + second));
    client.on_response(delta(&RDS, "n1", &[("a", "1")], &[]));
    let change = update(&mut client);
    client.verdict(change.id, &Verdict::Ack);
    client.on_tick(start + second / 2);
    assert!(client.poll_event().is_none());
    client.on_tick(start + second);
    let expected = Event::InitialFetchTimeout {
        type_url: RDS,
        name: "b".to_owned(),
    };
    assert_eq!(client.poll_event(), Some(expected));
    client.on_tick(start + second * 2);
    assert_eq!((client.poll_event(), client.next_deadline()), (None, None));
    // The answer may still come: that it does not exist.
    client.on_response(delta(&RDS, "n2", &[], &["b"]));
    assert_eq!(update(&mut client).removed, ["b"]);
}

/// What the response must be refused with.
fn refusal(form: Form, response: Response) -> String {
    let mut client = client(form);
    want(&mut client, &CDS, &[WILDCARD]);
    client.poll_request().unwrap();
    client.on_response(response);
    let Some(Event::Malformed { reason, .. }) = client.poll_event() else {
        panic!("taken");
    };
    let error = match client.poll_request() {
        Some(Request::Sotw(request)) => request.error_detail,
        Some(Request::Delta(request)) => request.error_detail,
        None => panic!("not answered: {reason}"),
    };
    assert_eq!(error.unwrap().message, reason);
    assert!(client.poll_request().is_none() && client.poll_event().is_none());
    reason
}

#[test]
fn malformed_responses_are_refused_with_their_reason() {
    let edit = |change: fn(&mut DiscoveryResponse)| {
        let Response::Sotw(mut response) = sotw(&CDS, "1", "n1", &["a"]) else {
            panic!()
        };
        change(&mut response);
        refusal(Form::Sotw, Response::Sotw(response))
    };
    let twice = refusal(Form::Sotw, sotw(&CDS, "1", "n1", &["a", "a"]));
    assert!(twice.starts_with("duplicate name a found"), "{twice}");
    let nameless = refusal(Form::Sotw, sotw(&CDS, "1", "n1", &["a", ""]));
    assert_eq!(
        nameless,
        "resources[1]: the resource's name must not be empty"
    );
    let other = edit(|response| response.resources[0].type_url = "x/y".to_owned());
    assert!(
        other.starts_with("resources[0]: type URL x/y does not match"),
        "{other}"
    );
    let garbage = edit(|response| response.resources[0].value = vec![0xff, 0xff]);
    assert!(
        garbage.starts_with("resources[0]: cannot be decoded as"),
        "{garbage}"
    );
    let bare = edit(|response| response.nonce.clear());
    assert_eq!(bare, "nonce: must not be empty");

    let edit = |change: fn(&mut DeltaDiscoveryResponse)| {
        let Response::Delta(mut response) = delta(&CDS, "n1", &[("a", "1")], &[]) else {
            panic!()
        };
        change(&mut response);
        refusal(Form::Delta, Response::Delta(response))
    };
    let both = edit(|response| response.removed_resources.push("a".to_owned()));
    assert!(both.starts_with("duplicate name a found"), "{both}");
    let heartbeat = edit(|response| response.resources[0].resource = None);
    assert!(
        heartbeat.starts_with("resources[0].resource: missing"),
        "{heartbeat}"
    );
    let ttl = edit(|response| response.resources[0].ttl = Some(Default::default()));
    assert_eq!(ttl, "resources[0].ttl: not supported");
    let empty = edit(|response| response.removed_resources.push(String::new()));
    assert_eq!(empty, "removed_resources[0]: must not be empty");
}

#[test]
fn responses_of_unrequested_types_or_of_the_other_form_are_reported_only() {
    let mut client = client(Form::Sotw);
    want(&mut client, &CDS, &[WILDCARD]);
    sotw_request(&mut client);
    client.on_response(sotw(&RDS, "1", "n1", &["a"]));
    client.on_response(sotw(&TypeUrl::from(""), "1", "n1", &[]));
    client.on_response(delta(&CDS, "n1", &[("a", "1")], &[]));
    for _ in 0..3 {
        assert!(matches!(client.poll_event(), Some(Event::Malformed { .. })));
    }
    assert!(client.poll_request().is_none() && client.poll_event().is_none());
}
