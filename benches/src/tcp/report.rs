//! The numbers of connections, and their tables.

use std::time::Duration;
use std::{fmt, fs};

use serde::Serialize;

use super::Mode;
use crate::report::{Measured, Summary, median};

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// It sends by a timer for each socket, which costs every proxy alike, and a good deal.
const PACED: &str = "bbr";

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How many rounds.
    rounds: usize,
    /// How long each measurement lasted.
    seconds: f64,
    /// What the system sends by; of great weight, see [`PACED`].
    congestion_control: String,
    /// What costs processor time.
    pub(super) costs: Vec<Cost>,
    /// What costs memory.
    pub(super) idle: Option<Idle>,
}

impl Report {
    pub(super) fn new(rounds: usize, duration: Duration) -> Self {
        Self {
            rounds,
            seconds: duration.as_secs_f64(),
            congestion_control: fs::read_to_string(CONGESTION_CONTROL)
                .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned()),
            costs: Vec::new(),
            idle: None,
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    /// Of bytes passed on; this many are in one exchange.
    GiB(u64),
    /// A connection that was made.
    Connection,
    /// An HTTP request.
    Request,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::GiB(_) => "GiB",
            Self::Connection => "conn",
            Self::Request => "req",
        }
    }

    /// How many are in what is measured.
    fn per_measured(self) -> f64 {
        match self {
            Self::GiB(bytes) => bytes as f64 / f64::from(1 << 30),
            Self::Connection | Self::Request => 1.0,
        }
    }
}

/// Processor time of one kind of load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    mode: Mode,
    description: String,
    /// What rates and processor time count.
    unit: &'static str,
    /// The fixed rate, per second.
    rate: f64,
    rows: Vec<Summary>,
}

impl Cost {
    pub(super) fn new(
        mode: Mode,
        description: &str,
        unit: Unit,
        rate: f64,
        mut rows: Vec<Summary>,
    ) -> Self {
        let units = unit.per_measured();
        let convert = |measured: &mut Measured| {
            measured.rate *= units;
            measured.cpu_us /= units;
        };
        for row in &mut rows {
            convert(&mut row.saturated);
            convert(&mut row.fixed);
            let rounds = row.saturated_rounds.iter_mut();
            rounds.chain(&mut row.fixed_rounds).for_each(convert);
        }
        Self {
            mode,
            description: description.to_owned(),
            unit: unit.name(),
            rate: rate * units,
            rows,
        }
    }
}

/// Memory of connections on which nothing happens.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Idle {
    connections: usize,
    rows: Vec<IdleRow>,
}

#[derive(Clone, Debug, Serialize)]
struct IdleRow {
    name: String,
    /// Resident, for each connection; the median of the rounds.
    bytes: f64,
    /// As a ratio to the first row.
    ratio: f64,
    rounds: Vec<f64>,
}

impl Idle {
    pub(super) fn new(connections: usize, rows: Vec<(String, Vec<f64>)>) -> Self {
        let first = rows.first().map_or(f64::NAN, |(_, rounds)| median(rounds));
        let row = |(name, rounds): (String, Vec<f64>)| IdleRow {
            name,
            bytes: median(&rounds),
            ratio: median(&rounds) / first,
            rounds,
        };
        Self {
            connections,
            rows: rows.into_iter().map(row).collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\ncongestion control: {}", self.congestion_control)?;
        if self.congestion_control == PACED {
            writeln!(
                f,
                "note: it paces by timers, which hides what proxies do with bytes; measure within\n\
                 unshare --net sh -c 'ip link set lo up; \
                 sysctl -w net.ipv4.tcp_congestion_control=reno; exec \"$@\"' sh"
            )?;
        }
        for cost in &self.costs {
            let unit = cost.unit;
            writeln!(
                f,
                "\n{} (medians of {} rounds of {} s; fixed rate {:.2} {unit}/s)",
                cost.description, self.rounds, self.seconds, cost.rate
            )?;
            writeln!(
                f,
                "{:<17} {:>11} {:>11} {:>5} {:>6} | {:>11} {:>6} {:>8} {:>8}",
                "",
                format!("max {unit}/s"),
                format!("cpu us/{unit}"),
                "busy",
                "ratio",
                format!("cpu us/{unit}"),
                "ratio",
                "p50 us",
                "p99 us",
            )?;
            for row in &cost.rows {
                writeln!(
                    f,
                    "{:<17} {:>11.2} {:>11.2} {:>5.2} {:>6.3} | {:>11.2} {:>6.3} {:>8.0} {:>8.0}",
                    row.name,
                    row.saturated.rate,
                    row.saturated.cpu_us,
                    row.saturated.busy,
                    row.saturated_ratio,
                    row.fixed.cpu_us,
                    row.fixed_ratio,
                    row.fixed.p50_us,
                    row.fixed.p99_us,
                )?;
            }
        }
        if let Some(idle) = &self.idle {
            writeln!(f, "\nidle: {} connections kept open", idle.connections)?;
            writeln!(f, "{:<17} {:>12} {:>6}", "", "bytes/conn", "ratio")?;
            for row in &idle.rows {
                writeln!(f, "{:<17} {:>12.0} {:>6.3}", row.name, row.bytes, row.ratio)?;
            }
        }
        Ok(())
    }
}
