//! Checks a directory of mesh configuration without serving it, for `outrigger validate`.

use std::{io, path::Path};

use outrigger_mesh::{
    Model,
    parse::{FileSet, Finding, Severity},
    status::{Condition, ConditionStatus},
};

use crate::sources::files;

/// What a directory amounts to.
#[derive(Debug)]
pub struct Report {
    /// How many files were read.
    pub files: usize,
    /// How many objects they hold.
    pub objects: usize,
    /// Everything to tell, by file and line.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether everything in it would be in force.
    pub fn is_valid(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.severity < Severity::Error)
    }
}

/// Reads a directory or one file and finds everything that a control plane would report: what
/// cannot be read, what would not be accepted, and references that lead nowhere.
///
/// # Errors
/// When `path` cannot be read at all.
pub fn check(path: &Path) -> io::Result<Report> {
    let mut files = FileSet::default();
    let found = files::read_once(path)?;
    let count = found.len();
    files.update(found);
    let model = Model::build(1, files.objects().cloned());
    let origins = files.origins();
    let mut findings: Vec<_> = files.findings().cloned().collect();
    for (object, status) in model.statuses() {
        let of_parents = status.parents.iter().flat_map(|parent| &parent.conditions);
        let mut told: Vec<&Condition> = Vec::new();
        for condition in status.conditions.iter().chain(of_parents) {
            if condition.status != ConditionStatus::False || told.contains(&condition) {
                continue;
            }
            told.push(condition);
            // A condition's message lists fields as `path: what; path: what`.
            for part in condition.message.split("; ") {
                let (path, message) = match part.split_once(": ") {
                    Some((path, message)) if path.starts_with("spec.") => (path, message),
                    _ => ("", part),
                };
                findings.push(Finding {
                    file: origins.get(object).copied().unwrap_or_default().to_owned(),
                    line: None,
                    column: None,
                    object: Some(object.to_string()),
                    path: path.to_owned(),
                    severity: Severity::Error,
                    message: format!("{message} ({}: {})", condition.kind, condition.reason),
                });
            }
        }
    }
    findings.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(Report {
        files: count,
        objects: model.objects().len(),
        findings,
    })
}
