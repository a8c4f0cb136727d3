//! The numbers: what is kept of a measurement, medians and ratios, and the table.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::load::{Protocol, Sample};

/// Below this share of its core a proxy was not saturated.
const SATURATED: f64 = 0.9;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Replies per second.
    pub rate: f64,
    /// The proxy's processor time per request, in microseconds.
    pub cpu_us: f64,
    /// The share of its core that the proxy used.
    pub busy: f64,
    /// Latency percentiles from the due time, in microseconds.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// See `p50_us`.
    pub p999_us: f64,
}

impl Measured {
    pub(crate) fn new(sample: &Sample, elapsed: Duration, used_ns: u64) -> Self {
        let mut latencies = sample.latencies.clone();
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = ((latencies.len() - 1) as f64 * share).round() as usize;
            latencies[index] as f64 / 1000.0
        };
        Self {
            rate: sample.done as f64 / elapsed.as_secs_f64(),
            cpu_us: used_ns as f64 / 1000.0 / sample.done as f64,
            busy: used_ns as f64 / elapsed.as_nanos() as f64,
            p50_us: at(0.50),
            p99_us: at(0.99),
            p999_us: at(0.999),
        }
    }
}

/// All rounds of one subject.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Medians at saturation.
    pub saturated: Measured,
    /// Medians at the fixed rate.
    pub fixed: Measured,
    /// Processor time per request at saturation, as a ratio to Envoy's: the median of the rounds'.
    pub saturated_ratio: f64,
    /// The same at the fixed rate.
    pub fixed_ratio: f64,
    /// Resident memory after the load.
    pub resident_bytes: u64,
    /// The rounds at saturation.
    pub saturated_rounds: Vec<Measured>,
    /// The rounds at the fixed rate.
    pub fixed_rounds: Vec<Measured>,
}

impl Summary {
    pub(crate) fn new(
        name: &str,
        saturated: &[Measured],
        fixed: &[Measured],
        envoy_saturated: &[Measured],
        envoy_fixed: &[Measured],
        resident_bytes: u64,
    ) -> Self {
        Self {
            name: name.to_owned(),
            saturated: medians(saturated),
            fixed: medians(fixed),
            saturated_ratio: ratio(saturated, envoy_saturated),
            fixed_ratio: ratio(fixed, envoy_fixed),
            resident_bytes,
            saturated_rounds: saturated.to_vec(),
            fixed_rounds: fixed.to_vec(),
        }
    }
}

/// One protocol.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    /// Which.
    pub protocol: Protocol,
    /// In words.
    pub description: String,
    /// The fixed rate, per second.
    pub rate: f64,
    /// Envoy first.
    pub summaries: Vec<Summary>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How many rounds.
    pub rounds: usize,
    /// How long each measurement lasted.
    pub seconds: f64,
    /// One for each protocol.
    pub scenarios: Vec<Scenario>,
    /// Median milliseconds from start to first reply, by name.
    pub starts: Vec<(String, f64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for scenario in &self.scenarios {
            writeln!(
                f,
                "\n{} (medians of {} rounds of {} s; fixed rate {:.0}/s)",
                scenario.description, self.rounds, self.seconds, scenario.rate
            )?;
            writeln!(
                f,
                "{:<15} {:>10} {:>9} {:>6} {:>6} | {:>9} {:>6} {:>8} {:>8} {:>9} | {:>8} {:>6}",
                "",
                "max req/s",
                "cpu us/rq",
                "busy",
                "ratio",
                "cpu us/rq",
                "ratio",
                "p50 us",
                "p99 us",
                "p99.9 us",
                "RSS MiB",
                "ratio"
            )?;
            let envoy_memory = scenario
                .summaries
                .first()
                .map_or(1, |first| first.resident_bytes);
            for row in &scenario.summaries {
                writeln!(
                    f,
                    "{:<15} {:>10.0} {:>9.2} {:>6.2} {:>6.2} | {:>9.2} {:>6.2} {:>8.0} {:>8.0} \
                     {:>9.0} | {:>8.1} {:>6.2}",
                    row.name,
                    row.saturated.rate,
                    row.saturated.cpu_us,
                    row.saturated.busy,
                    row.saturated_ratio,
                    row.fixed.cpu_us,
                    row.fixed_ratio,
                    row.fixed.p50_us,
                    row.fixed.p99_us,
                    row.fixed.p999_us,
                    row.resident_bytes as f64 / 1_048_576.0,
                    row.resident_bytes as f64 / envoy_memory as f64,
                )?;
            }
        }
        for row in self
            .scenarios
            .iter()
            .flat_map(|scenario| &scenario.summaries)
        {
            if row.saturated.busy < SATURATED {
                writeln!(
                    f,
                    "note: {} used {:.0} % of its core at saturation: load and backend, on the \
                     other core, were the limit, or something else ran on the machine",
                    row.name,
                    row.saturated.busy * 100.0
                )?;
            }
        }
        writeln!(f, "\nstart to first reply (median)")?;
        for (name, milliseconds) in &self.starts {
            writeln!(f, "{name:<10} {milliseconds:>8.1} ms")?;
        }
        Ok(())
    }
}

/// The middle value; the mean of the two middle ones of an even number.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

fn medians(rounds: &[Measured]) -> Measured {
    let of = |field: fn(&Measured) -> f64| median(&rounds.iter().map(field).collect::<Vec<_>>());
    Measured {
        rate: of(|round| round.rate),
        cpu_us: of(|round| round.cpu_us),
        busy: of(|round| round.busy),
        p50_us: of(|round| round.p50_us),
        p99_us: of(|round| round.p99_us),
        p999_us: of(|round| round.p999_us),
    }
}

/// Round by round, since rounds lie close in time and the machine may drift.
fn ratio(subject: &[Measured], envoy: &[Measured]) -> f64 {
    let rounds = subject
        .iter()
        .zip(envoy)
        .map(|(ours, theirs)| ours.cpu_us / theirs.cpu_us);
    median(&rounds.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_measurement_divides_time_by_requests() {
        let sample = Sample {
            done: 4,
            failed: 0,
            latencies: vec![4000, 1000, 3000, 2000],
        };
        let measured = Measured::new(&sample, Duration::from_millis(2), 1_000_000);
        assert!((measured.cpu_us - 250.0).abs() < 1e-9);
        assert!((measured.busy - 0.5).abs() < 1e-9);
        assert!((measured.rate - 2000.0).abs() < 1e-6);
        assert!((measured.p999_us - 4.0).abs() < 1e-9);
    }
}
