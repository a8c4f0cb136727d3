//! Scripted exchanges, one per rule of the protocol.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Resource, Snapshot, Stream, TypeState};
use crate::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::{Form, Node, Request, Response, RpcStatus, TypeUrl, WILDCARD};

const CDS: TypeUrl = TypeUrl::Cluster;
const EDS: TypeUrl = TypeUrl::Endpoint;
const LDS: TypeUrl = TypeUrl::Listener;
const RDS: TypeUrl = TypeUrl::Route;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(100)
}

fn snapshot(items: &[(TypeUrl, &str, &str)]) -> Arc<Snapshot> {
    let mut builder = Snapshot::builder();
    for (type_url, name, body) in items {
        builder.insert(type_url, *name, Resource::new(body.as_bytes().to_vec()));
    }
    Arc::new(builder.build())
}

fn stream(form: Form, items: &[(TypeUrl, &str, &str)]) -> Stream {
    let mut stream = Stream::new(form);
    stream.set_snapshot(snapshot(items));
    stream
}

fn ask(type_url: &TypeUrl, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node::default()),
        type_url: type_url.as_str().to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn subscribe(type_url: &TypeUrl, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node::default()),
        type_url: type_url.as_str().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn send(stream: &mut Stream, request: Request) {
    stream.on_request(request, now()).unwrap();
}

fn error(text: &str) -> Option<RpcStatus> {
    Some(RpcStatus {
        code: 3,
        message: text.to_owned(),
        details: Vec::new(),
    })
}

fn sotw(stream: &mut Stream) -> DiscoveryResponse {
    match stream.poll_response(now()) {
        Some(Response::Sotw(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn delta(stream: &mut Stream) -> DeltaDiscoveryResponse {
    match stream.poll_response(now()) {
        Some(Response::Delta(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn answer(stream: &mut Stream, response: &DeltaDiscoveryResponse, nack: Option<&str>) {
    let mut request = subscribe(&TypeUrl::from(response.type_url.as_str()), &[]);
    request.response_nonce.clone_from(&response.nonce);
    request.error_detail = nack.and_then(error);
    send(stream, Request::Delta(request));
}

fn bodies(response: &DiscoveryResponse) -> Vec<&[u8]> {
    response
        .resources
        .iter()
        .map(|any| any.value.as_slice())
        .collect()
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

fn state(stream: &Stream, type_url: &TypeUrl) -> TypeState {
    stream
        .state()
        .into_iter()
        .find(|state| state.type_url == *type_url)
        .unwrap()
}

#[test]
fn sotw_sends_whole_clusters_but_only_changed_routes() {
    let mut stream = stream(
        Form::Sotw,
        &[
            (CDS, "a", "1"),
            (CDS, "b", "1"),
            (RDS, "r", "1"),
            (RDS, "s", "1"),
        ],
    );
    send(&mut stream, Request::Sotw(ask(&CDS, &[])));
    let clusters = sotw(&mut stream);
    assert_eq!(bodies(&clusters), [b"1", b"1"]);
    assert!(
        stream.poll_response(now()).is_none(),
        "one response until it is answered"
    );
    let mut ack = ask(&CDS, &[]);
    ack.response_nonce.clone_from(&clusters.nonce);
    ack.version_info.clone_from(&clusters.version_info);
    send(&mut stream, Request::Sotw(ack));
    send(&mut stream, Request::Sotw(ask(&RDS, &["r", "s", "none"])));
    let routes = sotw(&mut stream);
    assert_eq!(bodies(&routes).len(), 2);
    let mut ack = ask(&RDS, &["r", "s", "none"]);
    ack.response_nonce.clone_from(&routes.nonce);
    send(&mut stream, Request::Sotw(ack));
    assert!(stream.poll_response(now()).is_none());
    assert!(stream.state().iter().all(|state| state.in_sync));

    stream.set_snapshot(snapshot(&[
        (CDS, "a", "2"),
        (CDS, "b", "1"),
        (RDS, "r", "1"),
        (RDS, "s", "2"),
    ]));
    let clusters = sotw(&mut stream);
    assert_eq!(bodies(&clusters), [b"2", b"1"]);
    assert!(
        stream.poll_response(now()).is_none(),
        "routes wait for the clusters' ACK"
    );
    assert!(!state(&stream, &CDS).in_sync);
    let mut ack = ask(&CDS, &[]);
    ack.response_nonce.clone_from(&clusters.nonce);
    send(&mut stream, Request::Sotw(ack));
    let routes = sotw(&mut stream);
    assert_eq!(bodies(&routes), [b"2"]);
}

#[test]
fn sotw_resumes_by_version_and_ignores_stale_nonces() {
    let items = [(CDS, "a", "1"), (RDS, "r", "1")];
    let mut first = stream(Form::Sotw, &items);
    send(&mut first, Request::Sotw(ask(&CDS, &[])));
    let clusters = sotw(&mut first);
    send(&mut first, Request::Sotw(ask(&RDS, &["r"])));
    // A request sent before the response was seen does not answer it.
    let mut stale = ask(&CDS, &["x"]);
    stale.response_nonce = "another".to_owned();
    send(&mut first, Request::Sotw(stale));
    assert!(state(&first, &CDS).wildcard && state(&first, &CDS).version_acked.is_none());

    let mut second = stream(Form::Sotw, &items);
    let mut resume = ask(&CDS, &[]);
    resume.version_info = clusters.version_info;
    send(&mut second, Request::Sotw(resume));
    assert!(second.poll_response(now()).is_none());
    assert!(state(&second, &CDS).in_sync);
    second.set_snapshot(snapshot(&[]));
    assert!(
        second.poll_response(now()).is_none(),
        "removals wait for the other types at first"
    );
    let later = now() + Duration::from_secs(5);
    let Some(Response::Sotw(removal)) = second.poll_response(later) else {
        panic!()
    };
    assert!(removal.resources.is_empty());
}

#[test]
fn sotw_nacked_state_is_not_sent_again_until_it_changes() {
    let mut stream = stream(Form::Sotw, &[(LDS, "l", "bad")]);
    send(&mut stream, Request::Sotw(ask(&LDS, &[])));
    let bad = sotw(&mut stream);
    let mut nack = ask(&LDS, &[]);
    nack.response_nonce.clone_from(&bad.nonce);
    nack.error_detail = error("l: odd");
    send(&mut stream, Request::Sotw(nack));
    assert!(stream.poll_response(now()).is_none());
    let seen = state(&stream, &LDS);
    assert_eq!(seen.nack.as_ref().unwrap().message, "l: odd");
    assert_eq!(
        (seen.nack.unwrap().version, seen.in_sync),
        (bad.version_info, false)
    );
    stream.set_snapshot(snapshot(&[(LDS, "l", "good")]));
    assert_eq!(bodies(&sotw(&mut stream)), [b"good"]);
}

#[test]
fn sotw_empty_list_is_everything_only_before_names_and_only_for_whole_types() {
    let mut stream = stream(Form::Sotw, &[(CDS, "a", "1"), (EDS, "a", "1")]);
    send(&mut stream, Request::Sotw(ask(&EDS, &[])));
    assert!(!state(&stream, &EDS).wildcard);
    send(&mut stream, Request::Sotw(ask(&CDS, &["a", WILDCARD])));
    assert!(state(&stream, &CDS).wildcard);
    let response = sotw(&mut stream);
    let mut ack = ask(&CDS, &[]);
    ack.response_nonce = response.nonce;
    send(&mut stream, Request::Sotw(ack));
    assert!(!state(&stream, &CDS).wildcard);
    assert_eq!(state(&stream, &CDS).resources, 0);
}

#[test]
fn delta_sends_only_what_changed_and_answers_for_what_does_not_exist() {
    let mut stream = stream(Form::Delta, &[(RDS, "a", "1"), (RDS, "b", "1")]);
    send(
        &mut stream,
        Request::Delta(subscribe(&RDS, &["a", "b", "none"])),
    );
    let first = delta(&mut stream);
    assert_eq!(
        (names(&first), first.removed_resources.clone()),
        (vec!["a", "b"], vec!["none".to_owned()])
    );
    answer(&mut stream, &first, None);
    assert!(stream.poll_response(now()).is_none());
    stream.set_snapshot(snapshot(&[
        (RDS, "a", "2"),
        (RDS, "b", "1"),
        (RDS, "c", "1"),
    ]));
    let second = delta(&mut stream);
    assert_eq!(names(&second), ["a"]);
    // Changes while a response is unanswered become one.
    stream.set_snapshot(snapshot(&[(RDS, "a", "3"), (RDS, "b", "2")]));
    stream.set_snapshot(snapshot(&[(RDS, "a", "2"), (RDS, "b", "3")]));
    assert!(stream.poll_response(now()).is_none());
    answer(&mut stream, &second, None);
    let third = delta(&mut stream);
    assert_eq!(names(&third), ["b"]);
    answer(&mut stream, &third, None);
    // A name subscribed to again is sent again.
    send(&mut stream, Request::Delta(subscribe(&RDS, &["a"])));
    assert_eq!(names(&delta(&mut stream)), ["a"]);
}

#[test]
fn delta_resumes_by_resource_versions_and_answers_an_empty_wildcard() {
    let items = [(CDS, "a", "1"), (CDS, "b", "1")];
    let mut first = stream(Form::Delta, &items);
    send(&mut first, Request::Delta(subscribe(&CDS, &[])));
    let all = delta(&mut first);
    assert_eq!(names(&all), ["a", "b"]);
    let mut second = stream(Form::Delta, &items);
    let mut resume = subscribe(&CDS, &[]);
    let versions = all
        .resources
        .iter()
        .map(|one| (one.name.clone(), one.version.clone()));
    resume.initial_resource_versions = versions.collect();
    resume
        .initial_resource_versions
        .insert("b".to_owned(), "old".to_owned());
    resume
        .initial_resource_versions
        .insert("gone".to_owned(), "1".to_owned());
    send(&mut second, Request::Delta(resume));
    let update = delta(&mut second);
    assert_eq!(
        (names(&update), update.removed_resources.len()),
        (vec!["b"], 0)
    );
    answer(&mut second, &update, None);
    let later = now() + Duration::from_secs(5);
    let Some(Response::Delta(removal)) = second.poll_response(later) else {
        panic!()
    };
    assert_eq!(removal.removed_resources, ["gone"]);

    let mut empty = stream(Form::Delta, &[]);
    send(&mut empty, Request::Delta(subscribe(&CDS, &[])));
    let nothing = delta(&mut empty);
    assert!(nothing.resources.is_empty() && nothing.removed_resources.is_empty());
}

#[test]
fn clusters_are_removed_after_routes_no_longer_name_them() {
    for form in [Form::Sotw, Form::Delta] {
        let mut stream = stream(form, &[(CDS, "old", "1"), (RDS, "r", "old")]);
        for (type_url, names) in [
            (CDS, vec![WILDCARD]),
            (LDS, vec![WILDCARD]),
            (RDS, vec!["r"]),
        ] {
            send(
                &mut stream,
                match form {
                    Form::Sotw => Request::Sotw(ask(&type_url, &names)),
                    Form::Delta => Request::Delta(subscribe(&type_url, &names)),
                },
            );
        }
        settle(&mut stream);
        stream.set_snapshot(snapshot(&[(CDS, "new", "1"), (RDS, "r", "new")]));
        let order = settle(&mut stream);
        let clusters = |both: bool| match form {
            Form::Sotw => (CDS, if both { 2 } else { 1 }, 0),
            Form::Delta => (CDS, usize::from(both), usize::from(!both)),
        };
        assert_eq!(
            order,
            [clusters(true), (RDS, 1, 0), clusters(false)],
            "{form}"
        );
    }
}

/// ACKs everything; returns type, resources and removals of each response.
fn settle(stream: &mut Stream) -> Vec<(TypeUrl, usize, usize)> {
    let mut seen = Vec::new();
    while let Some(response) = stream.poll_response(now()) {
        match response {
            Response::Sotw(response) => {
                let type_url = TypeUrl::from(response.type_url.as_str());
                let names = if type_url == RDS {
                    vec!["r"]
                } else {
                    vec![WILDCARD]
                };
                let mut ack = ask(&type_url, &names);
                ack.response_nonce = response.nonce;
                send(stream, Request::Sotw(ack));
                seen.push((type_url, response.resources.len(), 0));
            }
            Response::Delta(response) => {
                answer(stream, &response, None);
                let type_url = TypeUrl::from(response.type_url.as_str());
                let removed = response.removed_resources.len();
                seen.push((type_url, response.resources.len(), removed));
            }
        }
    }
    seen
}

#[test]
fn a_refused_resource_is_found_and_its_neighbours_are_sent() {
    let items: Vec<(TypeUrl, &str, &str)> = ["a", "b", "bad", "c", "d"]
        .into_iter()
        .map(|name| (CDS, name, "1"))
        .collect();
    let mut stream = stream(Form::Delta, &items);
    send(&mut stream, Request::Delta(subscribe(&CDS, &[])));
    let mut refusals = Vec::new();
    while let Some(Response::Delta(response)) = stream.poll_response(now()) {
        let is_bad = names(&response).contains(&"bad");
        if is_bad {
            refusals.push(names(&response).len());
        }
        answer(&mut stream, &response, is_bad.then_some("bad: odd"));
    }
    assert_eq!(refusals, [5, 2, 1]);
    let seen = state(&stream, &CDS);
    assert_eq!((seen.resources, seen.in_sync), (4, false));
    assert_eq!(seen.nack.unwrap().message, "bad: odd");
}

/// A client that takes the good part of a refused response has dropped what it removed.
#[test]
fn what_a_refused_response_removed_is_sent_when_it_is_back() {
    let mut stream = stream(Form::Delta, &[(LDS, "a", "1")]);
    send(&mut stream, Request::Delta(subscribe(&LDS, &[])));
    let first = delta(&mut stream);
    stream.set_snapshot(snapshot(&[(LDS, "bad", "1")]));
    answer(&mut stream, &first, None);
    let refused = delta(&mut stream);
    assert_eq!(names(&refused), ["bad"]);
    assert_eq!(refused.removed_resources, ["a"]);
    stream.set_snapshot(snapshot(&[(LDS, "a", "1")]));
    answer(&mut stream, &refused, Some("bad: odd"));
    let again = delta(&mut stream);
    assert_eq!(names(&again), ["a"]);
    answer(&mut stream, &again, None);
    settle(&mut stream);
    assert!(state(&stream, &LDS).in_sync);
}

#[test]
fn a_client_that_never_answers_does_not_hold_up_other_types_for_ever() {
    let mut stream = stream(Form::Delta, &[(CDS, "a", "1"), (RDS, "r", "1")]);
    send(&mut stream, Request::Delta(subscribe(&CDS, &[])));
    send(&mut stream, Request::Delta(subscribe(&RDS, &["r"])));
    assert_eq!(delta(&mut stream).type_url, CDS.as_str());
    assert!(stream.poll_response(now()).is_none());
    assert!(stream.is_waiting());
    let later = stream.poll_response(now() + Duration::from_secs(6));
    assert!(matches!(later, Some(Response::Delta(response)) if response.type_url == RDS.as_str()));
}

#[test]
fn nothing_is_sent_before_there_is_a_snapshot() {
    let mut stream = Stream::new(Form::Delta);
    send(&mut stream, Request::Delta(subscribe(&CDS, &[])));
    assert!(stream.poll_response(now()).is_none());
    assert!(!state(&stream, &CDS).in_sync);
    stream.set_snapshot(snapshot(&[]));
    assert!(stream.poll_response(now()).is_some());
}

#[test]
fn requests_that_break_the_protocol_are_errors() {
    let refuse = |form: Form, request: Request| {
        let mut stream = stream(form, &[]);
        stream.on_request(request, now()).unwrap_err().to_string()
    };
    let mut anonymous = ask(&CDS, &[]);
    anonymous.node = None;
    let anonymous = refuse(Form::Sotw, Request::Sotw(anonymous));
    assert_eq!(anonymous, "node: missing in the first request");
    let untyped = refuse(Form::Sotw, Request::Sotw(ask(&TypeUrl::from(""), &[])));
    assert_eq!(untyped, "type_url: must not be empty");
    let nameless = refuse(Form::Sotw, Request::Sotw(ask(&CDS, &["a", ""])));
    assert_eq!(nameless, "resource_names[1]: must not be empty");
    let nameless = refuse(Form::Delta, Request::Delta(subscribe(&CDS, &[""])));
    assert_eq!(nameless, "resource_names_subscribe[0]: must not be empty");
    let other = refuse(Form::Delta, Request::Sotw(ask(&CDS, &[])));
    assert!(other.contains("other form"), "{other}");
    let mut locator = subscribe(&CDS, &[]);
    locator.resource_locators_subscribe.push(Default::default());
    let locator = refuse(Form::Delta, Request::Delta(locator));
    assert!(locator.contains("not supported"), "{locator}");
    // An unknown nonce answers nothing.
    let mut stream = stream(Form::Delta, &[(CDS, "a", "1")]);
    let mut unknown = subscribe(&CDS, &[]);
    unknown.response_nonce = "unknown".to_owned();
    unknown.error_detail = error("what");
    send(&mut stream, Request::Delta(unknown));
    assert!(state(&stream, &CDS).nack.is_none());
    assert_eq!(names(&delta(&mut stream)), ["a"]);
}
