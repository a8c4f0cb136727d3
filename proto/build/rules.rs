//! Reads protoc-gen-validate options and writes them as Rust constants.
//!
//! A rule that `src/validate` does not implement stops the build: none is dropped silently.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, Value};

/// The expression for the rules of a field, or `None` when there are none.
pub(crate) fn of_field(field: &FieldDescriptor) -> Option<String> {
    let options = field.options();
    let mut rules = Rules::default();
    let flag = |extension: &str| {
        options.extensions().any(|(descriptor, value)| {
            descriptor.full_name() == extension && value.as_bool() == Some(true)
        })
    };
    rules.flag(
        "disallowed",
        flag("envoy.annotations.disallowed_by_default"),
    );
    rules.flag("sensitive", flag("udpa.annotations.sensitive"));
    for (extension, value) in options.extensions() {
        if extension.full_name() == "validate.rules" {
            let message = value.as_message().expect("validate.rules is a message");
            rules.read(message, &type_of(field), field.full_name());
        }
    }
    rules.into_code()
}

/// Whether a boolean extension is set in the options of a message or oneof.
pub(crate) fn is_set(options: &DynamicMessage, extension: &str) -> bool {
    options.extensions().any(|(descriptor, value)| {
        descriptor.full_name() == extension && value.as_bool() == Some(true)
    })
}

/// The enum that `defined_only` refers to, in a field, its items, keys or values.
#[derive(Default)]
struct EnumTypes {
    item: Option<EnumDescriptor>,
    map_value: Option<EnumDescriptor>,
}

fn type_of(field: &FieldDescriptor) -> EnumTypes {
    let as_enum = |kind: Kind| match kind {
        Kind::Enum(descriptor) => Some(descriptor),
        _ => None,
    };
    match field.kind() {
        Kind::Message(entry) if field.is_map() => EnumTypes {
            item: None,
            map_value: as_enum(entry.map_entry_value_field().kind()),
        },
        kind => EnumTypes {
            item: as_enum(kind),
            map_value: None,
        },
    }
}

#[derive(Default)]
struct Rules {
    parts: Vec<String>,
    checks: Vec<String>,
}

impl Rules {
    fn flag(&mut self, name: &str, is_set: bool) {
        if is_set {
            self.parts.push(format!("{name}: true"));
        }
    }

    fn into_code(mut self) -> Option<String> {
        if !self.checks.is_empty() {
            self.parts
                .push(format!("checks: &[{}]", self.checks.join(", ")));
        }
        (!self.parts.is_empty())
            .then(|| format!("Rules {{ {}, ..NO_RULES }}", self.parts.join(", ")))
    }

    /// Reads a `validate.FieldRules`.
    fn read(&mut self, rules: &DynamicMessage, types: &EnumTypes, place: &str) {
        for (group, value) in rules.fields() {
            let Some(inner) = value.as_message() else {
                panic!("{place}: rule `{}` is not implemented", group.name());
            };
            match group.name() {
                "repeated" => self.read_repeated(inner, types, place),
                "map" => self.read_map(inner, types, place),
                kind => self.read_scalar(kind, inner, types.item.as_ref(), place),
            }
        }
    }

    fn read_repeated(&mut self, rules: &DynamicMessage, types: &EnumTypes, place: &str) {
        for (rule, value) in rules.fields() {
            match rule.name() {
                "min_items" => self
                    .checks
                    .push(format!("Check::MinItems({})", integer(value))),
                "max_items" => self
                    .checks
                    .push(format!("Check::MaxItems({})", integer(value))),
                "unique" if value.as_bool() == Some(true) => {
                    self.checks.push("Check::Unique".to_owned())
                }
                "unique" => {}
                "ignore_empty" => self.flag("ignore_empty", value.as_bool() == Some(true)),
                "items" => self.nested("items", value, types, place),
                other => panic!("{place}: rule `repeated.{other}` is not implemented"),
            }
        }
    }

    fn read_map(&mut self, rules: &DynamicMessage, types: &EnumTypes, place: &str) {
        let value_types = EnumTypes {
            item: types.map_value.clone(),
            map_value: None,
        };
        for (rule, value) in rules.fields() {
            match rule.name() {
                "min_pairs" => self
                    .checks
                    .push(format!("Check::MinPairs({})", integer(value))),
                "max_pairs" => self
                    .checks
                    .push(format!("Check::MaxPairs({})", integer(value))),
                "ignore_empty" => self.flag("ignore_empty", value.as_bool() == Some(true)),
                "keys" => self.nested("keys", value, &EnumTypes::default(), place),
                "values" => self.nested("values", value, &value_types, place),
                other => panic!("{place}: rule `map.{other}` is not implemented"),
            }
        }
    }

    fn nested(&mut self, part: &str, value: &Value, types: &EnumTypes, place: &str) {
        let mut inner = Self::default();
        inner.read(
            value.as_message().expect("rules are a message"),
            types,
            place,
        );
        if let Some(code) = inner.into_code() {
            self.parts.push(format!("{part}: Some(&{code})"));
        }
    }

    fn read_scalar(
        &mut self,
        kind: &str,
        rules: &DynamicMessage,
        enumeration: Option<&EnumDescriptor>,
        place: &str,
    ) {
        let (mut low, mut high) = (None, None);
        let is_strict = rules
            .fields()
            .all(|(rule, value)| rule.name() != "strict" || value.as_bool() == Some(true));
        for (rule, value) in rules.fields() {
            let code = match (kind, rule.name()) {
                (_, "required" | "skip" | "ignore_empty") => {
                    self.flag(rule.name(), value.as_bool() == Some(true));
                    continue;
                }
                ("string" | "bytes", "strict") => continue,
                ("string" | "bytes" | "enum" | "bool", name) => {
                    text_check(kind, name, value, is_strict, enumeration)
                }
                (_, "gt") => {
                    low = Some(format!("Bound::Excluded({})", number(kind, value)));
                    continue;
                }
                (_, "gte") => {
                    low = Some(format!("Bound::Included({})", number(kind, value)));
                    continue;
                }
                (_, "lt") => {
                    high = Some(format!("Bound::Excluded({})", number(kind, value)));
                    continue;
                }
                (_, "lte") => {
                    high = Some(format!("Bound::Included({})", number(kind, value)));
                    continue;
                }
                _ => None,
            };
            match code {
                Some(code) => self.checks.push(code),
                None => panic!("{place}: rule `{kind}.{}` is not implemented", rule.name()),
            }
        }
        if low.is_some() || high.is_some() {
            let check = match kind {
                "float" | "double" => "Float",
                "duration" => "Duration",
                _ => "Int",
            };
            let unbounded = || "Bound::Unbounded".to_owned();
            self.checks.push(format!(
                "Check::{check}({}, {})",
                low.unwrap_or_else(unbounded),
                high.unwrap_or_else(unbounded),
            ));
        }
    }
}

fn text_check(
    kind: &str,
    rule: &str,
    value: &Value,
    is_strict: bool,
    enumeration: Option<&EnumDescriptor>,
) -> Option<String> {
    let list = |value: &Value| {
        let items: Vec<String> = value.as_list()?.iter().map(literal).collect();
        Some(format!("&[{}]", items.join(", ")))
    };
    Some(match (kind, rule) {
        ("string", "min_len") => format!("Check::MinChars({})", integer(value)),
        ("string", "max_len") => format!("Check::MaxChars({})", integer(value)),
        ("string", "min_bytes") | ("bytes", "min_len") => {
            format!("Check::MinBytes({})", integer(value))
        }
        ("string", "max_bytes") | ("bytes", "max_len") => {
            format!("Check::MaxBytes({})", integer(value))
        }
        ("string", "prefix") => format!("Check::Prefix({})", literal(value)),
        ("string", "suffix") => format!("Check::Suffix({})", literal(value)),
        ("string", "contains") => format!("Check::Contains({})", literal(value)),
        ("string", "not_contains") => format!("Check::NotContains({})", literal(value)),
        ("string", "in") => format!("Check::OneOf({})", list(value)?),
        ("string", "not_in") => format!("Check::NoneOf({})", list(value)?),
        ("string", "pattern") => {
            // A static, so that each pattern is compiled once.
            let pattern = literal(value);
            format!("Check::Pattern({{ static P: Pattern = Pattern::new({pattern}); &P }})")
        }
        ("string", "well_known_regex") => match (value.as_enum_number()?, is_strict) {
            (1, true) => "Check::HeaderName".to_owned(),
            (2, true) => "Check::HeaderValue".to_owned(),
            (1 | 2, false) => "Check::LooseHeader".to_owned(),
            _ => return None,
        },
        ("enum", "defined_only") if value.as_bool() == Some(false) => return None,
        ("enum", "defined_only") => {
            let numbers: Vec<_> = enumeration?
                .values()
                .map(|item| item.number().to_string())
                .collect();
            format!("Check::Defined(&[{}])", numbers.join(", "))
        }
        ("enum", "in") => format!("Check::EnumIn({})", list(value)?),
        ("enum", "not_in") => format!("Check::EnumNotIn({})", list(value)?),
        ("bool", "const") => format!("Check::Bool({})", value.as_bool()?),
        _ => return None,
    })
}

fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => integer(other).to_string(),
    }
}

fn integer(value: &Value) -> i128 {
    match value {
        Value::I32(number) | Value::EnumNumber(number) => (*number).into(),
        Value::I64(number) => (*number).into(),
        Value::U32(number) => (*number).into(),
        Value::U64(number) => (*number).into(),
        other => panic!("not an integer: {other:?}"),
    }
}

/// A bound: nanoseconds for durations.
fn number(kind: &str, value: &Value) -> String {
    match (kind, value) {
        ("duration", Value::Message(duration)) => {
            let part = |name: &str| {
                duration
                    .get_field_by_name(name)
                    .map_or(0, |part| integer(&part))
            };
            (part("seconds") * 1_000_000_000 + part("nanos")).to_string()
        }
        (_, Value::F64(number)) => format!("{number:?}"),
        (_, Value::F32(number)) => format!("{number:?}"),
        _ => integer(value).to_string(),
    }
}
