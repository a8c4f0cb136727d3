//! YAML that every reader takes for the same values: words that version 1.1 or 1.2 could read as something
//! else are quoted.

use serde_json::{Map, Value};

use super::read::resolve;

/// A value as a YAML document.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(&mut text, map, 0, false),
        Value::Array(items) if !items.is_empty() => array(&mut text, items, 0, false),
        other => {
            inline(&mut text, other, 0);
            text.push('\n');
        }
    }
    text
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n(' ', depth));
}

/// `started`: the first line is already indented.
fn object(text: &mut String, map: &Map<String, Value>, depth: usize, started: bool) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 || !started {
            indent(text, depth);
        }
        if key.is_empty() || key.contains('\n') {
            quoted(text, key);
        } else {
            scalar(text, key);
        }
        text.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                object(text, inner, depth + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                array(text, items, depth, false);
            }
            other => {
                text.push(' ');
                inline(text, other, depth + 2);
                text.push('\n');
            }
        }
    }
}

fn array(text: &mut String, items: &[Value], depth: usize, started: bool) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 || !started {
            indent(text, depth);
        }
        text.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => object(text, inner, depth + 2, true),
            Value::Array(inner) if !inner.is_empty() => array(text, inner, depth + 2, true),
            other => {
                inline(text, other, depth + 2);
                text.push('\n');
            }
        }
    }
}

fn inline(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(_) => text.push_str("{}"),
        Value::Array(_) => text.push_str("[]"),
        Value::String(word) if is_block(word) => block(text, word, depth),
        Value::String(word) => scalar(text, word),
        other => text.push_str(&other.to_string()),
    }
}

/// Whether lines show best as lines, and come back exactly.
fn is_block(word: &str) -> bool {
    let Some(first) = word.lines().next() else {
        return false;
    };
    word.contains('\n')
        && !first.is_empty()
        && !first.starts_with([' ', '\t'])
        && word
            .chars()
            .all(|one| one == '\n' || (is_printable(one) && one != '\t'))
        && !word.lines().any(|line| line.ends_with(' '))
        && !word.ends_with("\n\n")
}

fn block(text: &mut String, word: &str, depth: usize) {
    text.push_str(if word.ends_with('\n') { "|" } else { "|-" });
    for line in word.lines() {
        text.push('\n');
        if !line.is_empty() {
            indent(text, depth);
            text.push_str(line);
        }
    }
}

fn scalar(text: &mut String, word: &str) {
    if is_plain(word) {
        text.push_str(word);
    } else {
        quoted(text, word);
    }
}

fn is_plain(word: &str) -> bool {
    let mut letters = word.chars();
    let Some(first) = letters.next() else {
        return false;
    };
    let is_fine = (first.is_ascii_alphanumeric() || "/._$(".contains(first))
        && word
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || " ._/:@+=,()-$;<>*&!%~^".contains(one))
        && !word.contains(": ")
        && !word.contains(" #")
        && !word.ends_with([':', ' '])
        && word != "...";
    // Times, base 60 and the like: what looks like a number is quoted whatever it is.
    let is_number_like = word.starts_with(|one: char| one.is_ascii_digit() || "+-.".contains(one))
        && !word
            .chars()
            .any(|one| one.is_ascii_alphabetic() && !"abcdefxotzABCDEFXOTZ".contains(one));
    let is_path_like = first == '.' && word.contains('/');
    is_fine
        && (!is_number_like || is_path_like)
        && resolve(word).is_ok_and(|value| value.is_string())
}

fn quoted(text: &mut String, word: &str) {
    text.push('"');
    for one in word.chars() {
        match one {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            one if is_printable(one) => text.push(one),
            one if u32::from(one) > 0xffff => text.push_str(&format!("\\U{:08X}", u32::from(one))),
            one => text.push_str(&format!("\\u{:04X}", u32::from(one))),
        }
    }
    text.push('"');
}

fn is_printable(one: char) -> bool {
    match u32::from(one) {
        0x20..=0x7e => true,
        0xa0..=0xd7ff | 0xe000..=0xfffd => !matches!(one, '\u{2028}' | '\u{2029}' | '\u{feff}'),
        0x1_0000..=0x10_ffff => (u32::from(one) & 0xfffe) != 0xfffe,
        _ => false,
    }
}
