//! Open-loop load on the entry service: a request is due at its time whether or not the last one was
//! answered, and its latency counts from then.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::JoinHandle;

/// How long an answer may take before the request counts as failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Errors kept word for word.
const MAX_ERRORS: usize = 20;

/// What has been counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Requests answered or failed.
    pub(crate) requests: u64,
    /// Those without a 2xx answer.
    pub(crate) failed: u64,
    /// Answers by version of the split service, in each phase.
    pub(crate) versions: BTreeMap<String, BTreeMap<String, u64>>,
    /// Latencies from the due time, in microseconds.
    pub(crate) latencies_us: Vec<u64>,
    /// The first errors.
    pub(crate) errors: Vec<String>,
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    counts: Arc<Mutex<Counts>>,
    phase: Arc<Mutex<String>>,
    task: JoinHandle<()>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Load {
    /// Starts `rate` requests a second to `http://entry/`, counting answers by the version of
    /// `split_service`.
    pub(crate) fn start(entry: SocketAddr, host: &str, rate: u32, split_service: &str) -> Self {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let phase = Arc::new(Mutex::new("start".to_owned()));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(generate(
            Target {
                entry,
                host: host.to_owned(),
                split: split_service.to_owned(),
                client: Client::builder(TokioExecutor::new()).build_http(),
                counts: Arc::clone(&counts),
                phase: Arc::clone(&phase),
            },
            rate,
            stopped,
        ));
        Self {
            counts,
            phase,
            task,
            stop,
        }
    }

    /// From now on answers count for this phase.
    pub(crate) fn enter(&self, phase: &str) {
        phase.clone_into(&mut lock(&self.phase));
    }

    /// What has been counted so far.
    pub(crate) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    /// Sends nothing more and waits for what is under way.
    pub(crate) async fn finish(self) -> Counts {
        self.stop.send_replace(true);
        drop(self.task.await);
        let counts = lock(&self.counts);
        counts.clone()
    }
}

#[derive(Clone)]
struct Target {
    entry: SocketAddr,
    host: String,
    split: String,
    client: Client<HttpConnector, Empty<Bytes>>,
    counts: Arc<Mutex<Counts>>,
    phase: Arc<Mutex<String>>,
}

async fn generate(target: Target, rate: u32, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let interval = Duration::from_secs(1) / rate.max(1);
    let start = Instant::now();
    let mut requests = tokio::task::JoinSet::new();
    for number in 0.. {
        let due = start + interval * number;
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
        let target = target.clone();
        requests.spawn(async move { target.send(due).await });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}

impl Target {
    async fn send(self, due: Instant) {
        let phase = lock(&self.phase).clone();
        let outcome = match tokio::time::timeout(TIMEOUT, self.exchange()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
        };
        let latency = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut counts = lock(&self.counts);
        counts.requests += 1;
        counts.latencies_us.push(latency);
        match outcome {
            Ok(version) => {
                let versions = counts.versions.entry(phase).or_default();
                *versions.entry(version).or_default() += 1;
            }
            Err(error) => {
                counts.failed += 1;
                if counts.errors.len() < MAX_ERRORS {
                    counts.errors.push(error);
                }
            }
        }
    }

    async fn exchange(&self) -> Result<String, String> {
        let request = Request::builder()
            .uri(format!("http://{}/", self.entry))
            .header("host", &self.host)
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let reason = response
            .headers()
            .get("x-outrigger-reason")
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body);
            return Err(format!(
                "{status} {}{}",
                text.trim(),
                reason.unwrap_or_default()
            ));
        }
        let answer = serde_json::from_slice::<serde_json::Value>(&body)
            .map_err(|error| format!("answer is not JSON: {error}"))?;
        find_version(&answer, &self.split)
            .ok_or_else(|| format!("no answer of {} in {answer}", self.split))
    }
}

fn find_version(answer: &serde_json::Value, service: &str) -> Option<String> {
    if answer.get("service").and_then(|name| name.as_str()) == Some(service) {
        return answer
            .get("version")
            .and_then(|version| version.as_str())
            .map(str::to_owned);
    }
    answer
        .get("calls")?
        .as_array()?
        .iter()
        .find_map(|call| find_version(call, service))
}

/// A panic in a holder leaves counts that are still counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
