//! A pod as it was given: read with care, since it may be anything.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{POD_VOLUME, PORTS, PROXY_USER, TOKEN_VOLUME};
use crate::Problem;

/// The lists of containers, in the order in which they start.
pub(crate) const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];

/// A pod or pod template whose shape was checked as far as the change relies on it.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    pub(crate) whole: &'a Value,
    pub(crate) metadata: Option<&'a Map<String, Value>>,
    pub(crate) spec: &'a Map<String, Value>,
}

impl<'a> Pod<'a> {
    /// Checks the shape: a field that is missing or null is none.
    pub(crate) fn read(whole: &'a Value) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let Some(object) = whole.as_object() else {
            return Err(vec![Problem::new(
                "",
                format!("{}, not a pod", kind(whole)),
            )]);
        };
        let metadata = map(object, "metadata", "metadata", &mut problems);
        let spec = map(object, "spec", "spec", &mut problems);
        for name in ["labels", "annotations"] {
            let path = format!("metadata.{name}");
            let Some(words) =
                metadata.and_then(|metadata| map(metadata, name, &path, &mut problems))
            else {
                continue;
            };
            for (key, value) in words {
                if !value.is_string() {
                    let what = kind(value);
                    problems.push(Problem::new(
                        format!("{path}[{key}]"),
                        format!("{what}, not a string: put it in quotes"),
                    ));
                }
            }
        }
        let Some(spec) = spec else {
            if problems.is_empty() {
                problems.push(Problem::new("spec", "missing"));
            }
            return Err(problems);
        };
        let mut names = BTreeSet::new();
        for name in CONTAINER_LISTS {
            let found = named(spec, name, &mut names, &mut problems);
            if name == "containers" && found == 0 && problems.is_empty() {
                problems.push(Problem::new("spec.containers", "a pod needs a container"));
            }
        }
        named(spec, "volumes", &mut BTreeSet::new(), &mut problems);
        if problems.is_empty() {
            Ok(Self {
                whole,
                metadata,
                spec,
            })
        } else {
            Err(problems)
        }
    }

    fn word(&self, map: &str, key: &str) -> Option<&'a str> {
        self.metadata?.get(map)?.get(key)?.as_str()
    }

    pub(crate) fn label(&self, key: &str) -> Option<&'a str> {
        self.word("labels", key)
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.word("annotations", key)
    }

    pub(crate) fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.words("annotations")
    }

    pub(crate) fn labels(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.words("labels")
    }

    fn words(&self, map: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.metadata
            .and_then(|metadata| metadata.get(map)?.as_object())
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// All containers, with the list they are in and their place in it.
    pub(crate) fn containers(
        &self,
    ) -> impl Iterator<Item = (&'static str, usize, &'a Map<String, Value>)> {
        let spec = self.spec;
        CONTAINER_LISTS.into_iter().flat_map(move |list| {
            spec.get(list)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(move |(index, container)| Some((list, index, container.as_object()?)))
        })
    }

    pub(crate) fn has_container(&self, name: &str) -> bool {
        self.containers()
            .any(|(_, _, container)| container_name(container) == name)
    }

    /// What in the pod clashes with the sidecar.
    pub(crate) fn conflicts(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (list, index, container) in self.containers() {
            let ports = container.get("ports").and_then(Value::as_array);
            for (at, port) in ports.into_iter().flatten().enumerate() {
                let number = port.get("containerPort").and_then(Value::as_u64);
                if let Some(number) = number
                    && PORTS.iter().any(|taken| u64::from(*taken) == number)
                {
                    problems.push(Problem::new(
                        format!("spec.{list}[{index}].ports[{at}].containerPort"),
                        format!("{number} is one of the sidecar's own ports: choose another"),
                    ));
                }
            }
            if runs_as_proxy(container.get("securityContext")) {
                problems.push(as_proxy(&format!(
                    "spec.{list}[{index}].securityContext.runAsUser"
                )));
            }
        }
        if runs_as_proxy(self.spec.get("securityContext")) {
            problems.push(as_proxy("spec.securityContext.runAsUser"));
        }
        let volumes = self.spec.get("volumes").and_then(Value::as_array);
        for (index, volume) in volumes.into_iter().flatten().enumerate() {
            let name = volume.get("name").and_then(Value::as_str);
            if let Some(name) = name.filter(|name| [TOKEN_VOLUME, POD_VOLUME].contains(name)) {
                problems.push(Problem::new(
                    format!("spec.volumes[{index}].name"),
                    format!("{name} is the sidecar's: choose another name"),
                ));
            }
        }
        problems
    }
}

pub(crate) fn container_name(container: &Map<String, Value>) -> &str {
    container
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn runs_as_proxy(context: Option<&Value>) -> bool {
    context
        .and_then(|context| context.get("runAsUser")?.as_u64())
        .is_some_and(|user| user == u64::from(PROXY_USER))
}

fn as_proxy(path: &str) -> Problem {
    Problem::new(
        path,
        format!(
            "{PROXY_USER} is the sidecar's user, whose connections are not redirected: the application would \
             bypass the mesh"
        ),
    )
}

fn map<'a>(
    of: &'a Map<String, Value>,
    name: &str,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<&'a Map<String, Value>> {
    match of.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::Object(map)) => Some(map),
        Some(other) => {
            problems.push(Problem::new(
                path,
                format!("{}, not an object", kind(other)),
            ));
            None
        }
    }
}

/// Checks a list of objects that each have a name of their own; how many there are.
fn named<'a>(
    spec: &'a Map<String, Value>,
    list: &str,
    names: &mut BTreeSet<&'a str>,
    problems: &mut Vec<Problem>,
) -> usize {
    let items = match spec.get(list) {
        None | Some(Value::Null) => return 0,
        Some(Value::Array(items)) => items,
        Some(other) => {
            let what = kind(other);
            problems.push(Problem::new(
                format!("spec.{list}"),
                format!("{what}, not a list"),
            ));
            return 0;
        }
    };
    for (index, item) in items.iter().enumerate() {
        let path = format!("spec.{list}[{index}]");
        if !item.is_object() {
            problems.push(Problem::new(path, format!("{}, not an object", kind(item))));
            continue;
        }
        match item.get("name").and_then(Value::as_str) {
            None | Some("") => problems.push(Problem::new(format!("{path}.name"), "missing")),
            Some(name) if !names.insert(name) => {
                problems.push(Problem::new(
                    format!("{path}.name"),
                    format!("{name} is taken"),
                ));
            }
            Some(_) => {}
        }
    }
    items.len()
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
