//! Statistics as text, JSON and Prometheus, as Envoy's admin endpoint prints them.

use std::{collections::BTreeMap, fmt::Write};

use regex::Regex;
use serde_json::{Value, json};

use super::{Kind, Sample, Summary, tags};

/// The quantiles that are shown, in percent.
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// Upper bounds of the buckets that are shown.
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Which metrics are shown.
#[derive(Debug, Default)]
pub struct Filter {
    /// Names that match; all, if there is none.
    pub regex: Option<Regex>,
    /// Names that do not match instead.
    pub is_inverted: bool,
    /// Leave out what was never written.
    pub used_only: bool,
    /// Only metrics of this kind.
    pub kind: Option<KindFilter>,
}

/// `?type=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindFilter {
    /// `Counters`.
    Counters,
    /// `Gauges`.
    Gauges,
    /// `Histograms`.
    Histograms,
    /// `TextReadouts`: there is none.
    TextReadouts,
}

impl Filter {
    fn shows(&self, sample: &Sample) -> bool {
        let is_kind = match self.kind {
            None => true,
            Some(KindFilter::Counters) => sample.kind() == Kind::Counter,
            Some(KindFilter::Gauges) => sample.kind() == Kind::Gauge,
            Some(KindFilter::Histograms) => is_histogram(sample),
            Some(KindFilter::TextReadouts) => false,
        };
        is_kind
            && (!self.used_only || sample.is_used())
            && self
                .regex
                .as_ref()
                .is_none_or(|regex| regex.is_match(&sample.name()) != self.is_inverted)
    }
}

fn is_histogram(sample: &Sample) -> bool {
    matches!(sample.kind(), Kind::Histogram(_))
}

/// How histograms are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistogramMode {
    /// Quantiles.
    #[default]
    Summary,
    /// Buckets that hold everything below their bound.
    Cumulative,
    /// Buckets that hold what is between their bounds.
    Disjoint,
}

/// `name: value` lines, histograms last.
#[must_use]
pub fn text(samples: &[Sample], filter: &Filter, mode: HistogramMode) -> String {
    let mut out = String::new();
    let shown = || samples.iter().filter(|sample| filter.shows(sample));
    for sample in shown().filter(|sample| !is_histogram(sample)) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(out, "{}: {}", sample.name(), sample.value());
    }
    for sample in shown() {
        if let Some((cumulative, interval)) = sample.histogram() {
            let values = match mode {
                HistogramMode::Summary => quantiles_text(&cumulative, &interval),
                _ => buckets_text(&cumulative, &interval, mode),
            };
            let _infallible = writeln!(out, "{}: {values}", sample.name());
        }
    }
    out
}

/// `P0(nan,1.05) P25(…)…`: interval, cumulative.
fn quantiles_text(cumulative: &Summary, interval: &Summary) -> String {
    if cumulative.count() == 0 {
        return "No recorded values".to_owned();
    }
    let number = |value: Option<f64>| value.map_or_else(|| "nan".to_owned(), |v| v.to_string());
    let shown = QUANTILES.map(|percent| {
        let (now, all) = (
            interval.quantile(percent / 100.0),
            cumulative.quantile(percent / 100.0),
        );
        format!("P{percent}({},{})", number(now), number(all))
    });
    shown.join(" ")
}

fn buckets_text(cumulative: &Summary, interval: &Summary, mode: HistogramMode) -> String {
    if cumulative.count() == 0 {
        return "No recorded values".to_owned();
    }
    let counts = |summary: &Summary| {
        let mut counts = BUCKETS.map(|bound| summary.count_up_to(bound));
        if mode == HistogramMode::Disjoint {
            for index in (1..counts.len()).rev() {
                counts[index] -= counts[index - 1];
            }
        }
        counts
    };
    let counts = counts(interval).into_iter().zip(counts(cumulative));
    let shown: Vec<String> = BUCKETS
        .iter()
        .zip(counts)
        .map(|(bound, (now, all))| format!("B{}({now},{all})", short(*bound)))
        .collect();
    shown.join(" ")
}

/// As `%g` prints it.
fn short(bound: f64) -> String {
    match bound >= 1_000_000.0 {
        true => format!("{}e+06", bound / 1_000_000.0),
        false => bound.to_string(),
    }
}

/// `{"stats":[{"name":…,"value":…},…,{"histograms":…}]}`.
#[must_use]
pub fn json(samples: &[Sample], filter: &Filter) -> Value {
    let shown = || samples.iter().filter(|sample| filter.shows(sample));
    let mut stats: Vec<Value> = shown()
        .filter(|sample| !is_histogram(sample))
        .map(|sample| json!({"name": sample.name(), "value": sample.value()}))
        .collect();
    let number = |value: f64| match value.fract() == 0.0 && value.abs() < 1e15 {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
        true => json!(value as i64),
        false => json!(value),
    };
    let histogram = |sample: &Sample| {
        let (cumulative, interval) = sample.histogram()?;
        let value = |summary: &Summary, percent: f64| summary.quantile(percent / 100.0).map(number);
        let values = QUANTILES.map(|percent| {
            json!({"cumulative": value(&cumulative, percent), "interval": value(&interval, percent)})
        });
        Some(json!({"name": sample.name(), "values": values}))
    };
    let computed: Vec<Value> = shown().filter_map(histogram).collect();
    if !computed.is_empty() {
        stats.push(json!({"histograms": {
            "supported_quantiles": QUANTILES.map(number),
            "computed_quantiles": computed,
        }}));
    }
    json!({"stats": stats})
}

/// The Prometheus exposition format: counters, gauges, then histograms, by name.
#[must_use]
pub fn prometheus(samples: &[Sample], filter: &Filter) -> String {
    let mut families: [BTreeMap<String, Vec<(String, &Sample)>>; 3] = Default::default();
    for sample in samples.iter().filter(|sample| filter.shows(sample)) {
        let (kind, entity, rest) = sample.parts();
        let tagged = tags::extract(kind, entity, &rest);
        let kind = match sample.kind() {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram(_) => 2,
        };
        let labels: Vec<String> = tagged
            .tags
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        let family = families[kind].entry(sanitize(&tagged.name)).or_default();
        family.push((labels.join(","), sample));
    }
    let mut out = String::new();
    for (kind, families) in ["counter", "gauge", "histogram"].into_iter().zip(&families) {
        for (name, members) in families {
            // Writing to a String cannot fail.
            let _infallible = writeln!(out, "# TYPE {name} {kind}");
            for (labels, sample) in members {
                write_sample(&mut out, name, labels, sample);
            }
        }
    }
    out
}

fn write_sample(out: &mut String, name: &str, labels: &str, sample: &Sample) {
    let Some((summary, _)) = sample.histogram() else {
        let _infallible = writeln!(out, "{name}{{{labels}}} {}", sample.value());
        return;
    };
    let comma = if labels.is_empty() { "" } else { "," };
    for bound in BUCKETS {
        let count = summary.count_up_to(bound);
        let _infallible = writeln!(
            out,
            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
        );
    }
    let (count, sum) = (summary.count(), summary.sum());
    let _infallible = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _infallible = writeln!(out, "{name}_sum{{{labels}}} {sum}");
    let _infallible = writeln!(out, "{name}_count{{{labels}}} {count}");
}

/// A metric name: `envoy_`, and what is not allowed becomes `_`.
fn sanitize(name: &str) -> String {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' {
            c
        } else {
            '_'
        }
    };
    std::iter::once("envoy_")
        .flat_map(str::chars)
        .chain(name.chars().map(allowed))
        .collect()
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
