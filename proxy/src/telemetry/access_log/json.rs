//! JSON lines: a lone operator keeps its type, as Envoy's JSON formatter has it.

use std::io::Write;

use crate::{
    config::{access_log::JsonFormat, format::Format},
    telemetry::format::{self, Context, Missing, NeededHeaders},
};

/// Appends the headers that `template` reads.
pub(super) fn add_needed(template: &JsonFormat, needed: &mut NeededHeaders) {
    match template {
        JsonFormat::Object(fields) => {
            fields
                .iter()
                .for_each(|(_, field)| add_needed(field, needed));
        }
        JsonFormat::Array(items) => items.iter().for_each(|item| add_needed(item, needed)),
        JsonFormat::Format(format) => needed.add(format),
        JsonFormat::Number(_) | JsonFormat::Bool(_) | JsonFormat::Null => {}
    }
}

/// Appends the line, without its end.
pub(super) fn write(
    template: &JsonFormat,
    omit_empty: bool,
    cx: &Context<'_>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    let is_written = Template { omit_empty, cx }.write(template, scratch, out);
    if !is_written {
        out.extend_from_slice(b"{}");
    }
}

struct Template<'a> {
    omit_empty: bool,
    cx: &'a Context<'a>,
}

impl Template<'_> {
    /// Appends a value; false if there is none and it is to be left out.
    fn write(&self, template: &JsonFormat, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        match template {
            JsonFormat::Object(fields) => {
                let each = fields.iter().map(|(key, value)| (Some(&**key), value));
                self.write_all((b'{', b'}'), each, scratch, out)
            }
            JsonFormat::Array(items) => {
                let each = items.iter().map(|value| (None, value));
                self.write_all((b'[', b']'), each, scratch, out)
            }
            JsonFormat::Format(format) => self.write_format(format, scratch, out),
            JsonFormat::Number(number) => {
                write_number(*number, out);
                true
            }
            JsonFormat::Bool(value) => {
                out.extend_from_slice(if *value { b"true" } else { b"false" });
                true
            }
            JsonFormat::Null => self.write_null(out),
        }
    }

    fn write_all<'t>(
        &self,
        (open, close): (u8, u8),
        values: impl Iterator<Item = (Option<&'t str>, &'t JsonFormat)>,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut is_first = true;
        out.push(open);
        for (key, value) in values {
            let before = out.len();
            if !is_first {
                out.push(b',');
            }
            if let Some(key) = key {
                write_string(key.as_bytes(), out);
                out.push(b':');
            }
            if self.write(value, scratch, out) {
                is_first = false;
            } else {
                out.truncate(before);
            }
        }
        if is_first && self.omit_empty {
            return false;
        }
        out.push(close);
        true
    }

    fn write_format(&self, format: &Format, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        scratch.clear();
        match format::lone_operator(format) {
            Some(lone @ format::Lone::Number(_)) => {
                lone.write(self.cx, out) || self.write_null(out)
            }
            Some(lone @ format::Lone::Text(..)) => {
                if !lone.write(self.cx, scratch) {
                    return self.write_null(out);
                }
                write_string(scratch, out);
                true
            }
            None => {
                let missing = match self.omit_empty {
                    true => Missing::Empty,
                    false => Missing::Dash,
                };
                format::write(format, self.cx, missing, scratch);
                write_string(scratch, out);
                true
            }
        }
    }

    fn write_null(&self, out: &mut Vec<u8>) -> bool {
        if self.omit_empty {
            return false;
        }
        out.extend_from_slice(b"null");
        true
    }
}

fn write_number(number: f64, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail; `{}` of a whole float has no fraction, as in Envoy's lines.
    let _infallible = match number.is_finite() {
        true => write!(out, "{number}"),
        false => write!(out, "null"),
    };
}

/// Appends a quoted string. Bytes that are not UTF-8 (headers may hold them) make every non-ASCII
/// byte an escape, as in Envoy's lines.
pub(super) fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    let is_utf8 = std::str::from_utf8(bytes).is_ok();
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' if is_utf8 => out.extend_from_slice(b"\\n"),
            b'\r' if is_utf8 => out.extend_from_slice(b"\\r"),
            b'\t' if is_utf8 => out.extend_from_slice(b"\\t"),
            0..=0x1f => escape(byte, out),
            0x80.. if !is_utf8 => escape(byte, out),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _infallible = write!(out, "\\u{byte:04x}");
}
