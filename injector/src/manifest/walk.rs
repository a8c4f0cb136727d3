//! Finds the pods in manifests and has each injected, or its sidecar taken away.

use std::fmt;

use serde_json::{Map, Value};

use super::{documents, parse, to_yaml};
use crate::{
    Problem, decide,
    spec::{Origin, Outcome, Settings, inject, uninject},
};

/// What to do with each pod.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Add a sidecar to those that do not say no.
    Inject(&'a Settings),
    /// Take it away.
    Uninject,
}

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML documents; those that do not change keep their text.
    Yaml,
    /// JSON values, one after the other.
    Json,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `Deployment shop/reviews`.
    pub object: String,
    /// What became of it.
    pub result: ItemResult,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemResult {
    /// It was changed: how, and what to know.
    Changed(Vec<String>, Vec<String>),
    /// It has a pod, which stays as it is.
    Skipped(String),
    /// It has no pod.
    NoPod,
    /// It cannot be changed.
    Refused(Vec<Problem>),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, result } = self;
        match result {
            ItemResult::Changed(changes, notes) => {
                write!(f, "{object}: changed")?;
                for change in changes {
                    write!(f, "\n  + {change}")?;
                }
                for note in notes {
                    write!(f, "\n  ! {note}")?;
                }
                Ok(())
            }
            ItemResult::Skipped(reason) => write!(f, "{object}: skipped: {reason}"),
            ItemResult::NoPod => write!(f, "{object}: no pod in it"),
            ItemResult::Refused(problems) => {
                write!(f, "{object}: refused")?;
                for problem in problems {
                    write!(f, "\n  {problem}")?;
                }
                Ok(())
            }
        }
    }
}

/// A text after it was gone through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The text; as it was where an object was refused.
    pub text: String,
    /// One item for each object, in order.
    pub items: Vec<Item>,
}

impl Rewritten {
    /// Whether nothing was refused.
    pub fn is_fine(&self) -> bool {
        !self
            .items
            .iter()
            .any(|item| matches!(item.result, ItemResult::Refused(_)))
    }
}

/// Goes through a text of any number of documents.
pub fn rewrite(text: &str, action: Action<'_>, format: Format) -> Rewritten {
    let mut items = Vec::new();
    let mut written = Vec::new();
    let found = documents(text);
    for document in &found {
        let value = match parse(document) {
            Ok(Some(value)) => value,
            Ok(None) => {
                if format == Format::Yaml {
                    written.push(document.text.to_owned());
                }
                continue;
            }
            Err(message) => {
                items.push(Item {
                    object: "document".to_owned(),
                    result: ItemResult::Refused(vec![Problem::new("", message)]),
                });
                written.push(document.text.to_owned());
                continue;
            }
        };
        let mut changed = value.clone();
        object(&mut changed, action, "", &mut items);
        written.push(match format {
            Format::Json => serde_json::to_string_pretty(&changed).unwrap_or_default(),
            Format::Yaml if changed == value => document.text.to_owned(),
            Format::Yaml => to_yaml(&changed),
        });
    }
    let text = match format {
        Format::Json => written.iter().map(|one| format!("{one}\n")).collect(),
        Format::Yaml => join(text, &written),
    };
    Rewritten { text, items }
}

/// Puts documents together again.
fn join(original: &str, written: &[String]) -> String {
    let mut text = String::new();
    let begins_with_mark = original.trim_start_matches('\u{feff}').starts_with("---");
    for (index, document) in written.iter().enumerate() {
        if index > 0 && !text.ends_with('\n') {
            text.push('\n');
        }
        if index > 0 || begins_with_mark {
            text.push_str("---");
            // A document that kept its text begins with what followed the mark.
            if !document.starts_with(['\n', '\r', ' ', '\t']) {
                text.push('\n');
            }
        }
        text.push_str(document);
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The place of the pod template, by kind; a pod is its own.
fn template_path(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "Pod" => &[],
        "PodTemplate" => &["template"],
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => &["spec", "template"],
        _ => return None,
    })
}

fn object(value: &mut Value, action: Action<'_>, place: &str, items: &mut Vec<Item>) {
    let kind = word(value, &["kind"]).to_owned();
    if kind.ends_with("List")
        && let Some(list) = value.get_mut("items").and_then(Value::as_array_mut)
    {
        let of = kind.strip_suffix("List").unwrap_or_default();
        for (index, item) in list.iter_mut().enumerate() {
            // The items of a `PodList` need not say what they are.
            let is_bare = !of.is_empty() && item.is_object() && item.get("kind").is_none();
            let place = format!("{place}items[{index}]");
            if is_bare {
                pod_of(item, of, action, &place, items);
            } else {
                object(item, action, &format!("{place}."), items);
            }
        }
        return;
    }
    pod_of(value, &kind, action, place.trim_end_matches('.'), items);
}

fn pod_of(value: &mut Value, kind: &str, action: Action<'_>, place: &str, items: &mut Vec<Item>) {
    let name = name(value);
    let namespace = word(value, &["metadata", "namespace"]).to_owned();
    let shown = if kind.is_empty() { "object" } else { kind };
    let object = if namespace.is_empty() {
        format!("{shown} {name}")
    } else {
        format!("{shown} {namespace}/{name}")
    };
    let result = match value {
        Value::Object(map) => match template_path(kind) {
            None => ItemResult::NoPod,
            Some(path) => {
                let origin = Origin {
                    kind: kind.to_owned(),
                    name,
                };
                at(map, path, &origin, &namespace, action)
            }
        },
        _ => {
            let message = "not an object of Kubernetes";
            ItemResult::Refused(vec![Problem::new(place, message)])
        }
    };
    items.push(Item { object, result });
}

fn at(
    map: &mut Map<String, Value>,
    path: &[&str],
    origin: &Origin,
    namespace: &str,
    action: Action<'_>,
) -> ItemResult {
    let Some((first, rest)) = path.split_first() else {
        let mut whole = Value::Object(std::mem::take(map));
        let result = one(&mut whole, origin, namespace, action);
        if let Value::Object(changed) = whole {
            *map = changed;
        }
        return result;
    };
    match map.get_mut(*first) {
        Some(Value::Object(inner)) => match at(inner, rest, origin, namespace, action) {
            ItemResult::Refused(problems) => {
                ItemResult::Refused(problems.into_iter().map(|one| one.below(first)).collect())
            }
            other => other,
        },
        _ => ItemResult::Refused(vec![Problem::new(*first, "missing, or not an object")]),
    }
}

fn one(pod: &mut Value, origin: &Origin, namespace: &str, action: Action<'_>) -> ItemResult {
    let settings = match action {
        Action::Inject(settings) => settings,
        Action::Uninject => {
            return match uninject(pod) {
                Err(problems) => ItemResult::Refused(problems),
                Ok(None) => ItemResult::Skipped("not injected".to_owned()),
                Ok(Some(restored)) => {
                    *pod = restored;
                    ItemResult::Changed(vec!["as before the sidecar".to_owned()], Vec::new())
                }
            };
        }
    };
    let context = decide::Context {
        namespace,
        namespace_labels: None,
        mesh_namespace: &settings.mesh_namespace,
        // Who runs the command asks for it.
        default: true,
    };
    match decide::decide(pod, &context) {
        Err(problems) => return ItemResult::Refused(problems),
        Ok(decision) if !decision.inject => return ItemResult::Skipped(decision.reason),
        Ok(_) => {}
    }
    match inject(pod, origin, settings) {
        Outcome::Skipped(reason) => ItemResult::Skipped(reason),
        Outcome::Refused(problems) => ItemResult::Refused(problems),
        Outcome::Injected(injected) => {
            *pod = injected.pod;
            ItemResult::Changed(injected.changes, injected.notes)
        }
    }
}

fn name(value: &Value) -> String {
    let name = word(value, &["metadata", "name"]);
    if name.is_empty() {
        word(value, &["metadata", "generateName"]).to_owned()
    } else {
        name.to_owned()
    }
}

fn word<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter()
        .try_fold(value, |value, part| value.get(part))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Calls for each pod of a value: what it is in, its namespace, the pod.
pub fn each_pod(value: &Value, visit: &mut dyn FnMut(&Origin, &str, &Value)) {
    let kind = word(value, &["kind"]);
    if kind.ends_with("List")
        && let Some(list) = value.get("items").and_then(Value::as_array)
    {
        for item in list {
            each_pod(item, visit);
        }
        return;
    }
    let Some(path) = template_path(kind) else {
        return;
    };
    let pod = path.iter().try_fold(value, |value, part| value.get(part));
    if let Some(pod) = pod {
        let origin = Origin {
            kind: kind.to_owned(),
            name: name(value),
        };
        visit(&origin, word(value, &["metadata", "namespace"]), pod);
    }
}
