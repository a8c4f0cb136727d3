//! What connections cost: bytes passed on, connections made, connections kept, and what listener filters add to
//! HTTP. Envoy and Outrigger run the same YAML in alternating rounds, beside bare relays.

mod backend;
pub mod bare;
mod config;
mod load;
mod report;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use self::bare::Bare;
use self::load::{Line, Message};
pub use self::report::Report;
use self::report::{Cost, Idle, Unit};
use crate::backend::start as start_http;
use crate::config::Chain;
use crate::cores::{self, Cores};
use crate::load::{Pace, Protocol, Sample, whole_reply};
use crate::report::{Measured, Summary};
use crate::run::{Plan, cost};
use crate::subject::{Kind, Subject};

/// What is measured of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Processor time for bytes that are passed on.
    Relay,
    /// Processor time for a connection that carries one small message and its answer.
    Connect,
    /// Memory for a connection on which nothing happens.
    Idle,
    /// What `original_dst` and `http_inspector` add to HTTP requests.
    Intercept,
}

/// Backends of new connections: with one alone the ports towards it would run out.
const BACKENDS: usize = 4;
/// Connections that are kept open, at most …
const IDLE: usize = 5000;
/// … with so many files for each: the load's and the backend's end are in one process.
const FILES: u64 = 2;
const SPARE_FILES: u64 = 200;
const IDLE_ROUNDS: usize = 3;

const HELLO: Message = Message {
    request: b"how much does it cost to make a connection, to say this, and to hear it again?!\n",
    is_answer: |bytes| Ok((bytes.len() >= HELLO.request.len()).then(|| bytes == HELLO.request)),
};
const GET: Message = Message {
    request:
        b"GET /api/items?page=1 HTTP/1.1\r\nhost: bench.local\r\nuser-agent: outrigger-bench\r\n\
        accept: */*\r\n\r\n",
    is_answer: whole_reply,
};

/// Measures everything that is asked for.
///
/// # Errors
/// A proxy that does not start, or load that fails.
pub fn run(plan: &Plan, modes: &[Mode]) -> Result<Report> {
    cores::run(async |cores| {
        let mut report = Report::new(plan.rounds, plan.duration);
        for mode in modes {
            let contests = match mode {
                Mode::Relay => relays(plan)?.into(),
                Mode::Connect => vec![connects(plan)?],
                Mode::Intercept => vec![
                    intercepts(plan, Load::Requests)?,
                    intercepts(plan, Load::Say(GET))?,
                ],
                Mode::Idle => {
                    report.idle = Some(idle(plan, cores).await?);
                    continue;
                }
            };
            for contest in &contests {
                report.costs.push(compete(plan, cores, contest).await?);
            }
        }
        Ok(report)
    })
}

/// Loads Outrigger in each way, at saturation and at half of it, for the profile of an instrumented build.
///
/// # Errors
/// A proxy that does not start, or load that fails.
pub async fn train(plan: &Plan, cores: Cores) -> Result<()> {
    let [relays, _] = relays(plan)?;
    for contest in [relays, connects(plan)?, intercepts(plan, Load::Say(GET))?] {
        eprintln!("{}", contest.description);
        let is_ours = |entry: &&Entry| matches!(entry.start, Start::Proxy(Kind::Outrigger, _));
        // Of two, the one with filters.
        let ours = contest.entries.iter().rfind(is_ours);
        let subject = ours.context("we are measured")?.start(cores).await?;
        let full = contest
            .measure(&subject, Pace::Saturate, plan.duration)
            .await?;
        let half = Pace::Rate(full.rate / 2.0);
        contest.measure(&subject, half, plan.duration).await?;
        subject.stop().await?;
    }
    Ok(())
}

/// What is measured beside each other.
struct Contest {
    mode: Mode,
    description: String,
    load: Load,
    unit: Unit,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    start: Start,
    /// Which entry it is compared with.
    base: usize,
}

enum Start {
    Proxy(Kind, Box<dyn Fn(SocketAddr) -> String>),
    Bare(Bare, SocketAddr),
}

#[derive(Clone, Copy)]
enum Load {
    Transfer(&'static [Line]),
    Say(Message),
    Requests,
}

/// Envoy first: the others are measured at half its rate.
fn proxies(plan: &Plan) -> impl Iterator<Item = Kind> {
    let can = |kind: &Kind| *kind != Kind::Nginx;
    std::iter::once(Kind::Envoy).chain(plan.subjects.iter().copied().filter(can))
}

fn relay_entries(plan: &Plan, backends: &[SocketAddr], bare: &[Bare]) -> Vec<Entry> {
    let proxy = |kind: Kind| {
        let backends = backends.to_vec();
        Entry {
            name: kind.name().to_owned(),
            start: Start::Proxy(
                kind,
                Box::new(move |address| config::relay(address, &backends).to_string()),
            ),
            base: 0,
        }
    };
    let bare = bare.iter().zip(backends).map(|(bare, backend)| Entry {
        name: bare.name().to_owned(),
        start: Start::Bare(*bare, *backend),
        base: 0,
    });
    proxies(plan).map(proxy).chain(bare).collect()
}

fn relays(plan: &Plan) -> Result<[Contest; 2]> {
    let bare = [Bare::Splice, Bare::Copy256, Bare::Copy8];
    let backend = backend::transfer()?;
    let contest = |lines: &'static [Line], what, bytes| Contest {
        mode: Mode::Relay,
        description: format!(
            "relay: {} connections, {} MiB at a time, {what}",
            load::CONNECTIONS,
            load::TRANSFER >> 20
        ),
        load: Load::Transfer(lines),
        unit: Unit::GiB(bytes),
        entries: relay_entries(plan, &[backend; 3], &bare),
    };
    Ok([
        contest(
            &[Line::Up, Line::Down],
            "half up and half down",
            load::TRANSFER,
        ),
        contest(&[Line::Both], "each both ways at once", 2 * load::TRANSFER),
    ])
}

fn connects(plan: &Plan) -> Result<Contest> {
    let backends: Vec<_> = (0..BACKENDS)
        .map(|_| backend::echo())
        .collect::<Result<_>>()?;
    Ok(Contest {
        mode: Mode::Connect,
        description: "connect: new connections, a small message and its answer on each".to_owned(),
        load: Load::Say(HELLO),
        unit: Unit::Connection,
        entries: relay_entries(plan, &backends, &[Bare::Copy8]),
    })
}

/// Each proxy without the listener filters and with them: those are compared with each other.
fn intercepts(plan: &Plan, load: Load) -> Result<Contest> {
    let backend = start_http(Protocol::Http1)?;
    let mut entries = Vec::new();
    for kind in proxies(plan) {
        let base = entries.len();
        for is_intercepted in [false, true] {
            let suffix = if is_intercepted { "+filters" } else { "" };
            let config = move |address| config::http(address, backend, is_intercepted).to_string();
            entries.push(Entry {
                name: format!("{}{suffix}", kind.name()),
                start: Start::Proxy(kind, Box::new(config)),
                base,
            });
        }
    }
    let (what, unit) = match load {
        Load::Say(_) => (
            "a new connection for each HTTP/1.1 request",
            Unit::Connection,
        ),
        _ => (Protocol::Http1.describe(), Unit::Request),
    };
    Ok(Contest {
        mode: Mode::Intercept,
        description: format!("intercept: original_dst and http_inspector, {what}"),
        load,
        unit,
        entries,
    })
}

impl Entry {
    /// Starts it on the proxies' core, and comes back to the load's.
    async fn start(&self, cores: Cores) -> Result<Subject> {
        cores::pin(cores.proxy)?;
        let subject = match &self.start {
            Start::Proxy(kind, config) => Subject::spawn_on(*kind, config),
            Start::Bare(bare, backend) => Subject::spawn_bare(*bare, *backend),
        };
        cores::pin(cores.load)?;
        let mut subject = subject?;
        subject.name.clone_from(&self.name);
        subject.ready().await.with_context(|| self.name.clone())?;
        Ok(subject)
    }
}

impl Contest {
    async fn measure(&self, subject: &Subject, pace: Pace, duration: Duration) -> Result<Measured> {
        cost(subject, self.load.drive(subject.address, pace, duration)).await
    }
}

impl Load {
    async fn drive(self, address: SocketAddr, pace: Pace, duration: Duration) -> Result<Sample> {
        match self {
            Self::Transfer(lines) => load::transfer(address, lines, pace, duration).await,
            Self::Say(message) => load::connect(address, message, pace, duration).await,
            Self::Requests => {
                crate::load::drive(Protocol::Http1, Chain::Plain, address, pace, duration).await
            }
        }
    }
}

async fn compete(plan: &Plan, cores: Cores, contest: &Contest) -> Result<Cost> {
    let mut running = Vec::new();
    for entry in &contest.entries {
        let subject = entry.start(cores).await?;
        // Fills pools and caches.
        let short = plan.duration / 4;
        contest.measure(&subject, Pace::Saturate, short).await?;
        running.push((subject, Vec::new(), Vec::new()));
    }
    let mut rate = None;
    for round in 0..plan.rounds {
        let mut order: Vec<usize> = (0..running.len()).collect();
        // Forward and backward in turns, but Envoy first until its rate is known.
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (subject, saturated, fixed) = &mut running[index];
            eprintln!(
                "{}: round {} of {}: {}",
                contest.description,
                round + 1,
                plan.rounds,
                subject.name
            );
            let full = contest.measure(subject, Pace::Saturate, plan.duration);
            let full = full.await?;
            let half = *rate.get_or_insert(full.rate / 2.0);
            saturated.push(full);
            let half = contest.measure(subject, Pace::Rate(half), plan.duration);
            fixed.push(half.await?);
        }
    }
    let rows = running.iter().zip(&contest.entries);
    let rows = rows.map(|((subject, saturated, fixed), entry)| {
        let (_, base_saturated, base_fixed) = &running[entry.base];
        Ok(Summary::new(
            &entry.name,
            saturated,
            fixed,
            base_saturated,
            base_fixed,
            cores::resident(subject.pid())?,
        ))
    });
    Ok(Cost::new(
        contest.mode,
        &contest.description,
        contest.unit,
        rate.context("no rounds")?,
        rows.collect::<Result<_>>()?,
    ))
}

/// Fresh processes in each round: what was given back to the allocator would hide what the next connection takes.
async fn idle(plan: &Plan, cores: Cores) -> Result<Idle> {
    let count = may_open()?;
    let entries = relay_entries(plan, &[backend::echo()?], &[]);
    let mut rounds = vec![Vec::new(); entries.len()];
    for round in 0..plan.rounds.min(IDLE_ROUNDS) {
        for (entry, bytes) in entries.iter().zip(&mut rounds) {
            eprintln!("idle: round {}: {}", round + 1, entry.name);
            let subject = entry.start(cores).await?;
            // What the first connection alone brings about is not what each costs.
            let first = load::open(subject.address, 1).await?;
            let before = cores::resident(subject.pid())?;
            let open = load::open(subject.address, count).await?;
            let after = cores::resident(subject.pid())?;
            bytes.push(after.saturating_sub(before) as f64 / open.len() as f64);
            drop(first);
        }
    }
    let names = entries.into_iter().map(|entry| entry.name);
    Ok(Idle::new(count, names.zip(rounds).collect()))
}

/// Raises the limit of open files for this process and those it starts; gives how many connections that allows.
fn may_open() -> Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let allowed = usize::try_from(most.saturating_sub(SPARE_FILES) / FILES)?;
    ensure!(allowed >= 100, "only {most} files may be open");
    Ok(allowed.min(IDLE))
}
