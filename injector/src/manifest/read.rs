//! YAML as kubectl reads it: version 1.1's words for booleans and numbers, merge keys, no repeated key. JSON
//! is YAML.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, SpannedEventReceiver, Tag};
use serde_json::{Map, Number, Value};

/// How deep values may be nested.
const DEPTH: usize = 100;
/// How many values a document may become by its aliases.
const VALUES: usize = 1_000_000;

/// One document of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// The text, without the line that begins it.
    pub text: &'a str,
    /// The line in the whole text that it begins at, from 1.
    pub line: usize,
}

/// Splits a text at the lines that begin with `---`. YAML lets those be nothing else.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let mut start = 0;
    let mut first = 1;
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let word = line.trim_end_matches(['\r', '\n']);
        let is_mark = word
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if is_mark {
            found.push(Document {
                text: text.get(start..at).unwrap_or_default(),
                line: first,
            });
            // What follows on the same line belongs to the document.
            start = at + 3;
            first = index + 1;
        }
        at += line.len();
    }
    found.push(Document {
        text: text.get(start..).unwrap_or_default(),
        line: first,
    });
    // Nothing before the first mark is no document.
    found.retain(|document| !document.text.trim().is_empty());
    found
}

/// Reads one document; `None` if it has nothing but comments.
///
/// # Errors
/// When it is no YAML, with the line.
pub fn parse(document: &Document<'_>) -> Result<Option<Value>, String> {
    let mut loader = Loader::default();
    // Control characters would make the parser's own message unreadable.
    Parser::new_from_str(document.text)
        .load(&mut loader, true)
        .map_err(|error| {
            let line = error.marker().line() + document.line - 1;
            format!("line {line}: {}", error.info())
        })?;
    if let Some((line, message)) = loader.error {
        return Err(format!("line {}: {message}", line + document.line - 1));
    }
    Ok(loader.root)
}

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>, Vec<Value>),
}

#[derive(Default)]
struct Loader {
    open: Vec<(Open, usize)>,
    anchors: HashMap<usize, (Value, usize)>,
    root: Option<Value>,
    values: usize,
    error: Option<(usize, String)>,
}

impl<'input> SpannedEventReceiver<'input> for Loader {
    fn on_event(&mut self, event: Event<'input>, span: Span) {
        if self.error.is_none()
            && let Err(message) = self.take(event)
        {
            self.error = Some((span.start.line(), message));
        }
    }
}

impl Loader {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err("a second document without a line ---".to_owned())
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(anchor) => {
                let (value, size) = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| "an alias of what holds it".to_owned())?;
                self.count(size)?;
                self.put(value, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1)?;
                let value = scalar(&text, style, tag.as_deref())?;
                // An empty document is one empty scalar.
                if self.open.is_empty() && text.is_empty() && style == ScalarStyle::Plain {
                    return Ok(());
                }
                self.put_key_or(value, &text, style, anchor)
            }
            Event::SequenceStart(anchor, _) => self.start(Open::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => {
                self.start(Open::Map(Map::new(), None, Vec::new()), anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some((open, anchor)) = self.open.pop() else {
                    return Err("an end without a start".to_owned());
                };
                let value = match open {
                    Open::List(items) => Value::Array(items),
                    Open::Map(map, _, merged) => Value::Object(merge(map, merged)?),
                };
                self.put(value, anchor)
            }
        }
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values += values;
        if self.values > VALUES {
            return Err(format!("more than {VALUES} values"));
        }
        Ok(())
    }

    fn start(&mut self, open: Open, anchor: usize) -> Result<(), String> {
        self.count(1)?;
        if self.open.len() >= DEPTH {
            return Err(format!("nested deeper than {DEPTH}"));
        }
        if let Some((Open::Map(_, None, _), _)) = self.open.last() {
            return Err("a key that is no string".to_owned());
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn put_key_or(
        &mut self,
        value: Value,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
    ) -> Result<(), String> {
        if let Some((Open::Map(map, key @ None, _), _)) = self.open.last_mut() {
            let is_merge = style == ScalarStyle::Plain && text == "<<";
            if !is_merge && map.contains_key(text) {
                return Err(format!("the key {text} is there twice"));
            }
            // `true: x` has the key "true", as in JSON.
            let name = match &value {
                Value::String(text) => text.clone(),
                Value::Null => "null".to_owned(),
                other => other.to_string(),
            };
            *key = Some(if is_merge { "<<".to_owned() } else { name });
            return Ok(());
        }
        self.put(value, anchor)
    }

    fn put(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        if anchor > 0 {
            let size = size(&value);
            self.anchors.insert(anchor, (value.clone(), size));
        }
        match self.open.last_mut().map(|(open, _)| open) {
            None => self.root = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(map, key, merged)) => match key.take() {
                None => return Err("a key that is no string".to_owned()),
                Some(key) if key == "<<" => merged.push(value),
                Some(key) => {
                    if map.insert(key.clone(), value).is_some() {
                        return Err(format!("the key {key} is there twice"));
                    }
                }
            },
        }
        Ok(())
    }
}

fn merge(mut map: Map<String, Value>, merged: Vec<Value>) -> Result<Map<String, Value>, String> {
    for value in merged {
        let sources = match value {
            Value::Array(items) => items,
            one => vec![one],
        };
        for source in sources {
            let Value::Object(source) = source else {
                return Err("<< needs a map".to_owned());
            };
            for (key, value) in source {
                // What the map says itself wins.
                map.entry(key).or_insert(value);
            }
        }
    }
    Ok(map)
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let tag = tag.map(|tag| (tag.is_yaml_core_schema(), tag.suffix.as_str()));
    match tag {
        Some((true, "str") | (false, "")) => return Ok(text.into()),
        Some((true, "binary")) => return Err("!!binary is no value of a manifest".to_owned()),
        Some((true, _)) => return resolve(text),
        Some((false, other)) => return Err(format!("the tag !{other} means nothing here")),
        None => {}
    }
    if style == ScalarStyle::Plain {
        resolve(text)
    } else {
        Ok(text.into())
    }
}

/// What a plain word is.
pub(super) fn resolve(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => {
            return Ok(true.into());
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => {
            return Ok(false.into());
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF"
        | ".nan" | ".NaN" | ".NAN" => return Err(format!("{text} is no number of JSON")),
        _ => {}
    }
    if !text.starts_with(|one: char| one.is_ascii_digit() || "+-.".contains(one)) {
        return Ok(text.into());
    }
    let plain = text.replace('_', "");
    if let Some(number) = integer(&plain) {
        return Ok(Value::Number(number));
    }
    let is_float = plain.bytes().any(|one| one.is_ascii_digit())
        && plain
            .bytes()
            .all(|one| one.is_ascii_digit() || b"+-.eE".contains(&one));
    let number = plain.parse::<f64>().ok().filter(|_| is_float);
    Ok(number
        .and_then(Number::from_f64)
        .map_or_else(|| text.into(), Value::Number))
}

fn integer(text: &str) -> Option<Number> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|one: char| one.is_ascii_digit()) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.trim_start_matches('0'))
    } else {
        (10, lower.as_str())
    };
    let digits = if digits.is_empty() && radix == 8 {
        "0"
    } else {
        digits
    };
    if !digits.chars().all(|one| one.is_digit(radix)) {
        return None;
    }
    let amount = u64::from_str_radix(digits, radix).ok()?;
    if is_negative {
        0_i64.checked_sub_unsigned(amount).map(Number::from)
    } else {
        Some(amount.into())
    }
}
