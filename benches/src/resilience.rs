//! What protects callers, measured: a bulkhead at three times what the backend can do, a caller at ten
//! times its share, and one host of three that is twenty times slower than the others.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::backend;
use crate::config;
use crate::cores::{self, Cores};
use crate::load::open::{self, Answer, Plan};
use crate::subject::{Kind, Subject};

const LIMIT: u32 = 100;
const QUEUE: u32 = 50;
const QUEUE_TIMEOUT: Duration = Duration::from_millis(100);
/// What the backend takes for each request: with the limit it can do 2,000 a second.
const SERVICE: Duration = Duration::from_millis(50);
const CONNECTIONS: usize = 600;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    overload: Overload,
    noisy: Noisy,
    slow_host: SlowHost,
}

/// Three times what can be served is asked for.
#[derive(Clone, Debug, Serialize)]
struct Overload {
    capacity: f64,
    offered: f64,
    unloaded_p99_ms: f64,
    served: usize,
    served_p99_ms: f64,
    /// Twice the unloaded value and the time in the queue.
    bound_ms: f64,
    refused: usize,
    refused_p99_ms: f64,
    refused_without_reason: usize,
    other: usize,
    resident_before_mib: f64,
    resident_after_mib: f64,
}

/// One caller sends ten times its share, the others theirs.
#[derive(Clone, Debug, Serialize)]
struct Noisy {
    quiet_asked: usize,
    quiet_served: usize,
    quiet_p99_ms: f64,
    noisy_asked: usize,
    noisy_served: usize,
}

/// Latencies with one host of three twenty times slower.
#[derive(Clone, Debug, Serialize)]
struct SlowHost {
    round_robin_p99_ms: f64,
    peak_ewma_p99_ms: f64,
    ratio: f64,
}

/// Measures everything.
///
/// # Errors
/// A proxy that does not start, or load that fails.
pub fn run(duration: Duration) -> Result<Report> {
    cores::run(async |cores| {
        Ok(Report {
            overload: overload(cores, duration).await?,
            noisy: noisy(cores, duration).await?,
            slow_host: slow_host(cores, duration).await?,
        })
    })
}

fn capacity() -> f64 {
    f64::from(LIMIT) / SERVICE.as_secs_f64()
}

async fn start(cores: Cores, config: impl FnOnce(SocketAddr) -> Value) -> Result<Subject> {
    cores::pin(cores.proxy)?;
    let subject = Subject::spawn_on(Kind::Outrigger, |address| config(address).to_string());
    cores::pin(cores.load)?;
    let mut subject = subject?;
    subject.ready().await?;
    Ok(subject)
}

async fn bulkhead(cores: Cores) -> Result<Subject> {
    let backend = backend::start_slow(SERVICE)?;
    start(cores, |address| {
        config::bulkhead(address, backend, LIMIT, QUEUE, QUEUE_TIMEOUT)
    })
    .await
}

async fn overload(cores: Cores, duration: Duration) -> Result<Overload> {
    eprintln!("a bulkhead of {LIMIT} with a queue of {QUEUE}, and three times what it can serve");
    let subject = bulkhead(cores).await?;
    let plan = |rate| Plan {
        rate,
        duration,
        callers: vec![("one".to_owned(), 1)],
        connections: CONNECTIONS,
    };
    let unloaded = open::drive(subject.address, &plan(capacity() / 4.0)).await?;
    ensure!(
        unloaded.iter().all(|answer| answer.status == 200),
        "requests fail without load"
    );
    let before = cores::resident(subject.pid())?;
    let answers = open::drive(subject.address, &plan(capacity() * 3.0)).await?;
    let after = cores::resident(subject.pid())?;
    let of = |status| answers.iter().filter(move |answer| answer.status == status);
    let unloaded_p99_ms = p99(unloaded.iter())?;
    Ok(Overload {
        capacity: capacity(),
        offered: capacity() * 3.0,
        unloaded_p99_ms,
        served: of(200).count(),
        served_p99_ms: p99(of(200))?,
        bound_ms: 2.0 * unloaded_p99_ms + QUEUE_TIMEOUT.as_secs_f64() * 1000.0,
        refused: of(503).count(),
        refused_p99_ms: p99(of(503))?,
        refused_without_reason: of(503).filter(|answer| !answer.has_reason).count(),
        other: answers.len() - of(200).count() - of(503).count(),
        resident_before_mib: mebibytes(before),
        resident_after_mib: mebibytes(after),
    })
}

async fn noisy(cores: Cores, duration: Duration) -> Result<Noisy> {
    eprintln!("five callers within their share, one at ten times its share");
    let subject = bulkhead(cores).await?;
    let mut callers: Vec<(String, u32)> =
        (0..5).map(|index| (format!("quiet-{index}"), 1)).collect();
    callers.push(("noisy".to_owned(), 10));
    // Six callers share what can be served; the quiet ones ask for a little less than their part.
    let share = capacity() / 6.0 * 0.9;
    let plan = Plan {
        rate: share * 15.0,
        duration,
        callers,
        connections: CONNECTIONS,
    };
    let answers = open::drive(subject.address, &plan).await?;
    let quiet = || answers.iter().filter(|answer| answer.caller < 5);
    let noisy = || answers.iter().filter(|answer| answer.caller == 5);
    let is_served = |answer: &&Answer| answer.status == 200;
    Ok(Noisy {
        quiet_asked: quiet().count(),
        quiet_served: quiet().filter(is_served).count(),
        quiet_p99_ms: p99(quiet().filter(is_served))?,
        noisy_asked: noisy().count(),
        noisy_served: noisy().filter(is_served).count(),
    })
}

async fn slow_host(cores: Cores, duration: Duration) -> Result<SlowHost> {
    const FAST: Duration = Duration::from_millis(5);
    let mut results = Vec::new();
    for (name, policy) in policies() {
        eprintln!("one host of three at 20 times the latency: {name}");
        let backends = [
            backend::start_slow(FAST)?,
            backend::start_slow(FAST)?,
            backend::start_slow(FAST * 20)?,
        ];
        let subject = start(cores, |address| {
            config::balanced(address, &backends, &policy)
        })
        .await?;
        let plan = Plan {
            rate: 1000.0,
            duration,
            callers: vec![("one".to_owned(), 1)],
            connections: CONNECTIONS,
        };
        let answers = open::drive(subject.address, &plan).await?;
        ensure!(
            answers.iter().all(|answer| answer.status == 200),
            "requests fail under {name}"
        );
        results.push(p99(answers.iter())?);
    }
    let [round_robin_p99_ms, peak_ewma_p99_ms] = results[..] else {
        anyhow::bail!("two policies are measured");
    };
    Ok(SlowHost {
        round_robin_p99_ms,
        peak_ewma_p99_ms,
        ratio: peak_ewma_p99_ms / round_robin_p99_ms,
    })
}

fn policies() -> [(&'static str, Value); 2] {
    [
        (
            "round robin",
            json!({
                "name": "envoy.load_balancing_policies.round_robin",
                "typed_config": {
                    "@type": "type.googleapis.com/\
                        envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
                },
            }),
        ),
        (
            "peak EWMA",
            json!({
                "name": "outrigger.load_balancing_policies.peak_ewma",
                "typed_config": {
                    "@type": "type.googleapis.com/\
                        outrigger.extensions.load_balancing_policies.peak_ewma.v1alpha1.PeakEwma",
                },
            }),
        ),
    ]
}

fn p99<'a>(answers: impl Iterator<Item = &'a Answer>) -> Result<f64> {
    let mut latencies: Vec<Duration> = answers.map(|answer| answer.latency).collect();
    latencies.sort_unstable();
    let rank = (latencies.len() * 99).div_ceil(100).max(1);
    let latency = latencies.get(rank - 1).context("no such answers")?;
    Ok(latency.as_secs_f64() * 1000.0)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            overload,
            noisy,
            slow_host,
        } = self;
        writeln!(
            f,
            "\noverload: bulkhead of {LIMIT}, queue of {QUEUE}, queue timeout {QUEUE_TIMEOUT:?}; \
             {:.0} requests/s offered, {:.0} can be served",
            overload.offered, overload.capacity
        )?;
        writeln!(
            f,
            "  served  {:>8}, p99 {:>7.1} ms; unloaded {:.1} ms, so at most {:.1} ms",
            overload.served, overload.served_p99_ms, overload.unloaded_p99_ms, overload.bound_ms
        )?;
        writeln!(
            f,
            "  refused {:>8}, p99 {:>7.1} ms; {} without a reason, {} with another status",
            overload.refused,
            overload.refused_p99_ms,
            overload.refused_without_reason,
            overload.other
        )?;
        writeln!(
            f,
            "  resident memory {:.1} MiB before, {:.1} MiB after",
            overload.resident_before_mib, overload.resident_after_mib
        )?;
        writeln!(
            f,
            "\nnoisy caller: five others asked {} times and were served {} times, p99 {:.1} ms; the \
             noisy one {} of {}",
            noisy.quiet_asked,
            noisy.quiet_served,
            noisy.quiet_p99_ms,
            noisy.noisy_served,
            noisy.noisy_asked
        )?;
        writeln!(
            f,
            "\none host of three at 20 times the latency: p99 {:.1} ms with round robin, {:.1} ms with \
             peak EWMA, ratio {:.2}",
            slow_host.round_robin_p99_ms, slow_host.peak_ewma_p99_ms, slow_host.ratio
        )
    }
}
