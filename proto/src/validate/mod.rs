//! Checks messages on the wire: protoc-gen-validate's rules, and fields that nobody knows.
//!
//! prost drops unknown fields and knows no rules, so this walk over the bytes comes before a typed
//! decode. It needs only the static table that the build makes, no descriptor pool.

mod checks;
mod walk;

use crate::{
    error::{Errors, FieldError, Path},
    schema::table::Message,
};

/// Every error in the wire bytes of a message: rules that do not hold, unknown fields, values of the
/// wrong wire type, too deep nesting. Goes into every `Any` whose type is known; the others are left
/// to whoever looks at their type URL.
///
/// `type_name` is a full name such as `envoy.config.listener.v3.Listener`.
#[must_use]
pub fn validate(type_name: &str, wire: &[u8]) -> Vec<FieldError> {
    let mut errors = Errors::default();
    match Message::named(type_name) {
        Some(row) => walk::message(row, wire, &Path::ROOT, 0, &mut errors),
        None => errors.add(&Path::ROOT, format!("unknown message type `{type_name}`")),
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests;
