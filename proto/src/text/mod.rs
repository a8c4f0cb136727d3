//! Text to messages and back: YAML and JSON, in protobuf's JSON mapping.

mod any;
mod from_value;
mod hint;
mod leaf;
mod to_value;
mod yaml;

use prost::{Message, Name};
use serde_json::Value;

use crate::{
    error::{Errors, FieldError, Path},
    google::protobuf::Any,
    schema::table::Message as Row,
    validate::validate,
};

pub use yaml::parse_yaml;

/// What could be read of a value, and every error.
#[derive(Debug)]
pub struct Reading<M> {
    message: Option<M>,
    errors: Vec<FieldError>,
    explained: from_value::Explained,
}

impl<M> Reading<M> {
    /// The message, once, without what could not be read; list items that could not are empty ones, so
    /// that the paths of others stay right.
    pub fn take_message(&mut self) -> Option<M> {
        self.message.take()
    }

    /// Everything that is wrong.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// Whether an error at this path only follows from one of [`Self::errors`].
    pub fn explains(&self, path: &str) -> bool {
        self.explained.covers(path) || self.errors.iter().any(|error| error.path == path)
    }

    /// The message if nothing is wrong.
    ///
    /// # Errors
    /// Everything that is.
    pub fn into_result(self) -> Result<M, Vec<FieldError>> {
        match self.message {
            Some(message) if self.errors.is_empty() => Ok(message),
            _ => Err(self.errors),
        }
    }
}

/// Reads a message from a value in protobuf's JSON mapping: names in snake_case or camelCase, enums
/// by name or number, durations as `"1.5s"`, bytes in base64, 64-bit numbers also as strings, `Any`
/// with its type in `@type`.
///
/// # Errors
/// Every error of the value: what the mapping does not allow, and what [`crate::validate()`] finds.
pub fn message_from_value<M>(value: Value) -> Result<M, Vec<FieldError>>
where
    M: Message + Default + Name,
{
    read_message(&value).into_result()
}

/// As [`message_from_value`], and also gives what could be read in spite of errors, so that whoever looks
/// for more of them can go on.
pub fn read_message<M>(value: &Value) -> Reading<M>
where
    M: Message + Default + Name,
{
    let type_name = M::full_name();
    let mut errors = Errors::default();
    let Some(row) = Row::named(&type_name) else {
        errors.add(&Path::ROOT, format!("unknown message type `{type_name}`"));
        return Reading {
            message: None,
            errors: errors.into_vec(),
            explained: from_value::Explained::default(),
        };
    };
    let parsed = from_value::read(row, value);
    // What was read is validated in spite of errors, so that one run shows both kinds.
    let invalid = validate(&type_name, &parsed.wire);
    let mut errors = parsed.errors;
    for error in invalid
        .into_iter()
        .filter(|error| !parsed.explained.covers(&error.path))
    {
        errors.push(error);
    }
    let mut errors = errors.into_vec();
    let message = match crate::decode::typed(&parsed.wire) {
        Ok(message) => Some(message),
        Err(undecodable) => {
            errors.extend(undecodable);
            None
        }
    };
    Reading {
        message,
        errors,
        explained: parsed.explained,
    }
}

/// Writes a message in protobuf's JSON mapping with Envoy's snake_case names, without fields that
/// have their default value. Secrets are replaced by `[redacted]`; an `Any` of an unknown type is shown
/// as its base64 text.
///
/// # Errors
/// When the message's type is not in the table.
pub fn value_from_message<M: Message + Name>(message: &M) -> Result<Value, FieldError> {
    let type_name = M::full_name();
    Row::named(&type_name)
        .and_then(|row| to_value::write(row, &message.encode_to_vec()))
        .ok_or_else(|| FieldError {
            path: String::new(),
            reason: format!("the message type `{type_name}` is unknown"),
        })
}

/// Writes the message that an `Any` carries as [`value_from_message`] does, with its type in `@type`.
#[must_use]
pub fn any_to_value(any: &Any) -> Value {
    to_value::any(&any.type_url, &any.value)
}

#[cfg(test)]
mod tests;
