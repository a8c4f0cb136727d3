//! A simulated proxy: follows the cascade CDS→EDS, LDS→RDS as Envoy does and takes everything,
//! unless told to refuse.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use outrigger_proto::{
    envoy::config::{core::v3 as core, listener::v3::Listener},
    message_from_value,
};
use outrigger_xds::{
    Form, TypeUrl, WILDCARD,
    backoff::Backoff,
    client::{
        Event, Verdict,
        grpc::{self, Config, Connector, Handle, Keepalive},
    },
};
use prost::Message;
use serde_json::json;

/// What it holds, by type and name.
pub type Held = BTreeMap<(TypeUrl, String), Vec<u8>>;

pub struct Proxy {
    pub id: String,
    pub state: Arc<Mutex<State>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
pub struct State {
    pub held: Held,
    /// Type and how many resources came, per response.
    pub responses: Vec<(TypeUrl, usize)>,
    /// Refuse responses of this type, with this text.
    pub refuse: Option<(TypeUrl, String)>,
}

impl Proxy {
    pub fn connect(id: &str, namespace: &str, xds: SocketAddr, form: Form) -> Self {
        let node: core::Node = message_from_value(json!({
            "id": id,
            "cluster": "client",
            "metadata": {"outrigger": {"namespace": namespace, "outbound": "127.0.0.1:15001"}},
        }))
        .unwrap();
        let config = Config {
            form,
            node,
            connector: Connector::from_addresses([format!("http://{xds}")], Keepalive::default())
                .unwrap(),
            backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(100)),
        };
        let (handle, events, driver) = grpc::new(config);
        handle.subscribe(&TypeUrl::Cluster, [WILDCARD], None);
        handle.subscribe(&TypeUrl::Listener, [WILDCARD], None);
        let state = Arc::new(Mutex::new(State::default()));
        let tasks = vec![
            tokio::spawn(driver.run()),
            tokio::spawn(follow(handle, events, Arc::clone(&state))),
        ];
        Self {
            id: id.to_owned(),
            state,
            tasks,
        }
    }

    pub fn held(&self) -> Held {
        self.state.lock().unwrap().held.clone()
    }

    pub fn take_responses(&self) -> Vec<(TypeUrl, usize)> {
        std::mem::take(&mut self.state.lock().unwrap().responses)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn follow(
    handle: Handle,
    mut events: tokio::sync::mpsc::UnboundedReceiver<Event>,
    state: Arc<Mutex<State>>,
) {
    let mut wanted: BTreeMap<TypeUrl, BTreeSet<String>> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        let Event::Update(update) = event else {
            continue;
        };
        let mut state = state.lock().unwrap();
        state
            .responses
            .push((update.type_url.clone(), update.added.len()));
        if let Some((type_url, text)) = &state.refuse
            && *type_url == update.type_url
        {
            handle.verdict(update.id, Verdict::Nack(text.clone()));
            continue;
        }
        for resource in &update.added {
            let key = (update.type_url.clone(), resource.name.clone());
            state.held.insert(key, resource.body.value.clone());
        }
        for name in &update.removed {
            state.held.remove(&(update.type_url.clone(), name.clone()));
        }
        let (child, names) = match update.type_url {
            TypeUrl::Cluster => (TypeUrl::Endpoint, eds_names(&state.held)),
            TypeUrl::Listener => (TypeUrl::Route, rds_names(&state.held)),
            _ => {
                handle.verdict(update.id, Verdict::Ack);
                continue;
            }
        };
        let had = wanted.entry(child.clone()).or_default();
        let new: Vec<_> = names.difference(had).cloned().collect();
        let old: Vec<_> = had.difference(&names).cloned().collect();
        if !new.is_empty() {
            handle.subscribe(&child, new, None);
        }
        if !old.is_empty() {
            handle.unsubscribe(&child, old);
        }
        *had = names;
        handle.verdict(update.id, Verdict::Ack);
    }
}

fn eds_names(held: &Held) -> BTreeSet<String> {
    held.keys()
        .filter(|(kind, name)| *kind == TypeUrl::Cluster && name.starts_with("outbound|"))
        .map(|(_, name)| name.clone())
        .collect()
}

fn rds_names(held: &Held) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, body) in held
        .iter()
        .filter(|((kind, _), _)| *kind == TypeUrl::Listener)
    {
        let listener = Listener::decode(&**body).unwrap();
        if listener.name == "outbound" {
            names.insert("outbound".to_owned());
        }
    }
    names
}
