//! The rows of the generated table of messages, fields and rules.

use std::{ops::Bound, sync::OnceLock};

use regex::Regex;

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// A part of [`NAMES`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    at: u32,
    len: u16,
}

impl Name {
    pub(crate) fn as_str(self) -> &'static str {
        let at = self.at as usize;
        NAMES
            .get(at..at + usize::from(self.len))
            .unwrap_or_default()
    }
}

#[derive(Debug)]
pub(crate) struct Message {
    name: Name,
    first_field: u16,
    fields: u16,
    first_oneof: u16,
    oneofs: u16,
    pub(crate) special: Special,
}

/// Messages that are checked as one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    None,
    Any,
    Duration,
    Wrapper,
}

impl Message {
    /// The row of a message by its full name.
    pub(crate) fn named(full_name: &str) -> Option<&'static Self> {
        let index = MESSAGES
            .binary_search_by(|message| message.name.as_str().cmp(full_name))
            .ok()?;
        MESSAGES.get(index)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    /// All messages, sorted by name.
    pub(crate) fn all() -> &'static [Self] {
        &MESSAGES
    }

    /// Sorted by number.
    pub(crate) fn fields(&self) -> &'static [Field] {
        let first = usize::from(self.first_field);
        FIELDS
            .get(first..first + usize::from(self.fields))
            .unwrap_or_default()
    }

    pub(crate) fn oneofs(&self) -> &'static [Oneof] {
        let first = usize::from(self.first_oneof);
        ONEOFS
            .get(first..first + usize::from(self.oneofs))
            .unwrap_or_default()
    }
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    name: Name,
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
    oneof: u8,
    rules: u16,
}

impl Field {
    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    /// The position of its oneof in [`Message::oneofs`].
    pub(crate) fn oneof(&self) -> Option<usize> {
        (self.oneof != NO_ONEOF).then(|| self.oneof.into())
    }

    pub(crate) fn rules(&self) -> &'static Rules {
        RULES.get(usize::from(self.rules)).unwrap_or(&NO_RULES)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Without presence: absent is the default value.
    Implicit,
    Optional,
    Repeated,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    dead_code,
    reason = "a kind that today's descriptors do not use stays complete"
)]
pub(crate) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(u16),
    Message(u16),
}

impl Kind {
    /// The row of a message kind.
    pub(crate) fn message(self) -> Option<&'static Message> {
        match self {
            Self::Message(index) => MESSAGES.get(usize::from(index)),
            _ => None,
        }
    }

    /// The row of an enum kind.
    pub(crate) fn enumeration(self) -> Option<&'static Enum> {
        match self {
            Self::Enum(index) => ENUMS.get(usize::from(index)),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Enum {
    first_value: u16,
    values: u16,
}

impl Enum {
    /// In the order of their definition; of two names of one number, the first is the usual one.
    pub(crate) fn values(&self) -> &'static [EnumValue] {
        let first = usize::from(self.first_value);
        ENUM_VALUES
            .get(first..first + usize::from(self.values))
            .unwrap_or_default()
    }
}

#[derive(Debug)]
pub(crate) struct EnumValue {
    name: Name,
    pub(crate) number: i32,
}

impl EnumValue {
    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }
}

#[derive(Debug)]
pub(crate) struct Oneof {
    name: Name,
    pub(crate) is_required: bool,
}

impl Oneof {
    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }
}

/// What a field must fulfil.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) required: bool,
    /// Do not look into the message.
    pub(crate) skip: bool,
    pub(crate) ignore_empty: bool,
    /// Envoy refuses the field although it exists.
    pub(crate) disallowed: bool,
    /// Never shown.
    pub(crate) sensitive: bool,
    pub(crate) checks: &'static [Check],
    pub(crate) items: Option<&'static Self>,
    pub(crate) keys: Option<&'static Self>,
    pub(crate) values: Option<&'static Self>,
}

pub(crate) const NO_RULES: Rules = Rules {
    required: false,
    skip: false,
    ignore_empty: false,
    disallowed: false,
    sensitive: false,
    checks: &[],
    items: None,
    keys: None,
    values: None,
};

#[derive(Debug)]
#[allow(
    dead_code,
    reason = "a rule that today's options do not use stays complete"
)]
pub(crate) enum Check {
    MinChars(u64),
    MaxChars(u64),
    MinBytes(u64),
    MaxBytes(u64),
    Prefix(&'static str),
    Suffix(&'static str),
    Contains(&'static str),
    NotContains(&'static str),
    OneOf(&'static [&'static str]),
    NoneOf(&'static [&'static str]),
    Pattern(&'static Pattern),
    HeaderName,
    HeaderValue,
    LooseHeader,
    Int(Bound<i128>, Bound<i128>),
    Float(Bound<f64>, Bound<f64>),
    /// In nanoseconds.
    Duration(Bound<i128>, Bound<i128>),
    Bool(bool),
    Defined(&'static [i32]),
    EnumIn(&'static [i32]),
    EnumNotIn(&'static [i32]),
    MinItems(u64),
    MaxItems(u64),
    Unique,
    MinPairs(u64),
    MaxPairs(u64),
}

/// A regular expression, compiled when it is first needed.
#[derive(Debug)]
pub(crate) struct Pattern {
    text: &'static str,
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    const fn new(text: &'static str) -> Self {
        Self {
            text,
            regex: OnceLock::new(),
        }
    }

    pub(crate) fn text(&self) -> &'static str {
        self.text
    }

    /// A pattern that is no regular expression matches nothing; a test compiles them all.
    pub(crate) fn matches(&self, value: &str) -> bool {
        let regex = self.regex.get_or_init(|| Regex::new(self.text).ok());
        regex.as_ref().is_some_and(|regex| regex.is_match(value))
    }
}

const NO_ONEOF: u8 = u8::MAX;

const fn name(at: u32, len: u16) -> Name {
    Name { at, len }
}

const fn message(
    name: Name,
    first_field: u16,
    fields: u16,
    first_oneof: u16,
    oneofs: u16,
    special: Special,
) -> Message {
    Message {
        name,
        first_field,
        fields,
        first_oneof,
        oneofs,
        special,
    }
}

const fn field(number: u32, name: Name, kind: Kind, shape: Shape, oneof: u8, rules: u16) -> Field {
    Field {
        number,
        name,
        kind,
        shape,
        oneof,
        rules,
    }
}
