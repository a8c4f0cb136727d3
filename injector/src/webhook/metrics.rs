//! Statistics of the webhook, in Prometheus' text format.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use super::review::Verdict;

/// Upper bounds in microseconds.
const BOUNDS: [u64; 10] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000,
];

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [AtomicU64; Verdict::ALL.len()],
    buckets: [AtomicU64; BOUNDS.len()],
    micros: AtomicU64,
    /// When the certificate in use expires, in seconds since 1970; 0 before there is one.
    pub certificate_expiry: AtomicI64,
    /// How often another certificate was taken into use.
    pub certificate_changes: AtomicU64,
    /// How often the certificates or the registration could not be looked after.
    pub upkeep_failures: AtomicU64,
}

impl Metrics {
    /// Counts a request.
    pub fn count(&self, verdict: Verdict, took: Duration) {
        let all = self.requests.iter().zip(Verdict::ALL);
        for (counter, _) in all.filter(|(_, one)| *one == verdict) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        let bucket = self.buckets.iter().zip(BOUNDS);
        if let Some((counter, _)) = bucket.into_iter().find(|(_, bound)| micros <= *bound) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let requests = head(
            &mut text,
            "requests_total",
            "counter",
            "Requests, by how they ended.",
        );
        let mut total = 0;
        for (counter, verdict) in self.requests.iter().zip(Verdict::ALL) {
            let count = counter.load(Ordering::Relaxed);
            total += count;
            line(
                &mut text,
                &format!("{requests}{{result=\"{}\"}} {count}", verdict.word()),
            );
        }
        let duration = head(
            &mut text,
            "request_duration_seconds",
            "histogram",
            "From the whole request to its answer.",
        );
        let mut below = 0;
        for (counter, bound) in self.buckets.iter().zip(BOUNDS) {
            below += counter.load(Ordering::Relaxed);
            let bound = seconds(bound);
            line(
                &mut text,
                &format!("{duration}_bucket{{le=\"{bound}\"}} {below}"),
            );
        }
        // A request that is counted meanwhile shall not make the buckets shrink.
        let total = total.max(below);
        let sum = seconds(self.micros.load(Ordering::Relaxed));
        line(
            &mut text,
            &format!("{duration}_bucket{{le=\"+Inf\"}} {total}"),
        );
        line(&mut text, &format!("{duration}_sum {sum}"));
        line(&mut text, &format!("{duration}_count {total}"));
        let expiry = self.certificate_expiry.load(Ordering::Relaxed);
        let changes = self.certificate_changes.load(Ordering::Relaxed);
        let failures = self.upkeep_failures.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            (
                "certificate_expiry_timestamp_seconds",
                "gauge",
                "When the certificate in use expires.",
                expiry.to_string(),
            ),
            (
                "certificate_changes_total",
                "counter",
                "How often another certificate was taken into use.",
                changes.to_string(),
            ),
            (
                "upkeep_failures_total",
                "counter",
                "How often certificates or registration could not be looked after.",
                failures.to_string(),
            ),
        ] {
            let name = head(&mut text, name, kind, help);
            line(&mut text, &format!("{name} {value}"));
        }
        text
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> String {
    let name = format!("outrigger_injector_{name}");
    line(text, &format!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    name
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    _ = writeln!(text, "{line}");
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_result_and_duration() {
        let metrics = Metrics::default();
        metrics.count(Verdict::Injected, Duration::from_micros(300));
        metrics.count(Verdict::Refused, Duration::from_secs(3));
        let text = metrics.text();
        for expected in [
            "outrigger_injector_requests_total{result=\"injected\"} 1\n",
            "outrigger_injector_requests_total{result=\"skipped\"} 0\n",
            "outrigger_injector_request_duration_seconds_bucket{le=\"0.00025\"} 0\n",
            "outrigger_injector_request_duration_seconds_bucket{le=\"0.0005\"} 1\n",
            "outrigger_injector_request_duration_seconds_bucket{le=\"1\"} 1\n",
            "outrigger_injector_request_duration_seconds_bucket{le=\"+Inf\"} 2\n",
            "outrigger_injector_request_duration_seconds_sum 3.0003\n",
            "outrigger_injector_request_duration_seconds_count 2\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }
}
