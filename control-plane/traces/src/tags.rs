//! Attribute values as text and JSON, and the test whether a span carries a tag.

use std::borrow::Cow;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::model::Source;

/// Jaeger's and OpenTracing's word for a span kind; `None` for an unspecified kind.
#[must_use]
pub fn kind_name(kind: SpanKind) -> Option<&'static str> {
    match kind {
        SpanKind::Unspecified => None,
        SpanKind::Internal => Some("internal"),
        SpanKind::Server => Some("server"),
        SpanKind::Client => Some("client"),
        SpanKind::Producer => Some("producer"),
        SpanKind::Consumer => Some("consumer"),
    }
}

/// An attribute value as text: strings as they are, numbers in decimal, bytes in hexadecimal, lists and maps
/// as JSON, nothing as the empty string.
#[must_use]
pub fn value_text(value: &AnyValue) -> Cow<'_, str> {
    match &value.value {
        None | Some(Value::StringValueStrindex(_)) => Cow::Borrowed(""),
        Some(Value::StringValue(text)) => Cow::Borrowed(text),
        Some(Value::BoolValue(true)) => Cow::Borrowed("true"),
        Some(Value::BoolValue(false)) => Cow::Borrowed("false"),
        Some(Value::IntValue(number)) => Cow::Owned(number.to_string()),
        Some(Value::DoubleValue(number)) => Cow::Owned(number.to_string()),
        Some(Value::BytesValue(bytes)) => Cow::Owned(hex(bytes)),
        Some(Value::ArrayValue(_) | Value::KvlistValue(_)) => {
            Cow::Owned(value_json(value).to_string())
        }
    }
}

/// An attribute value as JSON; bytes become hexadecimal text, numbers that JSON lacks become text.
#[must_use]
pub fn value_json(value: &AnyValue) -> serde_json::Value {
    match &value.value {
        None | Some(Value::StringValueStrindex(_)) => serde_json::Value::Null,
        Some(Value::StringValue(text)) => text.as_str().into(),
        Some(Value::BoolValue(flag)) => (*flag).into(),
        Some(Value::IntValue(number)) => (*number).into(),
        Some(Value::DoubleValue(number)) => serde_json::Number::from_f64(*number)
            .map_or_else(|| number.to_string().into(), serde_json::Value::Number),
        Some(Value::BytesValue(bytes)) => hex(bytes).into(),
        Some(Value::ArrayValue(list)) => list.values.iter().map(value_json).collect(),
        Some(Value::KvlistValue(map)) => map
            .values
            .iter()
            .map(|pair| {
                let value = pair
                    .value
                    .as_ref()
                    .map_or(serde_json::Value::Null, value_json);
                (pair.key.clone(), value)
            })
            .collect(),
    }
}

/// Whether the span, its resource or one of its events has the tag, compared as text.
pub(crate) fn has_tag(source: &Source, span: &Span, key: &str, value: &str) -> bool {
    let status = span.status.as_ref();
    let code = status.map_or(0, |status| status.code);
    let derived = match key {
        "span.kind" => kind_name(span.kind()),
        "error" if code == StatusCode::Error as i32 => Some("true"),
        "otel.status_code" if code == StatusCode::Error as i32 => Some("ERROR"),
        "otel.status_code" if code == StatusCode::Ok as i32 => Some("OK"),
        "otel.status_description" => status.map(|status| status.message.as_str()),
        "otel.scope.name" => Some(source.scope.name.as_str()),
        "otel.scope.version" => Some(source.scope.version.as_str()),
        "w3c.tracestate" => Some(span.trace_state.as_str()),
        _ => None,
    };
    derived == Some(value)
        || has_attribute(&span.attributes, key, value)
        || has_attribute(&source.resource.attributes, key, value)
        || span.events.iter().any(|event| {
            (key == "event" && event.name == value) || has_attribute(&event.attributes, key, value)
        })
}

fn has_attribute(attributes: &[KeyValue], key: &str, value: &str) -> bool {
    attributes
        .iter()
        .filter(|pair| pair.key == key)
        .any(|pair| pair.value.as_ref().map_or(Cow::Borrowed(""), value_text) == value)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .collect()
}
