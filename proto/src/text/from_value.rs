//! A JSON value into the wire bytes of a message, going on after each error.
//!
//! The walk follows the static table, so that every error has its path and is not the last one that
//! can be found; each leaf is read as a whole.

use std::collections::HashMap;

use prost::encoding;
use serde_json::Value;

use super::{
    hint::{nearest, show},
    leaf,
};
use crate::{
    error::{Errors, MAX_DEPTH, Path},
    schema::table::{Enum, Field, Kind, Message, Shape, Special},
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
            // An empty place is the whole message.
            place.is_empty()
                || path
                    .strip_prefix(place.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

/// Reads a value as the message.
pub(super) fn read(row: &'static Message, value: &Value) -> Parsed {
    let mut reader = Reader::default();
    let wire = reader.message(row, value, &Path::ROOT, 0);
    Parsed {
        wire: wire.unwrap_or_default(),
        errors: reader.errors,
        explained: reader.explained,
    }
}

/// The walk: what it has found so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    errors: Errors,
    explained: Explained,
}

impl Reader {
    pub(super) fn fail(&mut self, path: &Path<'_>, reason: impl Into<String>) {
        self.explained.0.push(path.to_string());
        self.errors.add(path, reason);
    }

    fn too_deep(&mut self, path: &Path<'_>) {
        self.fail(
            path,
            format!("messages are nested more than {MAX_DEPTH} deep"),
        );
    }

    /// The wire bytes; `None` when nothing of it could be read, which is then reported.
    pub(super) fn message(
        &mut self,
        row: &'static Message,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<Vec<u8>> {
        if depth >= MAX_DEPTH {
            self.too_deep(path);
            return None;
        }
        if let Some(expected) = leaf::form(row.name()) {
            return self.leaf(row, value, expected, path);
        }
        let Value::Object(entries) = value else {
            self.fail(path, format!("expected an object, got {}", show(value)));
            return None;
        };
        if row.special == Special::Any {
            return self.any(entries, path, depth);
        }
        self.object(row, entries.iter(), path, depth)
    }

    pub(super) fn object<'v>(
        &mut self,
        row: &'static Message,
        entries: impl Iterator<Item = (&'v String, &'v Value)>,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<Vec<u8>> {
        if depth >= MAX_DEPTH {
            self.too_deep(path);
            return None;
        }
        let mut message = Building {
            row,
            wire: Vec::new(),
            seen: HashMap::new(),
            oneofs: vec![None; row.oneofs().len()],
        };
        for (name, value) in entries {
            if self.errors.is_full() {
                break;
            }
            match row.fields().iter().find(|field| is_named(field, name)) {
                Some(field) => self.member(&mut message, field, (name, value), path, depth),
                None => self.unknown_field(row, name, path),
            }
        }
        Some(message.wire)
    }

    /// Reads one member of an object into its message.
    fn member<'v>(
        &mut self,
        message: &mut Building<'v>,
        field: &'static Field,
        (name, value): (&'v str, &Value),
        parent: &Path<'_>,
        depth: usize,
    ) {
        let path = parent.field(field.name());
        if value.is_null() && !takes_null(field) {
            // Null means absent.
            return;
        }
        if let Some(first) = message.seen.insert(field.number, name) {
            self.errors
                .add(&path, format!("given twice, as `{first}` and as `{name}`"));
            return;
        }
        if let Some(set) = field
            .oneof()
            .and_then(|oneof| message.oneofs.get_mut(oneof))
        {
            if let Some(first) = set {
                let reason = format!("only one of `{first}` and `{}` may be set", field.name());
                self.errors.add(&path, reason);
                return;
            }
            *set = Some(field.name());
        }
        let read = match field.shape {
            Shape::Map => self.map(field, value, &path, depth, &mut message.wire),
            Shape::Repeated => self.list(field, value, &path, depth, &mut message.wire),
            Shape::Implicit | Shape::Optional => self.single(
                field.kind,
                field.number,
                value,
                &path,
                depth,
                &mut message.wire,
            ),
        };
        if read.is_none() {
            // The oneof is unset only because its member could not be read.
            self.explain_oneof(message.row, field, parent);
        }
    }

    fn explain_oneof(&mut self, row: &Message, field: &Field, parent: &Path<'_>) {
        if let Some(oneof) = field.oneof().and_then(|oneof| row.oneofs().get(oneof)) {
            self.explained
                .0
                .push(parent.field(oneof.name()).to_string());
        }
    }

    fn unknown_field(&mut self, row: &'static Message, name: &str, path: &Path<'_>) {
        let place = path.field(name);
        // A name in camelCase is compared in its snake_case form.
        let snake: String = name
            .chars()
            .flat_map(|char| {
                let underscore = char.is_ascii_uppercase().then_some('_');
                underscore.into_iter().chain([char.to_ascii_lowercase()])
            })
            .collect();
        let names = || row.fields().iter().map(|field| (field.name(), field));
        let Some(field) = nearest(name, names()).or_else(|| nearest(&snake, names())) else {
            self.errors.add(&place, "unknown field");
            return;
        };
        let reason = format!("unknown field; did you mean `{}`?", field.name());
        self.errors.add(&place, reason);
        // That the field which was meant is missing needs no second error.
        self.explained.0.push(path.field(field.name()).to_string());
        self.explain_oneof(row, field, path);
    }

    fn list(
        &mut self,
        field: &'static Field,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
        wire: &mut Vec<u8>,
    ) -> Option<()> {
        let Value::Array(items) = value else {
            self.fail(path, format!("expected a list, got {}", show(value)));
            return None;
        };
        for (index, item) in items.iter().enumerate() {
            if self.errors.is_full() {
                break;
            }
            let path = path.index(index);
            if self
                .single(field.kind, field.number, item, &path, depth, wire)
                .is_none()
            {
                // An item that cannot be read keeps its place, so that the paths after it are right.
                encode_default(field.kind, field.number, wire);
            }
        }
        Some(())
    }

    fn map(
        &mut self,
        field: &'static Field,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
        wire: &mut Vec<u8>,
    ) -> Option<()> {
        let Value::Object(entries) = value else {
            self.fail(path, format!("expected an object, got {}", show(value)));
            return None;
        };
        let [key_field, value_field] = field.kind.message()?.fields() else {
            return None;
        };
        for (key, value) in entries {
            if self.errors.is_full() {
                break;
            }
            let path = path.key(key);
            let mut entry = Vec::new();
            // Keys that are no text are written as text in JSON.
            let as_value = match key_field.kind {
                Kind::Bool => key.parse().map_or(Value::Null, Value::Bool),
                _ => key.as_str().into(),
            };
            if leaf::read_scalar(key_field.kind, key_field.number, &as_value, &mut entry).is_none()
            {
                let expected = leaf::expectation(key_field.kind);
                self.fail(&path, format!("expected {expected} as the key"));
                continue;
            }
            let (kind, number) = (value_field.kind, value_field.number);
            if self
                .single(kind, number, value, &path, depth + 1, &mut entry)
                .is_some()
            {
                encoding::bytes::encode(field.number, &entry, wire);
            }
        }
        Some(())
    }

    fn single(
        &mut self,
        kind: Kind,
        number: u32,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
        wire: &mut Vec<u8>,
    ) -> Option<()> {
        if let Some(row) = kind.message() {
            let inner = self.message(row, value, path, depth + 1)?;
            encoding::bytes::encode(number, &inner, wire);
            return Some(());
        }
        if let Some(row) = kind.enumeration() {
            let value = self.enumeration(row, value, path)?;
            encoding::int32::encode(number, &value, wire);
            return Some(());
        }
        let read = leaf::read_scalar(kind, number, value, wire);
        if read.is_none() {
            self.misfit(leaf::expectation(kind), value, path);
        }
        read
    }

    fn misfit(&mut self, expected: &str, value: &Value, path: &Path<'_>) {
        let is_unquoted = expected == leaf::expectation(Kind::String)
            && matches!(value, Value::Number(_) | Value::Bool(_));
        let hint = if is_unquoted {
            "; write it in quotes"
        } else {
            ""
        };
        self.fail(
            path,
            format!("expected {expected}, got {}{hint}", show(value)),
        );
    }

    fn enumeration(&mut self, row: &'static Enum, value: &Value, path: &Path<'_>) -> Option<i32> {
        let Value::String(name) = value else {
            // A number stands for itself; the rules say whether it must be a known one.
            let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
            if number.is_none() {
                self.fail(path, format!("expected an enum value, got {}", show(value)));
            }
            return number;
        };
        let values = row.values();
        // Envoy reads the names in any case, and numbers also as text.
        if let Some(value) = values
            .iter()
            .find(|value| value.name().eq_ignore_ascii_case(name))
        {
            return Some(value.number);
        }
        if let Ok(number) = name.parse() {
            return Some(number);
        }
        let upper = name.to_ascii_uppercase();
        let hint = match nearest(&upper, values.iter().map(|value| (value.name(), value))) {
            Some(near) => format!("did you mean `{}`?", near.name()),
            None => {
                let names: Vec<_> = values.iter().map(|value| value.name()).collect();
                format!("expected one of {}", names.join(", "))
            }
        };
        self.fail(path, format!("unknown enum value {}; {hint}", show(value)));
        None
    }

    fn leaf(
        &mut self,
        row: &Message,
        value: &Value,
        expected: &str,
        path: &Path<'_>,
    ) -> Option<Vec<u8>> {
        // Free-form values nest by themselves, up to three messages for each level.
        if !is_shallow(value, MAX_DEPTH / 3) {
            self.fail(path, "the value is nested too deep");
            return None;
        }
        let read = leaf::read(row.name(), value);
        if read.is_none() {
            self.misfit(expected, value, path);
        }
        read
    }
}

/// A message whose members are being read.
struct Building<'v> {
    row: &'static Message,
    wire: Vec<u8>,
    /// Under which name a field was given, by its number.
    seen: HashMap<u32, &'v str>,
    /// Which member of each oneof was given.
    oneofs: Vec<Option<&'static str>>,
}

/// Whether a JSON name means the field: as it is, or in camelCase.
fn is_named(field: &Field, name: &str) -> bool {
    if field.name() == name {
        return true;
    }
    let mut after_underscore = false;
    let camel = field.name().chars().filter_map(|char| {
        let is_first = std::mem::replace(&mut after_underscore, char == '_');
        match char {
            '_' => None,
            _ if is_first => Some(char.to_ascii_uppercase()),
            _ => Some(char),
        }
    });
    camel.eq(name.chars())
}

/// Whether null is a value of the field and not its absence.
fn takes_null(field: &Field) -> bool {
    field
        .kind
        .message()
        .is_some_and(|row| row.name() == "google.protobuf.Value")
}

fn encode_default(kind: Kind, number: u32, wire: &mut Vec<u8>) {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
            encoding::fixed64::encode(number, &0, wire)
        }
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => encoding::fixed32::encode(number, &0, wire),
        Kind::String | Kind::Bytes | Kind::Message(_) => {
            encoding::bytes::encode(number, &Vec::new(), wire);
        }
        _ => encoding::uint64::encode(number, &0, wire),
    }
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
