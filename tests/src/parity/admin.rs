//! The parts of admin replies that are compared.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::case::AdminCheck;
use super::normalise::Normaliser;
use crate::client::Response;

/// The compared parts of an admin reply.
pub(super) fn view(check: &AdminCheck, reply: &Response, normaliser: &Normaliser) -> Result<Value> {
    let mut view = serde_json::Map::new();
    view.insert("status".to_owned(), reply.status.into());
    view.insert(
        "content-type".to_owned(),
        reply.header("content-type").into(),
    );
    let text = normaliser.text(&reply.text());
    if check.body {
        view.insert("body".to_owned(), text.clone().into());
    }
    if let Some(lines) = &check.lines {
        let wanted = regex::Regex::new(lines)?;
        let mut lines: Vec<&str> = text.lines().filter(|line| wanted.is_match(line)).collect();
        lines.sort_unstable();
        view.insert("lines".to_owned(), lines.into());
    }
    if check.pointers.is_empty() && check.keys.is_empty() {
        return Ok(view.into());
    }
    let json: Value = serde_json::from_str(&text).with_context(|| check.path.clone())?;
    for pointer in &check.pointers {
        let mut found = Vec::new();
        select(&json, pointer, &mut found);
        let mut values: Vec<Value> = found.into_iter().cloned().collect();
        values.sort_by_key(ToString::to_string);
        view.insert(pointer.clone(), values.into());
    }
    for pointer in &check.keys {
        let mut found = Vec::new();
        select(&json, pointer, &mut found);
        let objects = found.iter().filter_map(|value| value.as_object());
        let mut keys: Vec<&String> = objects.flat_map(|object| object.keys()).collect();
        keys.sort();
        keys.dedup();
        view.insert(
            format!("keys of {pointer}"),
            keys.iter().map(|key| key.as_str()).collect(),
        );
    }
    Ok(view.into())
}

/// Follows a JSON pointer in which `*` means every element or value.
fn select<'a>(value: &'a Value, pointer: &str, found: &mut Vec<&'a Value>) {
    let Some(rest) = pointer.strip_prefix('/') else {
        found.push(value);
        return;
    };
    let (step, rest) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    match value {
        Value::Array(items) if step == "*" => {
            items.iter().for_each(|item| select(item, rest, found));
        }
        Value::Object(fields) if step == "*" => {
            fields.values().for_each(|item| select(item, rest, found));
        }
        Value::Array(items) => {
            let item = step
                .parse::<usize>()
                .ok()
                .and_then(|index| items.get(index));
            item.into_iter().for_each(|item| select(item, rest, found));
        }
        // `~1` stands for a slash, as in every JSON pointer.
        Value::Object(fields) => fields
            .get(&step.replace("~1", "/"))
            .into_iter()
            .for_each(|item| select(item, rest, found)),
        _ => {}
    }
}
