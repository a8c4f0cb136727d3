//! A JSON value into the wire bytes of a message, going on after each error.
//!
//! The structure (names, lists, maps, oneofs, `Any`) is walked here, so that every error has its path
//! and the walk goes on after it; each leaf (scalars, durations, timestamps, free-form structs) is read
//! by `prost-reflect`.

use std::collections::HashMap;

use prost::Message;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
    Value as Field,
};
use serde_json::{Map, Value};

use super::{
    mapping::{expectation, leaf_form, map_key, wrapper_name},
    pool,
};
use crate::{
    error::{Errors, MAX_DEPTH, Path},
    validate::type_name,
};

/// What could be read, and what could not.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) wire: Vec<u8>,
    pub(super) errors: Errors,
    pub(super) explained: Explained,
}

/// Places whose contents are missing because of an error that is already reported.
#[derive(Debug, Default)]
pub(super) struct Explained(Vec<String>);

impl Explained {
    /// Whether an error at this path only follows from a reported one.
    pub(super) fn covers(&self, path: &str) -> bool {
        self.0.iter().any(|place| {
            path.strip_prefix(place.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

/// Reads a value as the message.
pub(super) fn read(descriptor: &MessageDescriptor, value: &Value) -> Parsed {
    let mut reader = Reader::default();
    let message = reader.message(descriptor, value, &Path::ROOT, 0);
    Parsed {
        wire: message
            .map(|message| message.encode_to_vec())
            .unwrap_or_default(),
        errors: reader.errors,
        explained: reader.explained,
    }
}

#[derive(Default)]
struct Reader {
    errors: Errors,
    explained: Explained,
}

impl Reader {
    fn fail(&mut self, path: &Path<'_>, reason: impl Into<String>) {
        self.explained.0.push(path.to_string());
        self.errors.add(path, reason);
    }

    /// `None` when nothing of it could be read; the error is then reported.
    fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<DynamicMessage> {
        if depth >= MAX_DEPTH {
            self.fail(
                path,
                format!("messages are nested more than {MAX_DEPTH} deep"),
            );
            return None;
        }
        if let Some(expected) = leaf_form(descriptor.full_name()) {
            return self.leaf(descriptor, value, expected, path);
        }
        let Value::Object(entries) = value else {
            self.fail(path, format!("expected an object, got {}", show(value)));
            return None;
        };
        if descriptor.full_name() == "google.protobuf.Any" {
            return self.any(descriptor, entries, path, depth);
        }
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut oneofs: HashMap<String, String> = HashMap::new();
        for (name, value) in entries {
            if self.errors.is_full() {
                break;
            }
            let Some(field) = find_field(descriptor, name) else {
                self.unknown_field(descriptor, name, path);
                continue;
            };
            self.field(
                &mut message,
                &field,
                (name, value),
                path,
                depth,
                &mut oneofs,
            );
        }
        Some(message)
    }

    /// Reads one member of an object into its message.
    fn field(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        (name, value): (&str, &Value),
        parent: &Path<'_>,
        depth: usize,
        oneofs: &mut HashMap<String, String>,
    ) {
        let path = parent.field(field.name());
        if value.is_null() && !takes_null(field) {
            // Null means absent.
            return;
        }
        if name != field.name() && message.has_field(field) {
            self.errors
                .add(&path, format!("given twice, also as `{name}`"));
            return;
        }
        let oneof = field.containing_oneof();
        if let Some(oneof) = &oneof {
            let first = oneofs
                .entry(oneof.name().to_owned())
                .or_insert_with(|| field.name().to_owned());
            if first != field.name() {
                let reason = format!("only one of `{first}` and `{}` may be set", field.name());
                self.errors.add(&path, reason);
                return;
            }
        }
        let read = if field.is_map() {
            self.map(field, value, &path, depth)
        } else if field.is_list() {
            self.list(field, value, &path, depth)
        } else {
            self.single(&field.kind(), value, &path, depth)
        };
        match (read, oneof) {
            (Some(read), _) => message.set_field(field, read),
            // The oneof is unset only because its member could not be read.
            (None, Some(oneof)) => self.explain_oneof(&oneof, parent),
            (None, None) => {}
        }
    }

    fn explain_oneof(&mut self, oneof: &OneofDescriptor, parent: &Path<'_>) {
        self.explained
            .0
            .push(parent.field(oneof.name()).to_string());
    }

    fn unknown_field(&mut self, descriptor: &MessageDescriptor, name: &str, path: &Path<'_>) {
        let fields: Vec<_> = descriptor.fields().collect();
        let near = nearest(
            name,
            fields
                .iter()
                .flat_map(|field| [(field.name(), field), (field.json_name(), field)]),
        );
        let place = path.field(name);
        let Some(field) = near else {
            self.errors.add(&place, "unknown field");
            return;
        };
        self.errors.add(
            &place,
            format!("unknown field; did you mean `{}`?", field.name()),
        );
        // That the field which was meant is missing needs no second error.
        self.explained.0.push(path.field(field.name()).to_string());
        if let Some(oneof) = field.containing_oneof() {
            self.explain_oneof(&oneof, path);
        }
    }

    fn list(
        &mut self,
        field: &FieldDescriptor,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<Field> {
        let Value::Array(items) = value else {
            self.fail(path, format!("expected a list, got {}", show(value)));
            return None;
        };
        let kind = field.kind();
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            // An item that cannot be read keeps its place, so that the paths of the others stay right.
            let read = self.single(&kind, item, &path.index(index), depth);
            list.push(read.unwrap_or_else(|| Field::default_value(&kind)));
        }
        Some(Field::List(list))
    }

    fn map(
        &mut self,
        field: &FieldDescriptor,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<Field> {
        let (Value::Object(entries), Kind::Message(entry)) = (value, field.kind()) else {
            self.fail(path, format!("expected an object, got {}", show(value)));
            return None;
        };
        let (key_kind, value_kind) = (
            entry.map_entry_key_field().kind(),
            entry.map_entry_value_field().kind(),
        );
        let mut map = HashMap::with_capacity(entries.len());
        for (key, value) in entries {
            let path = path.key(key);
            let Some(map_key) = map_key(&key_kind, key) else {
                self.fail(
                    &path,
                    format!("expected {} as the key", expectation(&key_kind)),
                );
                continue;
            };
            if let Some(value) = self.single(&value_kind, value, &path, depth + 1) {
                map.insert(map_key, value);
            }
        }
        Some(Field::Map(map))
    }

    fn single(
        &mut self,
        kind: &Kind,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<Field> {
        match kind {
            Kind::Message(descriptor) => self
                .message(descriptor, value, path, depth + 1)
                .map(Field::Message),
            Kind::Enum(descriptor) => self.enumeration(descriptor, value, path),
            scalar => {
                // The wrapper of a scalar has the same JSON form as the scalar.
                let wrapper = pool::message(wrapper_name(scalar)?)?;
                let number = wrapper.get_field_by_name("value")?;
                let message = self.leaf(&wrapper, value, expectation(scalar), path)?;
                Some(message.get_field(&number).into_owned())
            }
        }
    }

    fn enumeration(
        &mut self,
        descriptor: &EnumDescriptor,
        value: &Value,
        path: &Path<'_>,
    ) -> Option<Field> {
        if descriptor.full_name() == "google.protobuf.NullValue" && value.is_null() {
            return Some(Field::EnumNumber(0));
        }
        let Value::String(name) = value else {
            // A number stands for itself; the rules say whether it must be a known one.
            let number = value
                .as_i64()
                .or_else(|| {
                    value
                        .as_f64()
                        .filter(|value| value.fract() == 0.0)
                        .map(|value| value as i64)
                })
                .and_then(|number| i32::try_from(number).ok());
            if number.is_none() {
                self.fail(path, format!("expected an enum value, got {}", show(value)));
            }
            return number.map(Field::EnumNumber);
        };
        if let Some(value) = descriptor.get_value_by_name(name) {
            return Some(Field::EnumNumber(value.number()));
        }
        let values: Vec<_> = descriptor.values().collect();
        let names = values.iter().map(|value| value.name());
        let hint = match nearest(name, names.clone().map(|name| (name, name))) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected one of {}", names.collect::<Vec<_>>().join(", ")),
        };
        self.fail(path, format!("unknown enum value {}; {hint}", show(value)));
        None
    }

    fn any(
        &mut self,
        descriptor: &MessageDescriptor,
        entries: &Map<String, Value>,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<DynamicMessage> {
        let mut any = DynamicMessage::new(descriptor.clone());
        if entries.is_empty() {
            return Some(any);
        }
        let url = match entries.get("@type") {
            Some(Value::String(url)) => url,
            Some(other) => {
                let reason = format!("expected a type URL in `@type`, got {}", show(other));
                self.fail(path, reason);
                return None;
            }
            None => {
                self.fail(path, "`@type` is missing: it names the message's type");
                return None;
            }
        };
        let Some(inner) = type_name(url).and_then(pool::message) else {
            self.unknown_type(url, path);
            return None;
        };
        let mut rest = entries.clone();
        rest.remove("@type");
        let has_own_form =
            inner.full_name() == "google.protobuf.Any" || leaf_form(inner.full_name()).is_some();
        let message = if has_own_form && inner.full_name() != "google.protobuf.Empty" {
            let value = rest.remove("value");
            for name in rest.keys() {
                let reason = "unknown field; the content of this type goes into `value`";
                self.fail(&path.field(name), reason);
            }
            self.message(
                &inner,
                value.as_ref().unwrap_or(&Value::Null),
                path,
                depth + 1,
            )
        } else {
            self.message(&inner, &Value::Object(rest), path, depth + 1)
        };
        any.set_field_by_name("type_url", Field::String(url.clone()));
        any.set_field_by_name("value", Field::Bytes(message?.encode_to_vec().into()));
        Some(any)
    }

    fn unknown_type(&mut self, url: &str, path: &Path<'_>) {
        let Some(name) = type_name(url) else {
            let reason = format!(
                "`@type` must be a type URL such as \
                 `type.googleapis.com/envoy.config.listener.v3.Listener`, got {url:?}"
            );
            return self.fail(path, reason);
        };
        let names: Vec<_> = pool::names().collect();
        let near = nearest(name, names.iter().map(|name| (name.as_str(), name)));
        let hint = near.map(|near| format!("; did you mean `type.googleapis.com/{near}`?"));
        self.fail(
            path,
            format!("unknown type URL `{url}`{}", hint.unwrap_or_default()),
        );
    }

    /// Reads a value that `prost-reflect` takes as a whole.
    fn leaf(
        &mut self,
        descriptor: &MessageDescriptor,
        value: &Value,
        expected: &str,
        path: &Path<'_>,
    ) -> Option<DynamicMessage> {
        // Free-form values nest by themselves, up to three messages for each level.
        if !is_shallow(value, MAX_DEPTH / 3) {
            self.fail(path, "the value is nested too deep");
            return None;
        }
        match DynamicMessage::deserialize(descriptor.clone(), value) {
            Ok(message) => Some(message),
            Err(_) => {
                self.fail(path, format!("expected {expected}, got {}", show(value)));
                None
            }
        }
    }
}

fn find_field(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor
        .get_field_by_name(name)
        .or_else(|| descriptor.get_field_by_json_name(name))
}

/// Whether null is a value of the field and not its absence.
fn takes_null(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => message.full_name() == "google.protobuf.Value",
        Kind::Enum(descriptor) => descriptor.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

/// The candidate that a name was probably meant to be.
fn nearest<'a, T>(name: &str, candidates: impl Iterator<Item = (&'a str, T)>) -> Option<T> {
    // A third of the letters may differ, not more than four.
    let limit = (name.chars().count() / 3).clamp(1, 4);
    candidates
        .map(|(candidate, item)| (strsim::damerau_levenshtein(name, candidate), item))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, item)| item)
}

fn is_shallow(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_shallow(item, levels - 1)),
        Value::Object(entries) => {
            levels > 0 && entries.values().all(|item| is_shallow(item, levels - 1))
        }
        _ => true,
    }
}

/// A short form of a value for an error.
fn show(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > MAX_CHARS => {
            let start: String = text.chars().take(MAX_CHARS).collect();
            format!("{start:?}…")
        }
        other => other.to_string(),
    }
}
