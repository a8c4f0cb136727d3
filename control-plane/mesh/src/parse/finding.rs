//! What is wrong with a file, said so that its author finds the place.

use std::fmt;

use serde::Serialize;

use crate::model::ObjectRef;

/// One thing to tell about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, as the source names it.
    pub file: String,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// The object, if the text got that far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The field, such as `spec.rules[0].matches[1].path.type`; empty for the whole object.
    pub path: String,
    /// How bad.
    pub severity: Severity,
    /// What is wrong, and what to do.
    pub message: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object works, but not all of it means something here.
    Warning,
    /// The object is not used.
    Error,
}

impl Finding {
    pub(crate) fn error(file: &str, object: Option<&ObjectRef>, problem: Problem) -> Self {
        Self::new(file, object, problem, Severity::Error)
    }

    pub(crate) fn warning(file: &str, object: Option<&ObjectRef>, problem: Problem) -> Self {
        Self::new(file, object, problem, Severity::Warning)
    }

    fn new(file: &str, object: Option<&ObjectRef>, problem: Problem, severity: Severity) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            object: object.map(ToString::to_string),
            path: problem.path,
            severity,
            message: problem.message,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        f.write_str(match self.severity {
            Severity::Error => ": error: ",
            Severity::Warning => ": warning: ",
        })?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// A place within an object and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) path: String,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

/// Collects everything that is wrong with one object, so that one run shows all of it.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
    pub(crate) unsupported: Vec<Problem>,
}

impl Checks {
    pub(crate) fn error(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(Problem::new(path, message));
    }

    pub(crate) fn warn(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem::new(path, message));
    }

    pub(crate) fn unsupported(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.unsupported.push(Problem::new(path, message));
    }
}
