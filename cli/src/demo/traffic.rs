//! Open-loop load of several callers on one service, through the sidecar of one workload.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::JoinHandle;

/// How long an answer may take before the request counts as failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Who sends how much.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// For the counts, and in `x-caller`.
    pub(crate) name: &'static str,
    /// Requests per second.
    pub(crate) rate: u32,
    /// Users that its requests come from in turn (`x-user`); 0 is none.
    pub(crate) users: u32,
}

/// What one caller's requests came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Answers 2xx.
    pub(crate) served: u64,
    /// All others.
    pub(crate) refused: u64,
    /// Answers 2xx by the version that gave them.
    pub(crate) versions: BTreeMap<String, u64>,
    /// Why others were refused, as `x-outrigger-reason` says, or what failed.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Latencies of answers 2xx, in microseconds.
    pub(crate) latencies_us: Vec<u64>,
    /// Latencies of the others, in microseconds.
    pub(crate) refusals_us: Vec<u64>,
    /// The versions that each user got.
    pub(crate) users: BTreeMap<u32, Vec<String>>,
}

impl Tally {
    /// The most frequent reason.
    pub(crate) fn main_reason(&self) -> Option<String> {
        self.reasons
            .iter()
            .max_by_key(|(_, count)| **count)
            .map(|(reason, _)| reason.clone())
    }
}

/// Running load.
#[derive(Debug)]
pub(crate) struct Traffic {
    tallies: Tallies,
    tasks: Vec<JoinHandle<()>>,
    stop: tokio::sync::watch::Sender<bool>,
}

type Tallies = Arc<Mutex<BTreeMap<&'static str, Tally>>>;

impl Traffic {
    /// Starts load on `http://service/` by way of the sidecar at `proxy`.
    pub(crate) fn start(proxy: SocketAddr, service: &str, callers: &[Caller]) -> Self {
        let tallies = Tallies::default();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let tasks = callers
            .iter()
            .map(|caller| {
                let sender = Sender {
                    proxy,
                    service: service.to_owned(),
                    caller: caller.clone(),
                    client: Client::builder(TokioExecutor::new()).build_http(),
                    tallies: Arc::clone(&tallies),
                };
                tokio::spawn(sender.generate(stopped.clone()))
            })
            .collect();
        Self {
            tallies,
            tasks,
            stop,
        }
    }

    /// What one caller's requests came to since the last call.
    pub(crate) fn take(&self, caller: &str) -> Tally {
        lock(&self.tallies)
            .get_mut(caller)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// The same, without taking it.
    pub(crate) fn look(&self, caller: &str) -> Tally {
        lock(&self.tallies).get(caller).cloned().unwrap_or_default()
    }

    /// Sends nothing more and waits for what is under way.
    pub(crate) async fn finish(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            drop(task.await);
        }
    }
}

#[derive(Clone)]
struct Sender {
    proxy: SocketAddr,
    service: String,
    caller: Caller,
    client: Client<HttpConnector, Empty<Bytes>>,
    tallies: Tallies,
}

impl Sender {
    async fn generate(self, mut stopped: tokio::sync::watch::Receiver<bool>) {
        let interval = Duration::from_secs(1) / self.caller.rate.max(1);
        let start = Instant::now();
        let mut requests = tokio::task::JoinSet::new();
        for number in 0.. {
            let due = start + interval * number;
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
            let user = number.checked_rem(self.caller.users);
            let sender = self.clone();
            requests.spawn(async move { sender.send(user).await });
            while requests.try_join_next().is_some() {}
        }
        while requests.join_next().await.is_some() {}
    }

    async fn send(self, user: Option<u32>) {
        let start = Instant::now();
        let outcome = match tokio::time::timeout(TIMEOUT, self.exchange(user)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
        };
        let latency = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut tallies = lock(&self.tallies);
        let tally = tallies.entry(self.caller.name).or_default();
        match outcome {
            Ok(version) => {
                tally.served += 1;
                tally.latencies_us.push(latency);
                if let Some(user) = user {
                    tally.users.entry(user).or_default().push(version.clone());
                }
                *tally.versions.entry(version).or_default() += 1;
            }
            Err(reason) => {
                tally.refused += 1;
                tally.refusals_us.push(latency);
                *tally.reasons.entry(reason).or_default() += 1;
            }
        }
    }

    /// The version that answered, or why there was no good answer.
    async fn exchange(&self, user: Option<u32>) -> Result<String, String> {
        let mut request = Request::builder()
            .uri(format!("http://{}/", self.proxy))
            .header("host", &self.service)
            .header("x-caller", self.caller.name);
        if let Some(user) = user {
            request = request.header("x-user", format!("user-{user}"));
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let reason = reason(response.headers());
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        if !status.is_success() {
            return Err(reason.unwrap_or_else(|| format!("{status}, said by the service")));
        }
        serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|answer| Some(answer.get("version")?.as_str()?.to_owned()))
            .ok_or_else(|| "an answer without a version".to_owned())
    }
}

fn reason(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-outrigger-reason")?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// A panic in a holder leaves counts that are still counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
