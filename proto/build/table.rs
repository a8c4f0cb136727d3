//! Writes the table that `src/validate` walks: messages, fields and oneofs as plain rows, all names
//! in one string, so that the table needs neither heap nor relocations for its rows.

use std::{collections::HashMap, fmt::Write};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::{prune::Kept, rules};

/// Rust source that defines `NAMES`, `MESSAGES`, `FIELDS`, `ONEOFS` and `RULES`.
pub(crate) fn generate(kept: &Kept) -> String {
    let mut table = Table {
        kept: kept
            .messages
            .keys()
            .zip(0..)
            .map(|(name, index)| (name.as_str(), index))
            .collect(),
        names: Names::default(),
        fields: Vec::new(),
        oneofs: Vec::new(),
        rules: vec!["NO_RULES".to_owned()],
    };
    let messages: Vec<String> = kept
        .messages
        .values()
        .map(|message| table.message(message))
        .collect();

    let mut code = String::new();
    let mut row_list = |name: &str, row: &str, rows: &[String]| {
        writeln!(
            code,
            "pub(super) static {name}: [{row}; {}] = [",
            rows.len()
        )
        .and_then(|()| rows.iter().try_for_each(|row| writeln!(code, "    {row},")))
        .and_then(|()| writeln!(code, "];"))
        .expect("writing to a string does not fail");
    };
    row_list("MESSAGES", "Message", &messages);
    row_list("FIELDS", "Field", &table.fields);
    row_list("ONEOFS", "Oneof", &table.oneofs);
    row_list("RULES", "Rules", &table.rules);
    code + &format!("pub(super) static NAMES: &str = {:?};\n", table.names.text)
}

#[derive(Default)]
struct Names {
    text: String,
    known: HashMap<String, String>,
}

impl Names {
    fn add(&mut self, name: &str) -> String {
        if let Some(code) = self.known.get(name) {
            return code.clone();
        }
        let code = format!("name({}, {})", self.text.len(), name.len());
        self.text.push_str(name);
        self.known.insert(name.to_owned(), code.clone());
        code
    }
}

struct Table<'a> {
    kept: HashMap<&'a str, usize>,
    names: Names,
    fields: Vec<String>,
    oneofs: Vec<String>,
    rules: Vec<String>,
}

impl Table<'_> {
    fn message(&mut self, message: &MessageDescriptor) -> String {
        let options = message.options();
        for extension in ["validate.disabled", "validate.ignored"] {
            assert!(
                !rules::is_set(&options, extension),
                "{}: option {extension} is not implemented",
                message.full_name()
            );
        }
        let first_oneof = self.oneofs.len();
        // An `optional` scalar is a oneof of its own in the descriptor only.
        let oneofs: Vec<_> = message
            .oneofs()
            .filter(|oneof| !oneof.is_synthetic())
            .collect();
        for oneof in &oneofs {
            let name = self.names.add(oneof.name());
            let is_required = rules::is_set(&oneof.options(), "validate.required");
            self.oneofs.push(format!(
                "Oneof {{ name: {name}, is_required: {is_required} }}"
            ));
        }
        let first_field = self.fields.len();
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        for field in &fields {
            let oneof = field
                .containing_oneof()
                .and_then(|oneof| oneofs.iter().position(|other| *other == oneof))
                .map_or_else(|| "NO_ONEOF".to_owned(), |position| position.to_string());
            let row = format!(
                "field({}, {}, {}, Shape::{}, {oneof}, {})",
                field.number(),
                self.names.add(field.name()),
                self.kind(field),
                shape(field),
                self.rules(field),
            );
            self.fields.push(row);
        }
        format!(
            "message({}, {first_field}, {}, {first_oneof}, {}, Special::{})",
            self.names.add(message.full_name()),
            fields.len(),
            oneofs.len(),
            special(message.full_name()),
        )
    }

    fn rules(&mut self, field: &FieldDescriptor) -> usize {
        let Some(code) = rules::of_field(field) else {
            return 0;
        };
        self.rules
            .iter()
            .position(|known| *known == code)
            .unwrap_or_else(|| {
                self.rules.push(code);
                self.rules.len() - 1
            })
    }

    fn kind(&self, field: &FieldDescriptor) -> String {
        match field.kind() {
            Kind::Message(message) => {
                let index = self.kept[message.full_name()];
                assert!(
                    !field.is_group(),
                    "{}: groups are not implemented",
                    field.full_name()
                );
                format!("Kind::Message({index})")
            }
            Kind::Enum(_) => "Kind::Enum".to_owned(),
            // `Debug` writes the name of the protobuf type, such as `uint32`.
            scalar => {
                let mut name = format!("{scalar:?}");
                name.get_mut(..1)
                    .expect("a name has a first letter")
                    .make_ascii_uppercase();
                format!("Kind::{name}")
            }
        }
    }
}

fn shape(field: &FieldDescriptor) -> &'static str {
    if field.is_map() {
        "Map"
    } else if field.is_list() {
        "Repeated"
    } else if field.supports_presence() {
        "Optional"
    } else {
        "Implicit"
    }
}

fn special(full_name: &str) -> &'static str {
    match full_name {
        "google.protobuf.Any" => "Any",
        "google.protobuf.Duration" => "Duration",
        "google.protobuf.BoolValue"
        | "google.protobuf.BytesValue"
        | "google.protobuf.DoubleValue"
        | "google.protobuf.FloatValue"
        | "google.protobuf.Int32Value"
        | "google.protobuf.Int64Value"
        | "google.protobuf.StringValue"
        | "google.protobuf.UInt32Value"
        | "google.protobuf.UInt64Value" => "Wrapper",
        _ => "None",
    }
}
