//! Text of YAML files → typed objects.
//!
//! A file holds any number of documents, each one Kubernetes object. Everything wrong with a file
//! is found in one run: syntax, unknown kinds, unknown fields, wrong types, and values that the
//! Kubernetes API server would refuse. What is valid but not implemented is no error here: it
//! becomes a condition of the object.

mod endpoints;
mod finding;
mod grant;
mod http_route;
mod locate;
mod merge;
mod metadata;
mod policy;
mod service;
mod value;

use std::sync::Arc;

use serde::Deserialize;
use serde_norway::Value;

pub(crate) use finding::Checks;
use finding::Problem;
pub use finding::{Finding, Severity};
pub use merge::{FileSet, FileState};

use crate::model::{Kind, NamespacedName, Object, ObjectRef};

/// What one file says.
#[derive(Clone, Debug, Default)]
pub struct ParsedFile {
    /// In order of definition.
    pub objects: Vec<Located>,
    /// Errors and warnings, in order of their documents.
    pub findings: Vec<Finding>,
}

/// An object and where it starts.
#[derive(Clone, Debug)]
pub struct Located {
    /// The object.
    pub object: Arc<Object>,
    /// The number of its document in the file, from 0.
    pub document: usize,
}

impl ParsedFile {
    /// Whether everything in it can be used.
    pub fn is_valid(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.severity < Severity::Error)
    }
}

/// Reads the objects of `text`; `file` is how findings name it.
pub fn parse_file(file: &str, text: &str) -> ParsedFile {
    let mut objects = Vec::new();
    let mut findings = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (number, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let value = match Value::deserialize(document) {
            Ok(Value::Null) => continue,
            Ok(value) => value,
            Err(error) => {
                findings.push((number, syntax_error(file, &error)));
                // After a syntax error the rest of the stream has no defined meaning.
                break;
            }
        };
        let (reference, checks, object) = read_document(value);
        let reference = reference.as_ref();
        let mut errors = checks.errors;
        match object {
            Some(object) if errors.is_empty() => {
                if seen.insert(object.reference()) {
                    objects.push(Located {
                        object: Arc::new(object),
                        document: number,
                    });
                } else {
                    errors.push(Problem::new("metadata.name", "defined twice in this file"));
                }
            }
            _ => {}
        }
        findings.extend(
            errors
                .into_iter()
                .map(|p| (number, Finding::error(file, reference, p))),
        );
        findings.extend(
            checks
                .warnings
                .into_iter()
                .map(|p| (number, Finding::warning(file, reference, p))),
        );
    }
    locate::locate(text, &mut findings);
    ParsedFile {
        objects,
        findings: findings.into_iter().map(|(_, finding)| finding).collect(),
    }
}

fn syntax_error(file: &str, error: &serde_norway::Error) -> Finding {
    let text = error.to_string();
    // The position is reported apart.
    let message = text.split(" at line ").next().unwrap_or(&text);
    let mut finding = Finding::error(file, None, Problem::new("", format!("YAML: {message}")));
    if let Some(location) = error.location() {
        finding.line = Some(location.line());
        finding.column = Some(location.column());
    }
    finding
}

/// Only what tells how to read the rest.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: HeaderMetadata,
}

#[derive(Default, Deserialize)]
struct HeaderMetadata {
    #[serde(default)]
    name: Value,
    #[serde(default)]
    namespace: Value,
}

fn read_document(value: Value) -> (Option<ObjectRef>, Checks, Option<Object>) {
    let mut checks = Checks::default();
    let header = match serde_path_to_error::deserialize::<_, Header>(value.clone()) {
        Ok(header) => header,
        Err(error) => {
            checks.errors.push(value::type_error(&error));
            return (None, checks, None);
        }
    };
    let Some(kind) = Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == header.kind)
    else {
        let known = Kind::ALL.map(Kind::name).join(", ");
        checks.error(
            "kind",
            format!("{} is not supported; supported are {known}", header.kind),
        );
        return (None, checks, None);
    };
    let reference = header.metadata.name.as_str().map(|name| {
        let namespace = header
            .metadata
            .namespace
            .as_str()
            .unwrap_or(metadata::DEFAULT_NAMESPACE);
        ObjectRef::new(kind, &NamespacedName::new(namespace, name))
    });
    if !kind.api_versions().contains(&header.api_version.as_str()) {
        let versions = kind.api_versions().join(" or ");
        checks.error(
            "apiVersion",
            format!(
                "{} of {} is not supported, use {versions}",
                header.api_version, header.kind
            ),
        );
        return (reference, checks, None);
    }
    let object = match kind {
        Kind::Service => service::read(value, &mut checks).map(Object::Service),
        Kind::EndpointSlice => endpoints::read_slice(value, &mut checks).map(Object::Endpoints),
        Kind::ServiceAddresses => {
            endpoints::read_addresses(value, &mut checks).map(Object::Endpoints)
        }
        Kind::HttpRoute => http_route::read(value, &mut checks).map(Object::HttpRoute),
        Kind::ReferenceGrant => grant::read(value, &mut checks).map(Object::ReferenceGrant),
        Kind::TrafficPolicy => {
            policy::read(value, &mut checks).map(|policy| Object::TrafficPolicy(Box::new(policy)))
        }
        Kind::Bulkhead => policy::read(value, &mut checks).map(Object::Bulkhead),
        Kind::RateLimitPolicy => policy::read(value, &mut checks).map(Object::RateLimitPolicy),
        Kind::FaultPolicy => policy::read(value, &mut checks).map(Object::FaultPolicy),
    };
    (reference, checks, object)
}

#[cfg(test)]
mod tests;
