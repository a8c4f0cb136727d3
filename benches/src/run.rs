//! The plan of a benchmark: alternating rounds, so that whatever drifts on the machine falls on all
//! subjects alike.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::proxy;

use crate::backend;
use crate::config::Chain;
use crate::cores::{self, Cores};
use crate::load::{self, Pace, Protocol, Sample};
use crate::report::{Measured, Report, Scenario, Summary, median};
use crate::subject::{Kind, Subject};
use crate::tcp;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Beside Envoy, which is always measured.
    pub subjects: Vec<Kind>,
    /// One scenario for each of these …
    pub protocols: Vec<Protocol>,
    /// … with each of these.
    pub chains: Vec<Chain>,
    /// Measure instead what filters that do nothing cost: Outrigger with each beside Outrigger
    /// without.
    pub idle_filters: bool,
    /// How many rounds.
    pub rounds: usize,
    /// How long each measurement lasts.
    pub duration: Duration,
    /// How many starts to time.
    pub starts: usize,
}

/// Measures everything.
pub fn run(plan: &Plan) -> Result<Report> {
    let cores = Cores::choose()?;
    cores::pin(cores.load)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut scenarios = Vec::new();
    for protocol in &plan.protocols {
        for scenario in plan.scenarios(*protocol) {
            scenarios.push(runtime.block_on(measure_all(plan, &scenario, cores))?);
        }
    }
    let mut starts = Vec::new();
    if plan.idle_filters {
        return Ok(Report {
            rounds: plan.rounds,
            seconds: plan.duration.as_secs_f64(),
            scenarios,
            starts,
        });
    }
    for kind in subjects(plan, Protocol::Http1, Chain::Plain) {
        starts.push((
            kind.name().to_owned(),
            start_time(kind, plan.starts, cores)?,
        ));
    }
    Ok(Report {
        rounds: plan.rounds,
        seconds: plan.duration.as_secs_f64(),
        scenarios,
        starts,
    })
}

/// Runs Outrigger under each protocol and chain, at saturation and at half of it, then with bare connections, and
/// stops it in peace each time: an instrumented build writes its profile then.
pub fn train(plan: &Plan) -> Result<()> {
    let duration = plan.duration;
    cores::run(async |cores| {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for chain in [Chain::Plain, Chain::Sidecar, Chain::Bulkhead] {
                eprintln!("{}, {} chain", protocol.describe(), chain.name());
                let backend = backend::start(protocol)?;
                let mut subject = spawn(Kind::Outrigger, protocol, chain, backend, cores)?;
                subject.ready().await?;
                let full = measure(&subject, protocol, chain, Pace::Saturate, duration).await?;
                let half = Pace::Rate(full.rate / 2.0);
                measure(&subject, protocol, chain, half, duration).await?;
                subject.stop().await?;
            }
        }
        tcp::train(plan, cores).await
    })
}

/// The target directory, where the report goes.
pub fn target_directory() -> Result<PathBuf> {
    Ok(proxy::venv()?
        .parent()
        .context("the environment lies in the target directory")?
        .to_owned())
}

/// What is measured beside each other, the yardstick first.
struct Contest {
    protocol: Protocol,
    description: String,
    subjects: Vec<(String, Kind, Chain)>,
}

impl Plan {
    fn scenarios(&self, protocol: Protocol) -> Vec<Contest> {
        if self.idle_filters {
            let ours = std::iter::once(Chain::Plain).chain(Chain::IDLE);
            return vec![Contest {
                protocol,
                description: format!("{}, idle filters", protocol.describe()),
                subjects: ours
                    .map(|chain| (chain.name().to_owned(), Kind::Outrigger, chain))
                    .collect(),
            }];
        }
        let contest = |chain: &Chain| Contest {
            protocol,
            description: match chain {
                Chain::Plain => protocol.describe().to_owned(),
                _ => format!("{}, {} chain", protocol.describe(), chain.name()),
            },
            subjects: subjects(self, protocol, *chain)
                .into_iter()
                .map(|kind| (kind.name().to_owned(), kind, *chain))
                .collect(),
        };
        self.chains.iter().map(contest).collect()
    }
}

/// Envoy first: the others are measured at half its rate.
fn subjects(plan: &Plan, protocol: Protocol, chain: Chain) -> Vec<Kind> {
    std::iter::once(Kind::Envoy)
        .chain(plan.subjects.iter().copied())
        .filter(|kind| kind.can(protocol, chain))
        .collect()
}

async fn measure_all(plan: &Plan, contest: &Contest, cores: Cores) -> Result<Scenario> {
    let protocol = contest.protocol;
    let backend = backend::start(protocol)?;
    let mut running = Vec::new();
    for (name, kind, chain) in &contest.subjects {
        let mut subject = spawn(*kind, protocol, *chain, backend, cores)?;
        subject.name.clone_from(name);
        subject.ready().await.with_context(|| name.clone())?;
        // Fills pools and caches.
        measure(
            &subject,
            protocol,
            *chain,
            Pace::Saturate,
            plan.duration / 4,
        )
        .await?;
        running.push((subject, *chain, Vec::new(), Vec::new()));
    }
    let mut rate = None;
    for round in 0..plan.rounds {
        let count = running.len();
        for turn in 0..count {
            // Forward and backward in turns, but Envoy first until its rate is known.
            let index = if round % 2 == 0 {
                turn
            } else {
                count - 1 - turn
            };
            let (subject, chain, saturated, fixed) = &mut running[index];
            eprintln!(
                "{}: round {} of {}: {}",
                contest.description,
                round + 1,
                plan.rounds,
                subject.name
            );
            let full = measure(subject, protocol, *chain, Pace::Saturate, plan.duration).await?;
            let half = *rate.get_or_insert(full.rate / 2.0);
            saturated.push(full);
            fixed.push(measure(subject, protocol, *chain, Pace::Rate(half), plan.duration).await?);
        }
    }
    let rate = rate.context("no rounds")?;
    let summaries = running
        .iter()
        .map(|(subject, _, saturated, fixed)| {
            Ok(Summary::new(
                &subject.name,
                saturated,
                fixed,
                &running[0].2,
                &running[0].3,
                cores::resident(subject.pid())?,
            ))
        })
        .collect::<Result<_>>()?;
    Ok(Scenario {
        protocol,
        description: contest.description.clone(),
        rate,
        summaries,
    })
}

/// Starts a subject on the proxies' core, and comes back to the load's.
fn spawn(
    kind: Kind,
    protocol: Protocol,
    chain: Chain,
    backend: SocketAddr,
    cores: Cores,
) -> Result<Subject> {
    cores::pin(cores.proxy)?;
    let subject = Subject::spawn(kind, protocol, chain, backend);
    cores::pin(cores.load)?;
    subject
}

async fn measure(
    subject: &Subject,
    protocol: Protocol,
    chain: Chain,
    pace: Pace,
    duration: Duration,
) -> Result<Measured> {
    let load = load::drive(protocol, chain, subject.address, pace, duration);
    cost(subject, load).await
}

/// What the subject takes for a load that must not fail.
pub(crate) async fn cost(
    subject: &Subject,
    load: impl Future<Output = Result<Sample>>,
) -> Result<Measured> {
    let pid = subject.pid();
    let (start, before) = (Instant::now(), cores::cpu_time(pid)?);
    let sample = load
        .await
        .with_context(|| format!("load on {}", subject.name))?;
    let (elapsed, used) = (start.elapsed(), cores::cpu_time(pid)? - before);
    ensure!(
        sample.failed == 0,
        "{} of {} failed on {}",
        sample.failed,
        sample.done + sample.failed,
        subject.name
    );
    Ok(Measured::new(&sample, elapsed, used))
}

/// The median time from the start of the process to its first reply, in milliseconds.
fn start_time(kind: Kind, starts: usize, cores: Cores) -> Result<f64> {
    let backend = backend::start(Protocol::Http1)?;
    let mut times = Vec::new();
    for _ in 0..starts {
        let start = Instant::now();
        let subject = spawn(kind, Protocol::Http1, Chain::Plain, backend, cores)?;
        while !replies(subject.address) {
            ensure!(
                start.elapsed() < Duration::from_secs(20),
                "{} does not start",
                kind.name()
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(&times))
}

fn replies(address: SocketAddr) -> bool {
    let exchange = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: bench.local\r\n\r\n")?;
        let mut reply = [0; 12];
        stream.read_exact(&mut reply)?;
        Ok(&reply == b"HTTP/1.1 200")
    };
    exchange().unwrap_or(false)
}
