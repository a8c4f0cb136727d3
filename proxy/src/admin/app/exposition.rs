//! Prometheus' text format, as far as one exposition is to be put behind another: what would make the whole
//! unreadable is refused, and OpenMetrics, which an application may have sent unasked, is made plain.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
};

/// What the application sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `text/plain; version=0.0.4`
    Text,
    /// `application/openmetrics-text`
    OpenMetrics,
}

/// What can be put behind the proxy's own metrics.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Adopted {
    pub(super) text: String,
    /// Families of those that the proxy has too: a family can be in an exposition only once.
    pub(super) left_out: Vec<String>,
}

/// Reads an exposition that is to stand behind `own`.
pub(super) fn adopt(text: &str, format: Format, own: &str) -> Result<Adopted, String> {
    let mut reader = Reader {
        format,
        own: families(own),
        left_out: BTreeSet::new(),
        out: String::with_capacity(text.len() + 1),
    };
    for (index, line) in text.lines().enumerate() {
        if line.trim_end() == "# EOF" {
            break;
        }
        reader
            .line(line)
            .map_err(|error| format!("line {}: {error}", index + 1))?;
    }
    Ok(Adopted {
        text: reader.out,
        left_out: reader.left_out.into_iter().collect(),
    })
}

/// The families of an exposition, and whether each is a histogram.
fn families(text: &str) -> HashMap<&str, bool> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name, kind == "histogram"))
        .collect()
}

struct Reader<'a> {
    format: Format,
    own: HashMap<&'a str, bool>,
    left_out: BTreeSet<String>,
    out: String,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a str) -> Result<(), String> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix('#') {
            return self.comment(line, comment.trim_start());
        }
        let sample = Sample::read(line)?;
        if let Some(family) = self.clash(sample.name) {
            self.left_out.insert(family.to_owned());
            return Ok(());
        }
        match self.format {
            Format::Text => self.out.push_str(line),
            Format::OpenMetrics => {
                self.out.push_str(sample.head);
                let value = sample.value;
                // Writing to a String cannot fail.
                let _infallible = write!(self.out, " {value}");
                if let Some(time) = sample.time {
                    let millis = milliseconds(time)?;
                    let _infallible = write!(self.out, " {millis}");
                }
            }
        }
        self.out.push('\n');
        Ok(())
    }

    /// The family of a name, if the proxy has it too.
    fn clash(&self, name: &'a str) -> Option<&'a str> {
        if self.own.contains_key(name) {
            return Some(name);
        }
        ["_bucket", "_count", "_sum", "_created"]
            .into_iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| self.own.get(family) == Some(&true) || self.left_out.contains(*family))
    }

    /// A line with `#`; `comment` is what follows that.
    fn comment(&mut self, line: &'a str, comment: &'a str) -> Result<(), String> {
        let mut words = comment.split_ascii_whitespace();
        let (word, name) = (words.next(), words.next());
        let Some(word @ ("TYPE" | "HELP" | "UNIT")) = word else {
            self.put(line);
            return Ok(());
        };
        let name = name.filter(|name| is_name(name) || name.starts_with('"'));
        let name = name.ok_or_else(|| format!("{word} of no metric"))?;
        if let Some(family) = self.clash(name) {
            self.left_out.insert(family.to_owned());
            return Ok(());
        }
        if word != "TYPE" {
            self.put(line);
            return Ok(());
        }
        let kind = words.next().unwrap_or_default();
        let plain = match (self.format, kind) {
            (_, "counter" | "gauge" | "histogram" | "summary" | "untyped") => kind,
            (Format::OpenMetrics, "unknown" | "gaugehistogram") => "untyped",
            (Format::OpenMetrics, "info" | "stateset") => "gauge",
            _ => return Err(format!("`{kind}` is no type")),
        };
        if let Some(more) = words.next() {
            return Err(format!("`{more}` behind a type"));
        }
        // The family of OpenMetrics has not the suffix that its samples have.
        let is_bare = self.format == Format::OpenMetrics && !name.ends_with("_total");
        let suffix = match plain {
            "counter" if is_bare && !name.starts_with('"') => "_total",
            _ => "",
        };
        // Writing to a String cannot fail.
        let _infallible = writeln!(self.out, "# TYPE {name}{suffix} {plain}");
        Ok(())
    }

    fn put(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }
}

/// Whether it is a metric's name.
fn is_name(text: &str) -> bool {
    !text.starts_with(|one: char| one.is_ascii_digit()) && text.chars().all(is_of_name)
}

fn is_of_name(one: char) -> bool {
    one.is_ascii_alphanumeric() || one == '_' || one == ':'
}

/// One line with a value.
struct Sample<'a> {
    name: &'a str,
    /// Name and labels.
    head: &'a str,
    value: &'a str,
    time: Option<&'a str>,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Result<Self, String> {
        let end = line.find(|one| !is_of_name(one)).unwrap_or(line.len());
        let (name, after) = line.split_at(end);
        let is_quoted = name.is_empty() && after.starts_with('{');
        if (name.is_empty() && !is_quoted) || name.starts_with(|one: char| one.is_ascii_digit()) {
            return Err("no metric's name".to_owned());
        }
        let after = after.trim_start();
        let rest = match after.strip_prefix('{') {
            Some(labels) => labels
                .split_at_checked(end_of_labels(labels).ok_or("labels without an end")?)
                .and_then(|(_, rest)| rest.strip_prefix('}'))
                .ok_or("labels without an end")?,
            None if !after.is_empty() && after.len() == line.len() - end => {
                return Err("no metric's name".to_owned());
            }
            None => after,
        };
        let head = line.get(..line.len() - rest.len()).unwrap_or_default();
        // An exemplar, which OpenMetrics has.
        let rest = rest.split(" # ").next().unwrap_or_default();
        let mut words = rest.split_ascii_whitespace();
        let value = words.next().ok_or("no value")?;
        if value.parse::<f64>().is_err() {
            return Err(format!("`{value}` is no value"));
        }
        let time = words.next();
        if let Some(time) = time.filter(|time| time.parse::<f64>().is_err()) {
            return Err(format!("`{time}` is no timestamp"));
        }
        if let Some(more) = words.next() {
            return Err(format!("`{more}` behind a sample"));
        }
        let quoted = || line.strip_prefix("{\"")?.split('"').next();
        Ok(Self {
            name: if is_quoted {
                quoted().ok_or("no metric's name")?
            } else {
                name
            },
            head: head.trim_end(),
            value,
            time,
        })
    }
}

/// Where the brace is that ends labels: not one in a value.
fn end_of_labels(labels: &str) -> Option<usize> {
    let mut is_value = false;
    let mut is_escaped = false;
    for (at, one) in labels.bytes().enumerate() {
        match one {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_value => is_escaped = true,
            b'"' => is_value = !is_value,
            b'}' if !is_value => return Some(at),
            _ => {}
        }
    }
    None
}

/// Seconds, which OpenMetrics has, as the milliseconds of Prometheus' own format.
fn milliseconds(seconds: &str) -> Result<i64, String> {
    let millis = seconds.parse::<f64>().unwrap_or(f64::NAN) * 1000.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked to be small enough, and the fraction is not wanted"
    )]
    match millis.abs() < 9e15 {
        true => Ok(millis.round() as i64),
        false => Err(format!("`{seconds}` is no timestamp")),
    }
}
