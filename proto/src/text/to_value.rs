//! Wire bytes of a message into a JSON value with Envoy's names, secrets left out.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage,
    SerializeOptions, Value as Field,
};
use serde_json::{Map, Value};

use super::{
    mapping::{leaf_form, wrapper_name},
    pool,
};
use crate::validate::{is_sensitive, type_name};

const REDACTED: &str = "[redacted]";

/// The message as a value; the error says why the bytes are not that message.
pub(super) fn write(descriptor: MessageDescriptor, wire: &[u8]) -> Result<Value, String> {
    let message = DynamicMessage::decode(descriptor, wire).map_err(|err| err.to_string())?;
    Ok(Writer { redact: false }.message(&message))
}

/// The message in an `Any`, or its bytes when the type is unknown or they do not fit it.
pub(super) fn any(type_url: &str, wire: &[u8]) -> Value {
    Writer { redact: false }.any(type_url, wire)
}

#[derive(Clone, Copy)]
struct Writer {
    /// Whether everything here is part of a secret.
    redact: bool,
}

impl Writer {
    fn message(self, message: &DynamicMessage) -> Value {
        let descriptor = message.descriptor();
        if descriptor.full_name() == "google.protobuf.Any" {
            let url = message.get_field_by_name("type_url");
            let wire = message.get_field_by_name("value");
            return self.any(
                url.as_deref().and_then(Field::as_str).unwrap_or_default(),
                wire.as_deref()
                    .and_then(Field::as_bytes)
                    .map_or(&[], |bytes| bytes),
            );
        }
        if leaf_form(descriptor.full_name()).is_some() {
            return self.leaf(message);
        }
        let mut object = Map::new();
        for (field, value) in message.fields() {
            let is_secret = is_sensitive(descriptor.full_name(), field.number());
            let writer = Self {
                redact: self.redact || is_secret,
            };
            if let Some(value) = writer.field(&field, value) {
                object.insert(field.name().to_owned(), value);
            }
        }
        Value::Object(object)
    }

    fn any(self, type_url: &str, wire: &[u8]) -> Value {
        let mut object = Map::new();
        if type_url.is_empty() && wire.is_empty() {
            return Value::Object(object);
        }
        object.insert("@type".to_owned(), type_url.into());
        let inner = type_name(type_url)
            .and_then(pool::message)
            .and_then(|descriptor| DynamicMessage::decode(descriptor, wire).ok());
        let is_plain = inner.as_ref().is_some_and(|inner| {
            let descriptor = inner.descriptor();
            let name = descriptor.full_name();
            name != "google.protobuf.Any" && leaf_form(name).is_none()
        });
        let content = match &inner {
            Some(inner) => Some(self.message(inner)),
            None => self.single(&Kind::Bytes, &Field::Bytes(wire.to_vec().into())),
        };
        match content {
            Some(Value::Object(entries)) if is_plain => object.extend(entries),
            Some(other) => {
                object.insert("value".to_owned(), other);
            }
            None => {}
        }
        Value::Object(object)
    }

    fn field(self, field: &FieldDescriptor, value: &Field) -> Option<Value> {
        match value {
            Field::List(items) => {
                let kind = field.kind();
                let items = items.iter().filter_map(|item| self.single(&kind, item));
                Some(Value::Array(items.collect()))
            }
            Field::Map(entries) => {
                let Kind::Message(entry) = field.kind() else {
                    return None;
                };
                let kind = entry.map_entry_value_field().kind();
                let mut entries: Vec<_> = entries
                    .iter()
                    .filter_map(|(key, value)| Some((show_key(key), self.single(&kind, value)?)))
                    .collect();
                // The order of a hash map would differ from one dump to the next.
                entries.sort_by(|(one, _), (other, _)| one.cmp(other));
                Some(Value::Object(entries.into_iter().collect()))
            }
            single => self.single(&field.kind(), single),
        }
    }

    /// `None` for the parts of a secret that are no text: they are left out, as Envoy does.
    fn single(self, kind: &Kind, value: &Field) -> Option<Value> {
        let redacted;
        let value = match value {
            Field::Message(message) => return Some(self.message(message)),
            Field::String(_) if self.redact => return Some(REDACTED.into()),
            Field::Bytes(_) if self.redact => {
                redacted = Field::Bytes(REDACTED.into());
                &redacted
            }
            _ if self.redact => return None,
            Field::EnumNumber(number) => {
                let name = kind
                    .as_enum()
                    .and_then(|descriptor| descriptor.get_value(*number));
                return Some(name.map_or_else(|| (*number).into(), |value| value.name().into()));
            }
            value => value,
        };
        // The wrapper of a scalar has the same JSON form as the scalar.
        let mut wrapper = DynamicMessage::new(pool::message(wrapper_name(kind)?)?);
        wrapper.try_set_field_by_name("value", value.clone()).ok()?;
        Some(Self { redact: false }.leaf(&wrapper))
    }

    fn leaf(self, message: &DynamicMessage) -> Value {
        if self.redact {
            return REDACTED.into();
        }
        let options = SerializeOptions::new().use_proto_field_name(true);
        message
            .serialize_with_options(serde_json::value::Serializer, &options)
            // Such as a duration out of range: shown as what is wrong with it.
            .unwrap_or_else(|err| err.to_string().into())
    }
}

fn show_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}
