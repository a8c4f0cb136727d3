//! Client driver and server service over real sockets, in both forms.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_xds::backoff::Backoff;
use outrigger_xds::client::grpc::{Config, Connector, Handle, Keepalive};
use outrigger_xds::client::{self, Event, Update, Verdict};
use outrigger_xds::server::grpc::{Application, Service, StreamId, StreamInfo};
use outrigger_xds::server::{Resource, Snapshot, TypeState};
use outrigger_xds::{Form, Node, TypeUrl, WILDCARD};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Long enough for any machine; nothing waits for it to pass.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct App {
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    states: watch::Sender<BTreeMap<StreamId, (String, Vec<TypeState>)>>,
    ended: Mutex<Vec<String>>,
}

impl App {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            snapshot: watch::channel(None).0,
            states: watch::channel(BTreeMap::new()).0,
            ended: Mutex::default(),
        })
    }

    fn publish(&self, items: &[(TypeUrl, &str, &[u8])]) {
        let mut builder = Snapshot::builder();
        for (type_url, name, rest) in items {
            let mut body = vec![10, u8::try_from(name.len()).unwrap()];
            body.extend(name.bytes());
            body.extend(*rest);
            builder.insert(type_url, *name, Resource::new(body));
        }
        self.snapshot.send_replace(Some(Arc::new(builder.build())));
    }

    async fn wait(&self, what: impl Fn(&[TypeState]) -> bool) {
        let mut states = self.states.subscribe();
        let found = states.wait_for(|states| states.values().any(|(_, state)| what(state)));
        drop(
            tokio::time::timeout(DEADLINE, found)
                .await
                .expect("in time")
                .unwrap(),
        );
    }
}

impl Application for App {
    fn connected(
        &self,
        stream: &StreamInfo,
    ) -> Result<watch::Receiver<Option<Arc<Snapshot>>>, tonic::Status> {
        assert!(stream.peer.is_some());
        self.states.send_modify(|states| {
            states.insert(stream.id, (stream.node.id.clone(), Vec::new()));
        });
        Ok(self.snapshot.subscribe())
    }

    fn observed(&self, id: StreamId, _: Option<&Arc<Snapshot>>, state: Vec<TypeState>) {
        self.states
            .send_modify(|states| states.get_mut(&id).unwrap().1 = state);
    }

    fn disconnected(&self, id: StreamId, reason: &str) {
        self.states.send_modify(|states| {
            states.remove(&id);
        });
        self.ended.lock().unwrap().push(reason.to_owned());
    }
}

/// A server on a runtime of its own, so that stopping that ends its connections too.
async fn serve(app: &Arc<App>, address: SocketAddr) -> (SocketAddr, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let bound = tokio::time::timeout(DEADLINE, async {
        loop {
            // The port of a server that was stopped just now may still be closing.
            if let Ok(listener) = std::net::TcpListener::bind(address) {
                return listener;
            }
            tokio::task::yield_now().await;
        }
    });
    let listener = bound.await.expect("in time");
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let service = Service::new(Arc::clone(app)).into_server();
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    (address, runtime)
}

fn connect(form: Form, address: SocketAddr) -> (Handle, mpsc::UnboundedReceiver<Event>) {
    let node = Node {
        id: "sidecar-1".to_owned(),
        ..Node::default()
    };
    let connector = Connector::from_addresses([address.to_string()], Keepalive::default()).unwrap();
    let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));
    let (handle, events, driver) = client::grpc::new(Config {
        form,
        node,
        connector,
        backoff,
    });
    tokio::spawn(driver.run());
    (handle, events)
}

async fn update(events: &mut mpsc::UnboundedReceiver<Event>) -> Update {
    match tokio::time::timeout(DEADLINE, events.recv())
        .await
        .expect("in time")
    {
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

async fn follows_a_server(form: Form) {
    let app = App::new();
    let (address, server) = serve(&app, "127.0.0.1:0".parse().unwrap()).await;
    let (handle, mut events) = connect(form, address);
    handle.subscribe(&TypeUrl::Cluster, [WILDCARD], None);
    handle.subscribe(&TypeUrl::Endpoint, ["a"], None);
    app.publish(&[(TypeUrl::Cluster, "a", b""), (TypeUrl::Endpoint, "a", b"")]);

    let first = update(&mut events).await;
    assert_eq!(
        (&first.type_url, names(&first)),
        (&TypeUrl::Cluster, vec!["a"])
    );
    handle.verdict(first.id, Verdict::Ack);
    let second = update(&mut events).await;
    assert_eq!(
        (&second.type_url, names(&second)),
        (&TypeUrl::Endpoint, vec!["a"])
    );
    handle.verdict(second.id, Verdict::Ack);
    app.wait(|state| state.len() == 2 && state.iter().all(|state| state.in_sync))
        .await;

    // A refusal is seen with its text, and ends with the next good version.
    app.publish(&[
        (TypeUrl::Cluster, "a", b""),
        (TypeUrl::Endpoint, "a", &[0xc0, 0x3e, 1]),
    ]);
    let bad = update(&mut events).await;
    handle.verdict(bad.id, Verdict::Nack("clusters look odd".to_owned()));
    app.wait(|state| {
        let nack = state.iter().find_map(|state| state.nack.as_ref());
        nack.is_some_and(|nack| nack.message == "clusters look odd")
    })
    .await;
    app.publish(&[
        (TypeUrl::Cluster, "a", b""),
        (TypeUrl::Endpoint, "a", &[0xc0, 0x3e, 2]),
    ]);
    let good = update(&mut events).await;
    handle.verdict(good.id, Verdict::Ack);
    app.wait(|state| {
        state
            .iter()
            .all(|state| state.in_sync && state.nack.is_none())
    })
    .await;

    // The server goes and comes back on the same port: nothing is sent again but what changed.
    server.shutdown_background();
    let mut status = handle.status();
    let lost = status.wait_for(|status| status.last_error.is_some());
    drop(
        tokio::time::timeout(DEADLINE, lost)
            .await
            .expect("in time")
            .unwrap(),
    );
    app.publish(&[
        (TypeUrl::Cluster, "a", b""),
        (TypeUrl::Endpoint, "a", &[0xc0, 0x3e, 3]),
    ]);
    let (_, server) = serve(&app, address).await;
    let after = update(&mut events).await;
    assert_eq!(
        (&after.type_url, names(&after)),
        (&TypeUrl::Endpoint, vec!["a"])
    );
    handle.verdict(after.id, Verdict::Ack);
    app.wait(|state| state.len() == 2 && state.iter().all(|state| state.in_sync))
        .await;
    let seen = status.borrow_and_update().clone();
    assert!(seen.is_connected() && seen.attempts > 1, "{seen:?}");
    assert_eq!(seen.types[&TypeUrl::Endpoint].update_rejected, 1);

    // Dropping the handle ends the stream.
    drop(handle);
    let mut states = app.states.subscribe();
    let gone = states.wait_for(BTreeMap::is_empty);
    drop(
        tokio::time::timeout(DEADLINE, gone)
            .await
            .expect("in time")
            .unwrap(),
    );
    server.shutdown_background();
}

#[tokio::test]
async fn sotw_follows_a_server() {
    follows_a_server(Form::Sotw).await;
}

#[tokio::test]
async fn delta_follows_a_server() {
    follows_a_server(Form::Delta).await;
}

#[tokio::test]
async fn an_absent_server_is_reported_and_the_fetch_times_out() {
    // A bound port that nobody accepts on is refused once dropped.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (handle, mut events) = connect(Form::Delta, address);
    handle.subscribe(
        &TypeUrl::Listener,
        [WILDCARD],
        Some(Duration::from_millis(50)),
    );
    let event = tokio::time::timeout(DEADLINE, events.recv())
        .await
        .expect("in time")
        .unwrap();
    let (type_url, name) = (TypeUrl::Listener, WILDCARD.to_owned());
    assert_eq!(event, Event::InitialFetchTimeout { type_url, name });
    let mut status = handle.status();
    let retried = status.wait_for(|status| status.attempts > 2 && status.last_error.is_some());
    let status = tokio::time::timeout(DEADLINE, retried)
        .await
        .expect("in time")
        .unwrap();
    assert!(
        status.last_error.as_ref().unwrap().contains("refused"),
        "{status:?}"
    );
}

/// One change, hundreds of proxies. The bound is loose here; unoptimised code shares a machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_reaches_many_clients() {
    const CLIENTS: usize = 200;
    let app = App::new();
    let (address, server) = serve(&app, "127.0.0.1:0".parse().unwrap()).await;
    app.publish(&[(TypeUrl::Route, "r", b"")]);
    let mut handles = Vec::new();
    for _ in 0..CLIENTS {
        let (handle, mut events) = connect(Form::Delta, address);
        handle.subscribe(&TypeUrl::Route, ["r"], None);
        handles.push(handle.clone());
        tokio::spawn(async move {
            while let Some(Event::Update(update)) = events.recv().await {
                handle.verdict(update.id, Verdict::Ack);
            }
        });
    }
    let all_in_sync = |states: &BTreeMap<StreamId, (String, Vec<TypeState>)>, version: &str| {
        states.len() == CLIENTS
            && states.values().all(|(_, state)| {
                let state = state.first();
                state.is_some_and(|state| {
                    state.in_sync && state.version_acked.as_deref().is_some_and(|v| v != version)
                })
            })
    };
    let mut states = app.states.subscribe();
    let ready = states.wait_for(|states| all_in_sync(states, ""));
    let first = tokio::time::timeout(DEADLINE, ready)
        .await
        .expect("in time")
        .unwrap();
    let before = first
        .values()
        .find_map(|(_, state)| state[0].version_acked.clone())
        .unwrap();
    drop(first);
    let start = std::time::Instant::now();
    app.publish(&[(TypeUrl::Route, "r", &[0xc0, 0x3e, 1])]);
    let done = states.wait_for(|states| all_in_sync(states, &before));
    drop(
        tokio::time::timeout(DEADLINE, done)
            .await
            .expect("in time")
            .unwrap(),
    );
    println!("{CLIENTS} clients ACKed after {:?}", start.elapsed());
    server.shutdown_background();
}
