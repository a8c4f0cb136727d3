//! Query parameters, read as Jaeger reads them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use outrigger_traces::{Query, TraceId};

/// Traces returned when no `limit` is given.
const DEFAULT_LIMIT: usize = 100;
/// How far back a search goes when it does not say.
const DEFAULT_LOOKBACK: Duration = Duration::from_hours(48);
const DEFAULT_DEPENDENCY_LOOKBACK: Duration = Duration::from_hours(24);

/// A parameter that cannot be used, in the words of Jaeger's error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid(pub(super) String);

/// The parameters of one request; of a repeated one the first counts, except where a list is meant.
pub(super) struct Params<'a>(&'a [(String, String)]);

impl<'a> Params<'a> {
    pub(super) fn new(pairs: &'a [(String, String)]) -> Self {
        Self(pairs)
    }

    /// An empty parameter is an absent one.
    pub(super) fn first(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn service(&self) -> Result<&'a str, Invalid> {
        self.first("service")
            .ok_or_else(|| Invalid("parameter 'service' is required".into()))
    }

    pub(super) fn span_kind(&self) -> Result<Option<SpanKind>, Invalid> {
        match self.first("spanKind") {
            None => Ok(None),
            Some("unspecified") => Ok(Some(SpanKind::Unspecified)),
            Some("internal") => Ok(Some(SpanKind::Internal)),
            Some("server") => Ok(Some(SpanKind::Server)),
            Some("client") => Ok(Some(SpanKind::Client)),
            Some("producer") => Ok(Some(SpanKind::Producer)),
            Some("consumer") => Ok(Some(SpanKind::Consumer)),
            Some(other) => Err(Invalid(format!("unsupported span kind: '{other}'"))),
        }
    }

    pub(super) fn trace_ids(&self) -> Result<Vec<TraceId>, Invalid> {
        self.all("traceID").map(trace_id).collect()
    }

    /// A search; `now` is Unix time in microseconds.
    pub(super) fn search(&self, now: u64) -> Result<Query, Invalid> {
        let service = self.service()?.to_owned();
        let end = self.number("end")?.unwrap_or(now);
        let start = match self.number("start")? {
            Some(start) => start,
            None => end.saturating_sub(micros(self.lookback()?)),
        };
        let min_duration = self.duration("minDuration")?;
        let max_duration = self.duration("maxDuration")?;
        if let (Some(min), Some(max)) = (min_duration, max_duration)
            && min > max
        {
            return Err(Invalid(
                "'maxDuration' should be greater than 'minDuration'".into(),
            ));
        }
        let limit = match self.number("limit")? {
            None | Some(0) => DEFAULT_LIMIT,
            Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        Ok(Query {
            service: Some(service),
            operation: self.first("operation").map(str::to_owned),
            tags: self.tags()?,
            min_duration,
            max_duration,
            start: Some(start.saturating_mul(1000)),
            // The whole last microsecond belongs to the range.
            end: Some(end.saturating_mul(1000).saturating_add(999)),
            limit,
        })
    }

    /// First and last nanosecond of the time that dependencies are asked for.
    pub(super) fn dependency_time(&self, now: u64) -> Result<(u64, u64), Invalid> {
        let end = self.number("endTs")?.unwrap_or(now / 1000);
        let lookback = match self.number("lookback")? {
            Some(lookback) => lookback,
            None => micros(DEFAULT_DEPENDENCY_LOOKBACK) / 1000,
        };
        let nanos = |millis: u64| millis.saturating_mul(1_000_000);
        Ok((
            nanos(end.saturating_sub(lookback)),
            nanos(end).saturating_add(999_999),
        ))
    }

    /// `tag=key:value` and `tags={"key":"value"}`, each any number of times.
    fn tags(&self) -> Result<Vec<(String, String)>, Invalid> {
        let mut tags = Vec::new();
        for tag in self.all("tag") {
            let Some((key, value)) = tag.split_once(':') else {
                let message =
                    format!("malformed 'tag' parameter, expecting key:value, received: {tag}");
                return Err(Invalid(message));
            };
            tags.push((key.to_owned(), value.to_owned()));
        }
        for text in self.all("tags") {
            let malformed = |why: String| {
                Invalid(format!(
                    "malformed 'tags' parameter, cannot unmarshal JSON: {why}"
                ))
            };
            let map: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
            for (key, value) in map {
                let value = match value {
                    serde_json::Value::String(text) => text,
                    // Jaeger takes only strings, but the meaning of these is as clear.
                    serde_json::Value::Bool(_) | serde_json::Value::Number(_) => value.to_string(),
                    _ => return Err(malformed(format!("the value of {key} is not a string"))),
                };
                tags.push((key, value));
            }
        }
        Ok(tags)
    }

    /// Jaeger's page sends `custom` when it also sends a start.
    fn lookback(&self) -> Result<Duration, Invalid> {
        match self.first("lookback") {
            None | Some("custom") => Ok(DEFAULT_LOOKBACK),
            Some(_) => Ok(self.duration("lookback")?.unwrap_or(DEFAULT_LOOKBACK)),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Invalid> {
        let Some(text) = self.first(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            Invalid(format!(
                "unable to parse param '{name}': \"{text}\" is not a whole number"
            ))
        })
    }

    fn duration(&self, name: &str) -> Result<Option<Duration>, Invalid> {
        let Some(text) = self.first(name) else {
            return Ok(None);
        };
        match duration(text) {
            Some(duration) => Ok(Some(duration)),
            None => Err(Invalid(format!(
                "unable to parse param '{name}': \"{text}\" is not a duration such as 1.5s, 100ms or 1h30m"
            ))),
        }
    }
}

pub(super) fn trace_id(text: &str) -> Result<TraceId, Invalid> {
    text.parse()
        .map_err(|why| Invalid(format!("invalid trace id \"{text}\": {why}")))
}

pub(super) fn now_us() -> u64 {
    micros(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Go's durations, one or more numbers with units, and days as Jaeger's page writes them.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos_and_days() {
        let table = [
            ("100us", Some(Duration::from_micros(100))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("1h30m", Some(Duration::from_mins(90))),
            ("2d", Some(Duration::from_hours(48))),
            ("7µs", Some(Duration::from_micros(7))),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1.2.3s", None),
            ("1y", None),
            ("99999999999999999999h", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn the_search_defaults_to_two_days_and_a_hundred_traces() {
        let pairs = [("service".to_owned(), "a".to_owned())];
        let now = 400_000_000_000;
        let query = Params::new(&pairs).search(now).unwrap();
        assert_eq!(query.limit, 100);
        assert_eq!(query.start, Some((now - 172_800_000_000) * 1000));
        assert_eq!(query.end, Some(now * 1000 + 999));
    }
}
