//! Changes a pod and keeps the books: what was added, and what was there before, so that it can all be
//! taken back.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Injected, Pod, STATUS};

/// What a field was before something was put into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Was {
    Absent,
    Null,
}

/// The value of the annotation [`STATUS`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) init_containers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) containers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) volumes: Vec<String>,
    /// Annotations that were added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) annotations: Vec<String>,
    /// Annotations that were changed, with their former values.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) former_annotations: Map<String, Value>,
    /// Handlers of probes and hooks that were changed: container, then field, then what it was.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) former_handlers: Map<String, Value>,
    /// Lists and maps that were not there.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) was: Map<String, Value>,
}

/// A pod while it is changed.
#[derive(Debug)]
pub(super) struct Ledger {
    pod: Map<String, Value>,
    status: Status,
    changes: Vec<String>,
    notes: Vec<String>,
}

impl Ledger {
    pub(super) fn new(pod: &Pod<'_>) -> Self {
        Self {
            pod: pod.whole.as_object().cloned().unwrap_or_default(),
            status: Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Status::default()
            },
            changes: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn change(&mut self, what: impl Into<String>) {
        self.changes.push(what.into());
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// Puts a container into a list at a place, or at the end.
    pub(super) fn add_container(&mut self, list: &str, at: usize, container: Value) {
        let name = name_of(&container);
        if list == "containers" {
            self.status.containers.push(name);
        } else {
            self.status.init_containers.push(name);
        }
        let items = self.list(list);
        let at = at.min(items.len());
        items.insert(at, container);
    }

    pub(super) fn add_volume(&mut self, volume: Value) {
        self.status.volumes.push(name_of(&volume));
        self.list("volumes").push(volume);
    }

    pub(super) fn annotate(&mut self, key: &str, value: &str) {
        let former = self.annotations().insert(key.to_owned(), value.into());
        match former {
            None => self.status.annotations.push(key.to_owned()),
            Some(former) if former == *value => {}
            Some(former) => {
                self.status
                    .former_annotations
                    .insert(key.to_owned(), former);
            }
        }
    }

    /// Replaces the handler (`httpGet`, `tcpSocket`, `grpc`) of a probe or hook in place. `field` is
    /// `readinessProbe` or `lifecycle.preStop`.
    pub(super) fn replace_handler(
        &mut self,
        (list, index): (&str, usize),
        container: &str,
        field: &str,
        handler: &str,
        value: Value,
    ) {
        let mut holder = self
            .list(list)
            .get_mut(index)
            .and_then(Value::as_object_mut);
        for part in field.split('.') {
            holder = holder
                .and_then(|holder| holder.get_mut(part))
                .and_then(Value::as_object_mut);
        }
        let Some(former) = holder.and_then(|holder| replace_key(holder, handler, "httpGet", value))
        else {
            return;
        };
        let mut named = Map::new();
        named.insert(handler.to_owned(), former);
        let fields = self
            .status
            .former_handlers
            .entry(container)
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(fields) = fields.as_object_mut() {
            fields.insert(field.to_owned(), Value::Object(named));
        }
    }

    /// The changed pod, with the books in its annotation.
    pub(super) fn finish(mut self) -> Injected {
        // The annotation's own map first, so that the books mention it.
        self.annotations();
        let status = serde_json::to_string(&self.status).unwrap_or_default();
        self.annotations().insert(STATUS.to_owned(), status.into());
        Injected {
            pod: Value::Object(self.pod),
            changes: self.changes,
            notes: self.notes,
        }
    }

    fn list(&mut self, name: &str) -> &mut Vec<Value> {
        let Self { pod, status, .. } = self;
        let spec = object(pod, "spec", "spec", status);
        let list = spec.entry(name).or_insert_with(|| {
            status.was.insert(format!("spec.{name}"), was(Was::Absent));
            Value::Array(Vec::new())
        });
        if list.is_null() {
            status.was.insert(format!("spec.{name}"), was(Was::Null));
        }
        if !list.is_array() {
            *list = Value::Array(Vec::new());
        }
        match list {
            Value::Array(items) => items,
            _ => unreachable!("it was made a list above"),
        }
    }

    fn annotations(&mut self) -> &mut Map<String, Value> {
        let Self { pod, status, .. } = self;
        let metadata = object(pod, "metadata", "metadata", status);
        object(metadata, "annotations", "metadata.annotations", status)
    }
}

fn was(what: Was) -> Value {
    match what {
        Was::Absent => "absent".into(),
        Was::Null => "null".into(),
    }
}

fn object<'a>(
    of: &'a mut Map<String, Value>,
    name: &str,
    path: &str,
    status: &mut Status,
) -> &'a mut Map<String, Value> {
    let value = of.entry(name).or_insert_with(|| {
        status.was.insert(path.to_owned(), was(Was::Absent));
        Value::Object(Map::new())
    });
    if value.is_null() {
        status.was.insert(path.to_owned(), was(Was::Null));
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object above"),
    }
}

fn name_of(value: &Value) -> String {
    value
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// Replaces a key and its value, at its place; the former value.
pub(super) fn replace_key(
    map: &mut Map<String, Value>,
    from: &str,
    to: &str,
    value: Value,
) -> Option<Value> {
    if from == to {
        return map
            .get_mut(from)
            .map(|place| std::mem::replace(place, value));
    }
    let place = map.keys().position(|key| key == from)?;
    let former = map.shift_remove(from)?;
    map.shift_insert(place, to.to_owned(), value);
    Some(former)
}
