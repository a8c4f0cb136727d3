//! Wire bytes of a message into a JSON value with Envoy's names, secrets left out.

use serde_json::{Map, Value};

use super::{any::has_own_form, leaf};
use crate::{
    error::MAX_DEPTH,
    schema::{
        table::{Field, Kind, Message, Shape, Special},
        type_name,
        wire::{self, Entry, Raw, Scalar, concatenate},
    },
};

const REDACTED: &str = "[redacted]";

/// The message as a value; `None` when the bytes are no message.
pub(super) fn write(row: &'static Message, wire: &[u8]) -> Option<Value> {
    Writer::default().message(row, wire)
}

/// The message in an `Any`, or its bytes when the type is unknown or they do not fit it.
pub(super) fn any(type_url: &str, wire: &[u8]) -> Value {
    Writer::default().any(type_url, wire)
}

#[derive(Clone, Copy, Default)]
struct Writer {
    /// Whether everything here is part of a secret.
    redact: bool,
    depth: usize,
}

impl Writer {
    fn message(self, row: &'static Message, wire: &[u8]) -> Option<Value> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        if leaf::form(row.name()).is_some() {
            return if self.redact {
                Some(REDACTED.into())
            } else {
                leaf::write(row.name(), wire)
            };
        }
        // Fields that nobody knows have no name to be shown under.
        let entries = wire::entries(row, wire, |_| {}).ok()?;
        if row.special == Special::Any {
            let (mut url, mut content): (&str, &[u8]) = ("", &[]);
            for (field, raw) in entries {
                match Scalar::read(field.kind, raw) {
                    Ok(Scalar::Text(text)) => url = text,
                    Ok(Scalar::Bytes(bytes)) => content = bytes,
                    _ => {}
                }
            }
            return Some(self.any(url, content));
        }
        let mut object = Map::new();
        for values in entries.chunk_by(|(one, _), (other, _)| one.number == other.number) {
            let Some((field, _)) = values.first() else {
                continue;
            };
            let writer = Self {
                redact: self.redact || field.rules().sensitive,
                depth: self.depth + 1,
            };
            if let Some(value) = writer.field(field, values) {
                object.insert(field.name().to_owned(), value);
            }
        }
        Some(Value::Object(object))
    }

    fn any(self, type_url: &str, wire: &[u8]) -> Value {
        let mut object = Map::new();
        if type_url.is_empty() && wire.is_empty() {
            return Value::Object(object);
        }
        object.insert("@type".to_owned(), type_url.into());
        let row = type_name(type_url).and_then(Message::named);
        let deeper = Self {
            depth: self.depth + 1,
            ..self
        };
        let content = row.and_then(|row| deeper.message(row, wire));
        let is_plain = !row.is_some_and(has_own_form);
        match content.or_else(|| self.scalar(Kind::Bytes, Scalar::Bytes(wire))) {
            Some(Value::Object(entries)) if is_plain => object.extend(entries),
            Some(other) => {
                object.insert("value".to_owned(), other);
            }
            None => {}
        }
        Value::Object(object)
    }

    fn field(self, field: &Field, values: &[Entry<'_>]) -> Option<Value> {
        match field.shape {
            Shape::Map => self.map(field, values),
            Shape::Repeated => Some(Value::Array(self.list(field, values))),
            Shape::Implicit | Shape::Optional => {
                let (_, last) = values.last()?;
                match field.kind.message() {
                    Some(row) => self.message(row, &concatenate(values)?),
                    None => {
                        let value = Scalar::read(field.kind, *last).ok()?;
                        let is_absent = field.shape == Shape::Implicit && value.is_default();
                        if is_absent {
                            None
                        } else {
                            self.scalar(field.kind, value)
                        }
                    }
                }
            }
        }
    }

    fn list(self, field: &Field, values: &[Entry<'_>]) -> Vec<Value> {
        let mut list = Vec::new();
        for (_, raw) in values {
            match (field.kind.message(), *raw) {
                (Some(row), Raw::Bytes(bytes)) => list.extend(self.message(row, bytes)),
                (Some(_), _) => {}
                (None, raw) => Scalar::read_packed(field.kind, raw, |value| {
                    list.extend(value.ok().and_then(|value| self.scalar(field.kind, value)));
                }),
            }
        }
        list
    }

    fn map(self, field: &Field, values: &[Entry<'_>]) -> Option<Value> {
        let entry = field.kind.message()?;
        let [key_field, value_field] = entry.fields() else {
            return None;
        };
        let mut map = Vec::new();
        for (_, raw) in values {
            let Raw::Bytes(bytes) = *raw else {
                continue;
            };
            let parts = wire::entries(entry, bytes, |_| {}).ok()?;
            let last = |field: &Field| {
                let found = parts
                    .iter()
                    .rfind(|(other, _)| other.number == field.number);
                found.map(|(_, raw)| *raw)
            };
            let scalar = |field: &Field| match last(field) {
                Some(raw) => Scalar::read(field.kind, raw).ok(),
                None => Scalar::default_of(field.kind),
            };
            let key = scalar(key_field)?.as_key();
            let value = match (value_field.kind.message(), last(value_field)) {
                (Some(row), Some(Raw::Bytes(bytes))) => self.message(row, bytes),
                (Some(row), _) => self.message(row, &[]),
                (None, _) => {
                    scalar(value_field).and_then(|value| self.scalar(value_field.kind, value))
                }
            };
            map.extend(value.map(|value| (key, value)));
        }
        // The order of the hash map that wrote the bytes would differ from one dump to the next.
        map.sort_by(|(one, _), (other, _)| one.cmp(other));
        Some(Value::Object(map.into_iter().collect()))
    }

    /// `None` for the parts of a secret that are no text: they are left out, as Envoy does.
    fn scalar(self, kind: Kind, value: Scalar<'_>) -> Option<Value> {
        match value {
            Scalar::Text(_) if self.redact => Some(REDACTED.into()),
            Scalar::Bytes(_) if self.redact => {
                leaf::write_scalar(Kind::Bytes, Scalar::Bytes(REDACTED.as_bytes()))
            }
            _ if self.redact => None,
            Scalar::Enum(number) => {
                let mut values = kind.enumeration()?.values().iter();
                let name = values.find(|value| value.number == number);
                Some(name.map_or_else(|| number.into(), |value| value.name().into()))
            }
            value => leaf::write_scalar(kind, value),
        }
    }
}
