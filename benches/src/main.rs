//! The load harness's command line; see the library for what it measures.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use outrigger_benches::config::Chain;
use outrigger_benches::load::Protocol;
use outrigger_benches::report::Report;
use outrigger_benches::resilience;
use outrigger_benches::run::{self, Plan};
use outrigger_benches::subject::Kind;
use outrigger_benches::tcp::{self, Mode, bare::Bare};

/// Measure proxies beside Envoy.
#[derive(Debug, Parser)]
#[command(name = "outrigger-bench")]
struct Args {
    /// Fewer and shorter rounds: for a first look, not for numbers to report.
    #[arg(long)]
    quick: bool,
    /// Print the report as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// What to measure beside Envoy: `outrigger`, `nginx` (HTTP/1 only), or `envoy` again, which
    /// must give ratios of 1.
    #[arg(long, value_delimiter = ',', default_value = "outrigger")]
    subjects: Vec<Kind>,
    /// Which protocols.
    #[arg(long, value_delimiter = ',', default_value = "http1,http2")]
    protocols: Vec<Protocol>,
    /// How much the proxies do with each request.
    #[arg(long, value_delimiter = ',', default_value = "plain,sidecar")]
    chains: Vec<Chain>,
    /// Measure instead what each filter costs that has nothing to do.
    #[arg(long, conflicts_with_all = ["subjects", "chains"])]
    idle_filters: bool,
    /// Measure instead what bulkheads and load balancing do under overload and beside a slow host.
    #[arg(long, conflicts_with_all = ["subjects", "chains", "protocols", "idle_filters", "rounds"])]
    resilience: bool,
    /// Measure instead what connections cost, all of it or only these: bytes passed on, connections made,
    /// connections kept, and what listener filters add to HTTP.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_missing_value = "relay,connect,idle,intercept",
        conflicts_with_all = ["chains", "protocols", "idle_filters", "resilience"])]
    tcp: Option<Vec<Mode>>,
    /// Put typical load on Outrigger and stop it in peace, so that an instrumented build writes its
    /// profile.
    #[arg(long, conflicts_with_all = ["subjects", "chains", "protocols", "idle_filters", "resilience", "tcp", "rounds"])]
    train: bool,
    /// How many rounds.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each measurement lasts.
    #[arg(long)]
    seconds: Option<f64>,
    /// Where to write the JSON report besides; `bench.json` in the target directory by default.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Be a bare relay, one of those that `--tcp` measures.
    #[arg(long, hide = true, requires_all = ["listen", "backend"])]
    bare: Option<Bare>,
    #[arg(long, hide = true)]
    listen: Option<SocketAddr>,
    #[arg(long, hide = true)]
    backend: Option<SocketAddr>,
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "the report is this command's output")]
fn measure(args: &Args) -> Result<()> {
    if let (Some(bare), Some(listen), Some(backend)) = (args.bare, args.listen, args.backend) {
        return bare.run(listen, backend);
    }
    let (rounds, seconds) = if args.quick { (3, 2.0) } else { (7, 5.0) };
    let plan = Plan {
        subjects: args.subjects.clone(),
        protocols: args.protocols.clone(),
        chains: args.chains.clone(),
        idle_filters: args.idle_filters,
        rounds: args.rounds.unwrap_or(rounds),
        duration: Duration::from_secs_f64(args.seconds.unwrap_or(seconds)),
        starts: if args.quick { 5 } else { 20 },
    };
    if args.train {
        return run::train(&Plan {
            duration: Duration::from_secs_f64(args.seconds.unwrap_or(3.0)),
            ..plan
        });
    }
    let (text, json) = if let Some(modes) = &args.tcp {
        let report = tcp::run(&plan, modes)?;
        (report.to_string(), serde_json::to_string_pretty(&report)?)
    } else if args.resilience {
        let report = resilience::run(plan.duration)?;
        (report.to_string(), serde_json::to_string_pretty(&report)?)
    } else {
        let report: Report = run::run(&plan)?;
        (report.to_string(), serde_json::to_string_pretty(&report)?)
    };
    let path = match &args.output {
        Some(path) => path.clone(),
        None => run::target_directory()?.join("bench.json"),
    };
    std::fs::write(&path, format!("{json}\n"))?;
    if args.json {
        println!("{json}");
    } else {
        println!("{text}");
    }
    Ok(())
}
