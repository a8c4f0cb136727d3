//! `outrigger traces`: lists traces of a Jaeger-compatible API, or draws one as a waterfall.

mod api;
mod listing;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Parser, ValueEnum};

use crate::waterfall;

/// Columns when the output is no terminal.
const PIPE_WIDTH: usize = 120;

/// List traces, or draw one as a waterfall
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// The trace to draw; without it the newest traces are listed
    id: Option<String>,
    /// Only traces with a span of this service
    #[arg(long, conflicts_with = "id")]
    service: Option<String>,
    /// At most this many traces
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Only traces that started within this time: 30s, 15m, 1h, 2d
    #[arg(long, default_value = "1h", value_parser = duration)]
    since: Duration,
    /// Only traces with a span that took at least this long: 100ms, 1.5s
    #[arg(long, value_parser = duration, conflicts_with = "id")]
    min_duration: Option<Duration>,
    /// Where Jaeger's query API is served
    #[arg(
        long,
        env = "OUTRIGGER_TRACES_SERVER",
        default_value = "http://127.0.0.1:16686",
        value_name = "URL"
    )]
    server: String,
    /// Output format
    #[arg(short, long, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

/// Runs the command; its errors say what to do.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = api::Api::new(&args.server)?;
    let text = match &args.id {
        Some(id) => {
            let trace = api.trace(id).await?;
            match args.output {
                Output::Table => {
                    let (width, colour) = screen();
                    waterfall::render(&trace, width, colour)
                }
                Output::Json | Output::Yaml => written(args.output, &trace)?,
            }
        }
        None => {
            let wanted = api::Wanted {
                service: args.service.clone(),
                limit: args.limit as usize,
                since: args.since,
                min_duration: args.min_duration,
            };
            let now = api::now_us();
            let traces = api.newest(&wanted, now).await?;
            let rows = listing::rows(&traces, now);
            match args.output {
                Output::Table if rows.is_empty() => {
                    // Not data: whoever reads the output of the pipe gets an empty table.
                    eprintln!("{}", nothing_found(&args));
                    return Ok(ExitCode::SUCCESS);
                }
                Output::Table => listing::table(&rows, screen().0),
                Output::Json | Output::Yaml => written(args.output, &rows)?,
            }
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// One trace of that server as a waterfall for this screen.
pub(crate) async fn draw(server: &str, id: &str) -> anyhow::Result<String> {
    let trace = api::Api::new(server)?.trace(id).await?;
    let (width, colour) = screen();
    Ok(waterfall::render(&trace, width, colour))
}

fn nothing_found(args: &Args) -> String {
    let service = args
        .service
        .as_ref()
        .map_or_else(String::new, |name| format!(" of {name}"));
    format!(
        "no traces{service} within {:?}: is there traffic, is it sampled, and do the proxies export to the \
         control plane behind {}?",
        args.since, args.server
    )
}

fn written(output: Output, value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(match output {
        Output::Yaml => serde_norway::to_string(value)?,
        Output::Json | Output::Table => serde_json::to_string_pretty(value)? + "\n",
    })
}

/// Columns, and whether to use colour.
fn screen() -> (usize, bool) {
    if !std::io::stdout().is_terminal() {
        return (PIPE_WIDTH, false);
    }
    let width = crossterm::terminal::size().map_or(PIPE_WIDTH, |(columns, _)| columns.into());
    (width, true)
}

/// A reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// One number with a unit, as `1.5s`.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => bail!("give a number with a unit (us, ms, s, m, h, d), such as 15m or 1.5s"),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| anyhow::anyhow!("\"{number}\" is not a number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| anyhow::anyhow!("too long a time"))
}
