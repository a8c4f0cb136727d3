//! What conversions say of each field, for the generated support table.

use std::collections::BTreeMap;

/// How a field is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A set value is refused with its path.
    Rejected,
    /// Some values are refused; which are not.
    Partly(&'static str),
    /// Accepted; nothing that a user could see depends on it, for this reason.
    NoEffect(&'static str),
}

/// Fields by message; a field of a converted message that is not listed is supported.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    messages: BTreeMap<String, BTreeMap<String, Status>>,
}

impl Recorder {
    /// Notes that a message is converted.
    pub fn message(&mut self, name: &str) {
        self.messages.entry(name.to_owned()).or_default();
    }

    /// Notes the treatment of a field.
    pub fn note(&mut self, message: &str, field: &str, status: Status) {
        self.messages
            .entry(message.to_owned())
            .or_default()
            .insert(field.trim_start_matches("r#").to_owned(), status);
    }

    /// Messages with their fields' treatment, by name.
    #[must_use]
    pub fn messages(&self) -> &BTreeMap<String, BTreeMap<String, Status>> {
        &self.messages
    }
}
