//! Typed messages from wire bytes, validated first.

use prost::{Message, Name};

use crate::{error::FieldError, google::protobuf::Any, schema::type_name, validate::validate};

/// Decodes a message, such as a resource of an xDS response.
///
/// # Errors
/// Everything that [`validate()`] finds in the bytes.
pub fn decode_resource<M: Message + Default + Name>(bytes: &[u8]) -> Result<M, Vec<FieldError>> {
    let errors = validate(&M::full_name(), bytes);
    if errors.is_empty() {
        typed(bytes)
    } else {
        Err(errors)
    }
}

/// Decodes the message that an `Any` carries, when it is of type `M`. Paths begin in that message.
///
/// # Errors
/// When the type URL names another type; else everything that [`validate()`] finds.
pub fn decode_any<M: Message + Default + Name>(any: &Any) -> Result<M, Vec<FieldError>> {
    let expected = M::full_name();
    if type_name(&any.type_url) == Some(expected.as_str()) {
        return decode_resource(&any.value);
    }
    let reason = format!("expected the type `{expected}`, got `{}`", any.type_url);
    Err(vec![whole(reason)])
}

/// Decodes bytes that are valid.
pub(crate) fn typed<M: Message + Default>(bytes: &[u8]) -> Result<M, Vec<FieldError>> {
    // The walk that validates reads a little more strictly than prost; this is for what it lets pass.
    M::decode(bytes).map_err(|err| vec![whole(err.to_string())])
}

fn whole(reason: String) -> FieldError {
    FieldError {
        path: String::new(),
        reason,
    }
}
