//! Steady load over kept connections, counted by who answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio::task::JoinSet;

use super::DEADLINE;
use crate::client::{Http1, Request, Response};
use crate::wait;

const CONNECTIONS: usize = 4;
/// Between two requests of a connection.
const PACE: Duration = Duration::from_millis(4);

/// Load on one address for as long as the value lives.
#[derive(Debug)]
pub struct Load {
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    /// What began before belongs to an earlier phase and is not counted in this one.
    phase: usize,
    answers: BTreeMap<String, usize>,
    failures: Vec<String>,
    requests: usize,
}

impl Load {
    /// Puts load on `address` for the host `authority`.
    pub fn start(address: SocketAddr, authority: &str) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let state = Arc::clone(&state);
            tasks.spawn(send(address, authority.to_owned(), state));
        }
        Self {
            state,
            _tasks: tasks,
        }
    }

    /// From now on, counts only what begins now.
    pub fn next_phase(&self) {
        let mut state = lock(&self.state);
        state.phase += 1;
        state.answers.clear();
    }

    /// Answers of this phase by who gave them, once there are that many.
    pub async fn answers(&self, at_least: usize) -> Result<BTreeMap<String, usize>> {
        wait::until(&format!("{at_least} answers"), DEADLINE, async || {
            let state = lock(&self.state);
            let count: usize = state.answers.values().sum();
            ensure!(
                count >= at_least,
                "{count} answers; {} failed: {:#?}",
                state.failures.len(),
                state.failures.first()
            );
            Ok(state.answers.clone())
        })
        .await
    }

    /// The share of this phase's answers that `who` gave, of that many.
    pub async fn share(&self, who: &str, of: usize) -> Result<f64> {
        let answers = self.answers(of).await?;
        let all: usize = answers.values().sum();
        let count = answers.get(who).copied().unwrap_or_default();
        Ok(f64::from(u32::try_from(count)?) / f64::from(u32::try_from(all)?))
    }

    /// Takes what failed so far: everything but a whole answer with status 200.
    pub fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).failures)
    }

    /// How many requests ended so far, well or not.
    pub fn requests(&self) -> usize {
        lock(&self.state).requests
    }

    /// Fails if a request has failed.
    pub fn check(&self) -> Result<()> {
        let state = lock(&self.state);
        let failures = &state.failures;
        let first = &failures[..failures.len().min(5)];
        ensure!(
            failures.is_empty(),
            "{} of {} requests failed: {first:#?}",
            failures.len(),
            state.requests
        );
        Ok(())
    }
}

async fn send(address: SocketAddr, authority: String, state: Arc<Mutex<State>>) {
    let mut connection = None;
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let phase = lock(&state).phase;
        let outcome = exchange(&mut connection, address, &authority).await;
        let mut state = lock(&state);
        state.requests += 1;
        match outcome {
            Ok(who) if state.phase == phase => *state.answers.entry(who).or_default() += 1,
            Ok(_) => {}
            Err(error) => {
                connection = None;
                state.failures.push(format!("{error:#}"));
            }
        }
    }
}

/// One request; gives who answered.
async fn exchange(
    connection: &mut Option<Http1>,
    address: SocketAddr,
    authority: &str,
) -> Result<String> {
    let mut http = match connection.take().filter(|http| !http.is_closed()) {
        Some(http) => http,
        None => Http1::connect(address).await?,
    };
    let request = Request {
        authority: authority.to_owned(),
        ..Request::new("GET", "/load")
    };
    let reply = http.send(request).await?;
    ensure!(reply.error.is_none(), "{}", reply.error.unwrap_or_default());
    ensure!(
        reply.status == 200,
        "status {}: {:?} {}",
        reply.status,
        reply.headers,
        reply.text()
    );
    if reply.header("connection") != Some("close") {
        *connection = Some(http);
    }
    Ok(answered_by(&reply))
}

/// Who gave an answer: the upstream or the sample service.
fn answered_by(reply: &Response) -> String {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let names = [&body["upstream"], &body["service"]];
    names
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or("nobody")
        .to_owned()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
