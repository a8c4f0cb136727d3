//! Values that are read and written as a whole, by `prost-reflect`: scalars, durations, timestamps
//! and free-form structs.

use std::{borrow::Cow, sync::LazyLock};

use prost::{Message, encoding};
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions, Value as Leaf,
};
use serde_json::Value;

use crate::schema::{table::Kind, wire::Scalar};

/// The descriptors of the well-known types only: small, and parsed when text is first read or written.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/leaves.bin"));
    DescriptorPool::decode(bytes).expect("build/main.rs wrote a consistent descriptor set")
});

/// What the JSON form of a well-known type is, when it is not an object of its fields.
pub(super) fn form(full_name: &str) -> Option<&'static str> {
    Some(match full_name {
        "google.protobuf.Duration" => "a duration such as \"1.5s\"",
        "google.protobuf.Timestamp" => "a timestamp such as \"2025-01-31T12:00:00Z\"",
        "google.protobuf.Struct" => "an object",
        "google.protobuf.ListValue" => "a list",
        "google.protobuf.Value" => "a value",
        "google.protobuf.Empty" => "an empty object",
        "google.protobuf.BoolValue" => expectation(Kind::Bool),
        "google.protobuf.StringValue" => expectation(Kind::String),
        "google.protobuf.BytesValue" => expectation(Kind::Bytes),
        "google.protobuf.Int32Value" => expectation(Kind::Int32),
        "google.protobuf.Int64Value" => expectation(Kind::Int64),
        "google.protobuf.UInt32Value" => expectation(Kind::Uint32),
        "google.protobuf.UInt64Value" => expectation(Kind::Uint64),
        "google.protobuf.FloatValue" => expectation(Kind::Float),
        "google.protobuf.DoubleValue" => expectation(Kind::Double),
        _ => return None,
    })
}

/// What stands for a value of this kind in text, for errors.
pub(super) fn expectation(kind: Kind) -> &'static str {
    match kind {
        Kind::Double | Kind::Float => "a number",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "a 32-bit integer",
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "a 64-bit integer",
        Kind::Uint32 | Kind::Fixed32 => "an unsigned 32-bit integer",
        Kind::Uint64 | Kind::Fixed64 => "an unsigned 64-bit integer",
        Kind::Bool => "true or false",
        Kind::String => "a string",
        Kind::Bytes => "a base64 string",
        Kind::Enum(_) => "an enum value",
        Kind::Message(_) => "an object",
    }
}

/// Reads a well-known message; its wire bytes, or `None` when the value does not fit.
pub(super) fn read(full_name: &str, value: &Value) -> Option<Vec<u8>> {
    let descriptor = POOL.get_message_by_name(full_name)?;
    let value = match full_name {
        "google.protobuf.BoolValue" => bool_words(value),
        _ => Cow::Borrowed(value),
    };
    let message = DynamicMessage::deserialize(descriptor, value.as_ref()).ok()?;
    Some(message.encode_to_vec())
}

/// Reads a scalar and writes it to the wire as field `number`; `None` when the value does not fit.
pub(super) fn read_scalar(
    kind: Kind,
    number: u32,
    value: &Value,
    wire: &mut Vec<u8>,
) -> Option<()> {
    let value = match kind {
        Kind::Bool => bool_words(value),
        _ => Cow::Borrowed(value),
    };
    let message = DynamicMessage::deserialize(wrapper(kind)?, value.as_ref()).ok()?;
    match (kind, message.get_field_by_name("value")?.as_ref()) {
        (_, Leaf::Bool(value)) => encoding::bool::encode(number, value, wire),
        (_, Leaf::String(value)) => encoding::string::encode(number, value, wire),
        (_, Leaf::Bytes(value)) => encoding::bytes::encode(number, value, wire),
        (_, Leaf::F64(value)) => encoding::double::encode(number, value, wire),
        (_, Leaf::F32(value)) => encoding::float::encode(number, value, wire),
        (Kind::Sint32, Leaf::I32(value)) => encoding::sint32::encode(number, value, wire),
        (Kind::Sfixed32, Leaf::I32(value)) => encoding::sfixed32::encode(number, value, wire),
        (_, Leaf::I32(value)) => encoding::int32::encode(number, value, wire),
        (Kind::Sint64, Leaf::I64(value)) => encoding::sint64::encode(number, value, wire),
        (Kind::Sfixed64, Leaf::I64(value)) => encoding::sfixed64::encode(number, value, wire),
        (_, Leaf::I64(value)) => encoding::int64::encode(number, value, wire),
        (Kind::Fixed32, Leaf::U32(value)) => encoding::fixed32::encode(number, value, wire),
        (_, Leaf::U32(value)) => encoding::uint32::encode(number, value, wire),
        (Kind::Fixed64, Leaf::U64(value)) => encoding::fixed64::encode(number, value, wire),
        (_, Leaf::U64(value)) => encoding::uint64::encode(number, value, wire),
        _ => return None,
    }
    Some(())
}

/// Envoy's YAML parser takes YAML 1.1's words for a boolean; ours leaves them as text.
fn bool_words(value: &Value) -> Cow<'_, Value> {
    let word = value.as_str().map(str::to_ascii_lowercase);
    match word.as_deref() {
        Some("true" | "yes" | "y" | "on") => Cow::Owned(Value::Bool(true)),
        Some("false" | "no" | "n" | "off") => Cow::Owned(Value::Bool(false)),
        _ => Cow::Borrowed(value),
    }
}

/// Writes a well-known message; what cannot be written is shown as the reason why.
pub(super) fn write(full_name: &str, wire: &[u8]) -> Option<Value> {
    let descriptor = POOL.get_message_by_name(full_name)?;
    Some(match DynamicMessage::decode(descriptor, wire) {
        Ok(message) => to_json(&message),
        Err(err) => err.to_string().into(),
    })
}

/// Writes a scalar that is no enum.
pub(super) fn write_scalar(kind: Kind, value: Scalar<'_>) -> Option<Value> {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a float was widened from 32 bits"
    )]
    let leaf = match value {
        Scalar::Bool(value) => Leaf::Bool(value),
        Scalar::Text(text) => Leaf::String(text.to_owned()),
        Scalar::Bytes(bytes) => Leaf::Bytes(bytes.to_vec().into()),
        Scalar::Float(value) if kind == Kind::Float => Leaf::F32(value as f32),
        Scalar::Float(value) => Leaf::F64(value),
        Scalar::Enum(_) => return None,
        Scalar::Int(value) => match kind {
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Leaf::I32(value.try_into().ok()?),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Leaf::I64(value.try_into().ok()?),
            Kind::Uint32 | Kind::Fixed32 => Leaf::U32(value.try_into().ok()?),
            _ => Leaf::U64(value.try_into().ok()?),
        },
    };
    let mut message = DynamicMessage::new(wrapper(kind)?);
    message.try_set_field_by_name("value", leaf).ok()?;
    Some(to_json(&message))
}

fn to_json(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap_or_else(|err| err.to_string().into())
}

/// The well-known wrapper of a scalar, whose JSON form is that of the scalar.
fn wrapper(kind: Kind) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(match kind {
        Kind::Double => "google.protobuf.DoubleValue",
        Kind::Float => "google.protobuf.FloatValue",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "google.protobuf.Int32Value",
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "google.protobuf.Int64Value",
        Kind::Uint32 | Kind::Fixed32 => "google.protobuf.UInt32Value",
        Kind::Uint64 | Kind::Fixed64 => "google.protobuf.UInt64Value",
        Kind::Bool => "google.protobuf.BoolValue",
        Kind::String => "google.protobuf.StringValue",
        Kind::Bytes => "google.protobuf.BytesValue",
        Kind::Enum(_) | Kind::Message(_) => return None,
    })
}
