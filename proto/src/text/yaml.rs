//! YAML or JSON text into a JSON value, without losing keys that are given twice.

use serde::{
    Deserialize,
    de::{Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_norway::Value as Yaml;

use crate::error::TextError;

/// Reads one YAML or JSON document. Anchors, aliases and merge keys (`<<`) are resolved; a key given
/// twice in one mapping, a tag or a second document is an error.
///
/// # Errors
/// When the text is neither, with the place of the first mistake.
pub fn parse_yaml(text: &str) -> Result<Value, TextError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(error(0, 0, "the text is empty"));
    }
    if !text.trim_start().starts_with(['{', '[']) {
        return parse_as_yaml(text);
    }
    // JSON is almost a part of YAML (escaped surrogates and tabs are not), and a YAML text may begin
    // with a brace too. If it is neither, the reading that came further knows the mistake better.
    parse_as_json(text).or_else(|json| {
        parse_as_yaml(text).map_err(|yaml| {
            if (yaml.line, yaml.column) > (json.line, json.column) {
                yaml
            } else {
                json
            }
        })
    })
}

fn error(line: usize, column: usize, message: impl Into<String>) -> TextError {
    TextError {
        line,
        column,
        message: message.into(),
    }
}

fn parse_as_yaml(text: &str) -> Result<Value, TextError> {
    let fail = |err: &serde_norway::Error| {
        let (line, column) = err
            .location()
            .map_or((0, 0), |location| (location.line(), location.column()));
        let message = err.to_string();
        // The place has fields of its own.
        let place = format!(" at line {line} column {column}");
        error(line, column, message.replacen(&place, "", 1))
    };
    let mut yaml: Yaml = serde_norway::from_str(text).map_err(|err| fail(&err))?;
    yaml.apply_merge().map_err(|err| fail(&err))?;
    to_json(yaml)
}

fn to_json(yaml: Yaml) -> Result<Value, TextError> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => number_to_json(&number),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(items) => {
            Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(entries) => {
            let mut object = Map::with_capacity(entries.len());
            for (key, value) in entries {
                let key = match to_json(key)? {
                    Value::String(key) => key,
                    key @ (Value::Null | Value::Bool(_) | Value::Number(_)) => key.to_string(),
                    _ => return Err(error(0, 0, "a key must be a plain value")),
                };
                // `1` and `"1"` are different keys in YAML, but not in JSON.
                if object.contains_key(&key) {
                    return Err(error(0, 0, format!("duplicate entry with key {key:?}")));
                }
                object.insert(key, to_json(value)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            return Err(error(
                0,
                0,
                format!("the tag {} has no meaning here", tagged.tag),
            ));
        }
    })
}

fn number_to_json(number: &serde_norway::Number) -> Value {
    if let Some(value) = number.as_u64() {
        return value.into();
    }
    if let Some(value) = number.as_i64() {
        return value.into();
    }
    let value = number.as_f64().unwrap_or(f64::NAN);
    // protobuf's JSON writes what JSON's numbers cannot as text.
    Number::from_f64(value).map_or_else(
        || {
            let text = match value {
                f64::INFINITY => "Infinity",
                f64::NEG_INFINITY => "-Infinity",
                _ => "NaN",
            };
            text.into()
        },
        Value::Number,
    )
}

fn parse_as_json(text: &str) -> Result<Value, TextError> {
    serde_json::from_str::<Strict>(text)
        .map(|strict| strict.0)
        .map_err(|err| {
            let (line, column) = (err.line(), err.column());
            let place = format!(" at line {line} column {column}");
            error(line, column, err.to_string().replacen(&place, "", 1))
        })
}

/// A JSON value in which no object has a key twice; `serde_json` would keep the last one.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!(
                    "duplicate entry with key {key:?}"
                )));
            }
            let Strict(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place_of(text: &str) -> (usize, usize, String) {
        let err = parse_yaml(text).unwrap_err();
        (err.line, err.column, err.message)
    }

    #[test]
    fn yaml_and_json_give_the_same_value() {
        let yaml = parse_yaml("a: [1, 2.5, true, ~]\nb: {c: text}\n").unwrap();
        let json = parse_yaml(r#"{"a": [1, 2.5, true, null], "b": {"c": "text"}}"#).unwrap();
        assert_eq!(yaml, json);
        assert_eq!(json, json!({"a": [1, 2.5, true, null], "b": {"c": "text"}}));
    }

    #[test]
    fn json_may_hold_what_yaml_may_not() {
        let value = parse_yaml("{\n\t\"a\": \"\\ud83d\\ude00\"}").unwrap();
        assert_eq!(value, json!({"a": "😀"}));
    }

    #[test]
    fn yaml_may_begin_with_a_brace() {
        assert_eq!(parse_yaml("{a: b}").unwrap(), json!({"a": "b"}));
    }

    #[test]
    fn anchors_and_merge_keys_are_resolved() {
        let value = parse_yaml("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: *x").unwrap();
        assert_eq!(value["y"], json!({"a": 1, "b": 3}));
        assert_eq!(value["z"], json!({"a": 1, "b": 2}));
    }

    #[test]
    fn keys_become_text_and_numbers_beyond_json_too() {
        let value =
            parse_yaml("1: a\ntrue: b\nn: .nan\ni: -.inf\nbig: 18446744073709551615").unwrap();
        assert_eq!(
            value,
            json!({"1": "a", "true": "b", "n": "NaN", "i": "-Infinity", "big": u64::MAX})
        );
    }

    #[test]
    fn a_key_given_twice_is_an_error_with_its_place() {
        let (line, column, message) = place_of("a: 1\nb:\n  c: 1\n  c: 2\n");
        assert!((line, column) >= (3, 3), "{line}:{column}");
        assert!(message.contains("duplicate entry"), "{message}");
        let (line, _, message) = place_of("{\n\"a\": 1,\n\"a\": 2}");
        assert_eq!(line, 3);
        assert!(
            message.contains("duplicate entry with key \"a\""),
            "{message}"
        );
        assert!(place_of("1: a\n\"1\": b").2.contains("duplicate entry"));
    }

    #[test]
    fn syntax_errors_have_line_and_column() {
        let (line, column, message) = place_of("a: 1\nb: [1, 2\nc: 3\n");
        assert!(line >= 2 && column >= 1, "{line}:{column}");
        assert!(!message.contains(" at line 3"), "{message}");
        let (line, column, _) = place_of("{\"a\": 1,\n \"b\" 2}");
        assert_eq!((line, column), (2, 6));
    }

    #[test]
    fn empty_texts_tags_and_several_documents_are_errors() {
        assert_eq!(place_of(" \n").2, "the text is empty");
        assert!(place_of("a: !secret x").2.contains("!secret"));
        assert!(
            place_of("a: 1\n---\nb: 2\n")
                .2
                .contains("more than one document")
        );
    }

    #[test]
    fn deep_nesting_and_alias_bombs_are_errors() {
        let deep = "[".repeat(100_000);
        assert!(parse_yaml(&deep).is_err());
        assert!(parse_yaml(&"- ".repeat(5_000)).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(9);
            bomb += &format!("a{level}: &a{level} [{below}]\n");
        }
        assert!(parse_yaml(&bomb).is_err());
    }
}
