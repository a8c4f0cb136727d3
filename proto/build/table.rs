//! Writes the table that `src/validate` walks: messages, fields and oneofs as plain rows, all names
//! in one string, so that the table needs neither heap nor relocations for its rows.

use std::{collections::HashMap, fmt::Write};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::{reach::Kept, rules};

/// Rust source that defines `NAMES` and the lists of rows.
pub(crate) fn generate(kept: &Kept) -> String {
    let index = |names: Vec<&String>| names.into_iter().cloned().zip(0..).collect();
    let mut table = Table {
        message_index: index(kept.messages.keys().collect()),
        enum_index: index(kept.enums.keys().collect()),
        names: Names::default(),
        fields: Vec::new(),
        oneofs: Vec::new(),
        enum_values: Vec::new(),
        rules: vec!["NO_RULES".to_owned()],
    };
    let enums: Vec<_> = kept
        .enums
        .values()
        .map(|item| table.enumeration(item))
        .collect();
    let messages: Vec<_> = kept
        .messages
        .values()
        .map(|message| table.message(message))
        .collect();

    let lists = [
        ("MESSAGES", "Message", &messages),
        ("FIELDS", "Field", &table.fields),
        ("ONEOFS", "Oneof", &table.oneofs),
        ("ENUMS", "Enum", &enums),
        ("ENUM_VALUES", "EnumValue", &table.enum_values),
        ("RULES", "Rules", &table.rules),
    ];
    let mut code = format!("static NAMES: &str = {:?};\n", table.names.text);
    for (list, row, rows) in lists {
        let rows_code = rows.join(",\n    ");
        writeln!(
            code,
            "static {list}: [{row}; {}] = [\n    {rows_code},\n];",
            rows.len()
        )
        .expect("writing to a string does not fail");
    }
    code
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

struct Table {
    message_index: HashMap<String, usize>,
    enum_index: HashMap<String, usize>,
    names: Names,
    fields: Vec<String>,
    oneofs: Vec<String>,
    enum_values: Vec<String>,
    rules: Vec<String>,
}

impl Table {
    fn enumeration(&mut self, item: &EnumDescriptor) -> String {
        let first = self.enum_values.len();
        for value in item.values() {
            let name = self.names.add(value.name());
            self.enum_values.push(format!(
                "EnumValue {{ name: {name}, number: {} }}",
                value.number()
            ));
        }
        format!(
            "Enum {{ first_value: {first}, values: {} }}",
            self.enum_values.len() - first
        )
    }

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
                let index = self.message_index[message.full_name()];
                assert!(
                    !field.is_group(),
                    "{}: groups are not implemented",
                    field.full_name()
                );
                format!("Kind::Message({index})")
            }
            Kind::Enum(item) => format!("Kind::Enum({})", self.enum_index[item.full_name()]),
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
