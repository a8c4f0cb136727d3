//! The walk over the wire bytes of one message and those in it.

use std::collections::HashSet;

use super::checks;
use crate::{
    error::{Errors, MAX_DEPTH, Path},
    schema::{
        table::{Field, Kind, Message, NO_RULES, Rules, Shape, Special},
        type_name,
        wire::{self, Entry, Malformed, Misfit, Raw, Scalar, concatenate},
    },
};

const UNKNOWN_FIELD: &str = "unknown field number";
const WRONG_WIRE_TYPE: &str = "value has the wrong wire type";

/// Checks a message and everything in it.
pub(crate) fn message(
    row: &'static Message,
    wire: &[u8],
    path: &Path<'_>,
    depth: usize,
    errors: &mut Errors,
) {
    if depth >= MAX_DEPTH {
        errors.add(
            path,
            format!("messages are nested more than {MAX_DEPTH} deep"),
        );
        return;
    }
    if errors.is_full() {
        return;
    }
    let entries = match read_entries(row, wire, path, errors) {
        Ok(entries) => entries,
        Err(Malformed(reason)) => {
            errors.add(path, reason);
            return;
        }
    };
    for (position, oneof) in row.oneofs().iter().enumerate() {
        let is_set = |(field, _): &(&Field, Raw<'_>)| field.oneof() == Some(position);
        if oneof.is_required && !entries.iter().any(is_set) {
            errors.add(&path.field(oneof.name()), "value is required");
        }
    }
    let mut rest = entries.as_slice();
    for field in row.fields() {
        let len = rest
            .iter()
            .take_while(|(other, _)| other.number == field.number)
            .count();
        let (values, tail) = rest.split_at(len);
        rest = tail;
        Walk {
            path,
            depth,
            errors,
        }
        .field(field, values);
    }
    if row.special == Special::Any {
        any(wire, path, depth, errors);
    }
}

fn read_entries<'a>(
    row: &'static Message,
    wire: &'a [u8],
    path: &Path<'_>,
    errors: &mut Errors,
) -> Result<Vec<Entry<'a>>, Malformed> {
    wire::entries(row, wire, |misfit| match misfit {
        Misfit::Unknown(number) => errors.add(path, format!("{UNKNOWN_FIELD} {number}")),
        Misfit::WireType(field) => errors.add(&path.field(field.name()), WRONG_WIRE_TYPE),
    })
}

struct Walk<'a, 'e> {
    path: &'a Path<'a>,
    depth: usize,
    errors: &'e mut Errors,
}

impl Walk<'_, '_> {
    fn field(&mut self, field: &'static Field, values: &[Entry<'_>]) {
        let rules = field.rules();
        let path = self.path.field(field.name());
        if rules.disallowed && !values.is_empty() {
            self.errors
                .add(&path, "the field is deprecated and disallowed");
        }
        match field.shape {
            Shape::Map => self.map(field, values, &path),
            Shape::Repeated => self.repeated(field, values, &path),
            Shape::Implicit | Shape::Optional => match (field.kind.message(), values) {
                (_, []) if field.shape == Shape::Optional => {
                    // Of a oneof's members, "required" asks only that the one which is set has a value.
                    if rules.required && field.oneof().is_none() {
                        self.errors.add(&path, "value is required");
                    }
                }
                (Some(inner), [(_, raw)]) => self.message(inner, rules, *raw, &path),
                // A message given in parts is the merge of them, which is their concatenation.
                (Some(inner), parts) => match concatenate(parts) {
                    Some(bytes) => self.message(inner, rules, Raw::Bytes(&bytes), &path),
                    None => self.errors.add(&path, WRONG_WIRE_TYPE),
                },
                (None, values) => {
                    // prost reads also the values that a later one replaces.
                    for (_, raw) in values.iter().rev().skip(1) {
                        if let Err(reason) = Scalar::read(field.kind, *raw) {
                            self.errors.add(&path, reason);
                        }
                    }
                    let value = match values.last() {
                        Some((_, raw)) => Scalar::read(field.kind, *raw),
                        None => Scalar::default_of(field.kind).ok_or("value is required"),
                    };
                    self.scalar(rules, value, &path);
                }
            },
        }
    }

    fn scalar(&mut self, rules: &Rules, value: Result<Scalar<'_>, &'static str>, path: &Path<'_>) {
        match value {
            Ok(value) => checks::scalar(rules, value, |reason| self.errors.add(path, reason)),
            Err(reason) => self.errors.add(path, reason),
        }
    }

    fn message(&mut self, row: &'static Message, rules: &Rules, raw: Raw<'_>, path: &Path<'_>) {
        let Raw::Bytes(bytes) = raw else {
            self.errors.add(path, WRONG_WIRE_TYPE);
            return;
        };
        if rules.skip {
            // Its rules do not count, but its fields must still be known.
            let mut inner = Errors::default();
            message(row, bytes, path, self.depth + 1, &mut inner);
            for error in inner.into_vec() {
                if error.reason.starts_with(UNKNOWN_FIELD) {
                    self.errors.push(error);
                }
            }
            return;
        }
        match row.special {
            Special::Wrapper => self.wrapper(row, rules, bytes, path),
            Special::Duration => self.duration(rules, bytes, path),
            Special::Any | Special::None => message(row, bytes, path, self.depth + 1, self.errors),
        }
    }

    fn repeated(&mut self, field: &'static Field, values: &[Entry<'_>], path: &Path<'_>) {
        let rules = field.rules();
        let items = rules.items.unwrap_or(&NO_RULES);
        let Some(inner) = field.kind.message() else {
            let mut index = 0;
            let mut seen = HashSet::new();
            for (_, raw) in values {
                Scalar::read_packed(field.kind, *raw, |value| {
                    let path = path.index(index);
                    let text = value.map(|value| format!("{value:?}"));
                    self.scalar(items, value, &path);
                    if checks::must_be_unique(rules) && !text.is_ok_and(|text| seen.insert(text)) {
                        self.errors
                            .add(&path, "repeated value must contain unique items");
                    }
                    index += 1;
                });
            }
            checks::count(rules, index, |reason| self.errors.add(path, reason));
            return;
        };
        checks::count(rules, values.len(), |reason| self.errors.add(path, reason));
        for (index, (_, raw)) in values.iter().enumerate() {
            self.message(inner, items, *raw, &path.index(index));
        }
    }

    fn map(&mut self, field: &'static Field, values: &[Entry<'_>], path: &Path<'_>) {
        let rules = field.rules();
        checks::count(rules, values.len(), |reason| self.errors.add(path, reason));
        let (Some(entry), depth) = (field.kind.message(), self.depth) else {
            return;
        };
        let [key_field, value_field] = entry.fields() else {
            return;
        };
        for (_, raw) in values {
            let Raw::Bytes(bytes) = *raw else {
                self.errors.add(path, WRONG_WIRE_TYPE);
                continue;
            };
            let entries = match read_entries(entry, bytes, path, self.errors) {
                Ok(entries) => entries,
                Err(Malformed(reason)) => {
                    self.errors.add(path, reason);
                    continue;
                }
            };
            let last = |field: &Field| {
                let found = entries
                    .iter()
                    .rfind(|(other, _)| other.number == field.number);
                found.map(|(_, raw)| *raw)
            };
            let key = last(key_field).map_or_else(
                || Scalar::default_of(key_field.kind).ok_or("value is required"),
                |raw| Scalar::read(key_field.kind, raw),
            );
            let name = key.map(Scalar::as_key).unwrap_or_default();
            let path = path.key(&name);
            self.scalar(rules.keys.unwrap_or(&NO_RULES), key, &path);

            let value_rules = rules.values.unwrap_or(&NO_RULES);
            let raw = last(value_field);
            match value_field.kind.message() {
                // The entry is a message of its own on the way to the value.
                Some(inner) => Walk {
                    path: self.path,
                    depth: depth + 1,
                    errors: self.errors,
                }
                .message(inner, value_rules, raw.unwrap_or(Raw::Bytes(&[])), &path),
                None => {
                    let value = raw.map_or_else(
                        || Scalar::default_of(value_field.kind).ok_or("value is required"),
                        |raw| Scalar::read(value_field.kind, raw),
                    );
                    self.scalar(value_rules, value, &path);
                }
            }
        }
    }

    /// `UInt32Value` and its like: their rules are those of the value in them.
    fn wrapper(&mut self, row: &'static Message, rules: &Rules, bytes: &[u8], path: &Path<'_>) {
        let entries = match read_entries(row, bytes, path, self.errors) {
            Ok(entries) => entries,
            Err(Malformed(reason)) => return self.errors.add(path, reason),
        };
        let Some(field) = row.fields().first() else {
            return;
        };
        let value = entries.last().map_or_else(
            || Scalar::default_of(field.kind).ok_or("value is required"),
            |(_, raw)| Scalar::read(field.kind, *raw),
        );
        self.scalar(rules, value, path);
    }

    fn duration(&mut self, rules: &Rules, bytes: &[u8], path: &Path<'_>) {
        const MAX_SECONDS: i128 = 315_576_000_000;
        let (mut seconds, mut nanos) = (0, 0);
        let mut rest = bytes;
        loop {
            match wire::next(&mut rest) {
                Ok(Some((number @ 1..=2, raw))) => {
                    let kind = if number == 1 {
                        Kind::Int64
                    } else {
                        Kind::Int32
                    };
                    match Scalar::read(kind, raw) {
                        Ok(Scalar::Int(value)) if number == 1 => seconds = value,
                        Ok(Scalar::Int(value)) => nanos = value,
                        Ok(_) => {}
                        Err(reason) => return self.errors.add(path, reason),
                    }
                }
                Ok(Some((number, _))) => {
                    self.errors.add(path, format!("{UNKNOWN_FIELD} {number}"));
                }
                Ok(None) => break,
                Err(Malformed(reason)) => return self.errors.add(path, reason),
            }
        }
        let is_valid = seconds.abs() <= MAX_SECONDS
            && nanos.abs() < 1_000_000_000
            && (seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0));
        if !is_valid {
            self.errors.add(path, "duration is out of range");
        }
        checks::duration(rules, seconds * 1_000_000_000 + nanos, |reason| {
            self.errors.add(path, reason);
        });
    }
}

/// Goes on into the message that an `Any` carries, on the same path.
fn any(wire: &[u8], path: &Path<'_>, depth: usize, errors: &mut Errors) {
    let (mut url, mut value): (&[u8], &[u8]) = (&[], &[]);
    let mut rest = wire;
    while let Ok(Some((number, raw))) = wire::next(&mut rest) {
        match (number, raw) {
            (1, Raw::Bytes(bytes)) => url = bytes,
            (2, Raw::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    let row = std::str::from_utf8(url)
        .ok()
        .and_then(type_name)
        .and_then(Message::named);
    if let Some(row) = row {
        message(row, value, path, depth + 1, errors);
    }
}
