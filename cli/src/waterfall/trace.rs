//! A trace as the command line needs it, read from Jaeger's JSON, and its spans as a tree.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::text::{clean, duration};

/// One trace.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(crate) struct Trace {
    /// Hexadecimal id.
    pub(crate) id: String,
    /// In any order.
    pub(crate) spans: Vec<Span>,
    /// What the server says about the trace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// One span.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub(crate) struct Span {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    pub(crate) service: String,
    pub(crate) operation: String,
    /// Microseconds of Unix time.
    pub(crate) start_us: u64,
    pub(crate) duration_us: u64,
    /// Values as text; of a key that occurs twice the last counts.
    pub(crate) tags: BTreeMap<String, String>,
}

/// A span at its place in the tree, with the branch lines drawn before it.
pub(super) struct Row<'a> {
    pub(super) span: &'a Span,
    pub(super) lead: String,
}

impl Span {
    pub(crate) fn end_us(&self) -> u64 {
        self.start_us.saturating_add(self.duration_us)
    }

    pub(crate) fn tag(&self, key: &str) -> Option<&str> {
        self.tags
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn is_error(&self) -> bool {
        self.tag("error") == Some("true") || self.tag("otel.status_code") == Some("ERROR")
    }

    /// The proxy's response flags, unless it says that there are none.
    pub(crate) fn response_flags(&self) -> Option<&str> {
        ["outrigger.response_flags", "response_flags"]
            .iter()
            .find_map(|key| self.tag(key))
            .filter(|flags| *flags != "-")
    }
}

impl Trace {
    /// Reads one element of the `data` of Jaeger's answer.
    pub(crate) fn from_jaeger(value: &serde_json::Value) -> anyhow::Result<Self> {
        let trace = JaegerTrace::deserialize(value).context("not a trace in Jaeger's JSON")?;
        let services: HashMap<String, String> = trace
            .processes
            .into_iter()
            .map(|(id, process)| (id, process.service_name))
            .collect();
        let spans = trace
            .spans
            .into_iter()
            .map(|span| {
                let same_trace = |reference: &&JaegerReference| {
                    reference.ref_type == "CHILD_OF" && reference.trace_id == span.trace_id
                };
                let parent = span.references.iter().find(same_trace);
                Span {
                    parent: parent.map(|reference| reference.span_id.clone()),
                    service: services.get(&span.process_id).cloned().unwrap_or_default(),
                    operation: span.operation_name,
                    start_us: span.start_time,
                    duration_us: span.duration,
                    tags: span
                        .tags
                        .into_iter()
                        .map(|tag| (tag.key, plain(tag.value)))
                        .collect(),
                    id: span.span_id,
                }
            })
            .collect();
        Ok(Self {
            id: trace.trace_id,
            spans,
            warnings: trace.warnings.unwrap_or_default(),
        })
    }

    /// First start and last end.
    pub(crate) fn range(&self) -> (u64, u64) {
        let start = self
            .spans
            .iter()
            .map(|span| span.start_us)
            .min()
            .unwrap_or(0);
        let end = self.spans.iter().map(Span::end_us).max().unwrap_or(0);
        (start, end)
    }

    /// The first span without a parent; when that is missing, the earliest.
    pub(crate) fn root(&self) -> Option<&Span> {
        self.spans
            .iter()
            .min_by_key(|span| (span.parent.is_some(), span.start_us))
    }

    pub(crate) fn services(&self) -> BTreeSet<&str> {
        self.spans
            .iter()
            .map(|span| span.service.as_str())
            .collect()
    }

    pub(crate) fn errors(&self) -> usize {
        self.spans.iter().filter(|span| span.is_error()).count()
    }

    pub(super) fn headline(&self) -> String {
        let (start, end) = self.range();
        let root = self.root().map_or_else(String::new, |root| {
            format!("{} {}", clean(&root.service), clean(&root.operation))
        });
        let errors = match self.errors() {
            0 => String::new(),
            1 => " · 1 span with an error".to_owned(),
            more => format!(" · {more} spans with errors"),
        };
        format!(
            "trace {} · {root} · {} spans, {} services, {}{errors}",
            clean(&self.id),
            self.spans.len(),
            self.services().len(),
            duration(end - start),
        )
    }

    /// Every span once, parents before children, siblings by start. A span whose parent is missing stands as a
    /// root, and so does one of each circle of parents.
    pub(super) fn tree(&self) -> Vec<Row<'_>> {
        let ids: HashSet<&str> = self.spans.iter().map(|span| span.id.as_str()).collect();
        let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut roots = Vec::new();
        let mut order: Vec<usize> = (0..self.spans.len()).collect();
        order.sort_by_key(|at| self.spans[*at].start_us);
        for at in &order {
            match &self.spans[*at].parent {
                Some(parent) if ids.contains(parent.as_str()) => {
                    children.entry(parent).or_default().push(*at);
                }
                _ => roots.push(*at),
            }
        }
        let mut rows = Vec::with_capacity(self.spans.len());
        let mut drawn = vec![false; self.spans.len()];
        for start in roots.into_iter().chain(order) {
            // A stack of our own: traces may be deeper than the thread's.
            let mut stack = vec![(start, String::new(), String::new())];
            while let Some((at, lead, below)) = stack.pop() {
                if std::mem::replace(&mut drawn[at], true) {
                    continue;
                }
                let span = &self.spans[at];
                rows.push(Row { span, lead });
                let under = children
                    .get(span.id.as_str())
                    .map_or(&[][..], Vec::as_slice);
                // The stack turns the order round; the first pushed is the last drawn.
                for (distance, child) in under.iter().rev().enumerate() {
                    let (branch, line) = if distance == 0 {
                        ("└ ", "  ")
                    } else {
                        ("├ ", "│ ")
                    };
                    // What is deeper than any terminal is wide is cut anyway.
                    let below = if below.len() > 600 {
                        ""
                    } else {
                        below.as_str()
                    };
                    stack.push((*child, format!("{below}{branch}"), format!("{below}{line}")));
                }
            }
        }
        rows
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerTrace {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<JaegerSpan>,
    processes: HashMap<String, JaegerProcess>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerSpan {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: String,
    #[serde(default)]
    references: Vec<JaegerReference>,
    start_time: u64,
    duration: u64,
    #[serde(default)]
    tags: Vec<JaegerTag>,
    #[serde(rename = "processID")]
    process_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerReference {
    ref_type: String,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
struct JaegerTag {
    key: String,
    value: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerProcess {
    service_name: String,
}

fn plain(value: serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}
