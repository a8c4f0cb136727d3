//! Facts of protobuf's JSON mapping that reading and writing share.

use prost_reflect::{Kind, MapKey};

/// What the JSON form of a well-known type is, when it is not an object of its fields.
pub(super) fn leaf_form(full_name: &str) -> Option<&'static str> {
    Some(match full_name {
        "google.protobuf.Duration" => "a duration such as \"1.5s\"",
        "google.protobuf.Timestamp" => "a timestamp such as \"2025-01-31T12:00:00Z\"",
        "google.protobuf.FieldMask" => "a list of paths such as \"a.b,c\"",
        "google.protobuf.Struct" => "an object",
        "google.protobuf.ListValue" => "a list",
        "google.protobuf.Value" => "a value",
        "google.protobuf.Empty" => "an empty object",
        "google.protobuf.BoolValue" => expectation(&Kind::Bool),
        "google.protobuf.StringValue" => expectation(&Kind::String),
        "google.protobuf.BytesValue" => expectation(&Kind::Bytes),
        "google.protobuf.Int32Value" => expectation(&Kind::Int32),
        "google.protobuf.Int64Value" => expectation(&Kind::Int64),
        "google.protobuf.UInt32Value" => expectation(&Kind::Uint32),
        "google.protobuf.UInt64Value" => expectation(&Kind::Uint64),
        "google.protobuf.FloatValue" => expectation(&Kind::Float),
        "google.protobuf.DoubleValue" => expectation(&Kind::Double),
        _ => return None,
    })
}

/// What text stands for a value of this kind, for errors.
pub(super) fn expectation(kind: &Kind) -> &'static str {
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

/// The well-known wrapper around a scalar.
pub(super) fn wrapper_name(kind: &Kind) -> Option<&'static str> {
    Some(match kind {
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

/// A map's key from the name that stands for it in JSON.
pub(super) fn map_key(kind: &Kind, key: &str) -> Option<MapKey> {
    Some(match kind {
        Kind::String => MapKey::String(key.to_owned()),
        Kind::Bool => MapKey::Bool(key.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(key.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(key.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(key.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(key.parse().ok()?),
        _ => return None,
    })
}
