//! Access logs (`envoy.config.accesslog.v3`).

use std::{path::PathBuf, sync::Arc};

use super::format::Format;

/// `envoy.config.accesslog.v3.AccessLog`.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Name of the entry.
    pub name: Arc<str>,
    /// Where lines go.
    pub sink: Sink,
    /// What a line holds.
    pub format: LogFormat,
}

/// Where access-log lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    /// `FileAccessLog`.
    File(PathBuf),
    /// `StdoutAccessLog`.
    Stdout,
    /// `StderrAccessLog`.
    Stderr,
}

/// `SubstitutionFormatString`, with Envoy's default where none is set.
#[derive(Clone, Debug)]
pub enum LogFormat {
    /// One line of text, line end included where the configuration has it.
    Text(Format),
    /// One JSON object a line; keys sorted by name, as Envoy prints them.
    Json {
        /// The template.
        format: JsonFormat,
        /// Leave out keys without a value (`omit_empty_values`).
        omit_empty: bool,
    },
}

/// A JSON template.
#[derive(Clone, Debug)]
pub enum JsonFormat {
    /// Nested object.
    Object(Vec<(Arc<str>, Self)>),
    /// Array.
    Array(Vec<Self>),
    /// A string of operators: a lone operator keeps its type (number, null), others make a string.
    Format(Format),
    /// A literal number.
    Number(f64),
    /// A literal bool.
    Bool(bool),
    /// A literal null.
    Null,
}
