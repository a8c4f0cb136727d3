//! What can be wrong with a text or a message, and where.

use std::fmt;

/// How many errors one run reports at most: hostile input must not fill the memory.
pub(crate) const MAX_ERRORS: usize = 1000;

/// How deep messages may nest; prost itself refuses more than 100.
pub(crate) const MAX_DEPTH: usize = 90;

/// An error at a field of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldError {
    /// Where, in Envoy's snake_case names, such as `listeners[0].filter_chains[1].name`; empty for
    /// the message itself. Keys of maps are quoted: `typed_per_filter_config["fault"].delay`.
    pub path: String,
    /// What is wrong there, for a person.
    pub reason: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

impl std::error::Error for FieldError {}

/// A text that is neither YAML nor JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} column {column}: {message}")]
pub struct TextError {
    /// The line, from 1; 0 when the place is not known.
    pub line: usize,
    /// The column, from 1; 0 when the place is not known.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

/// A place in a message, as a list on the stack of whoever walks it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Self>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The message that the walk begins with.
    pub(crate) const ROOT: Path<'static> = Path {
        parent: None,
        segment: Segment::Root,
    };

    pub(crate) fn field(&'a self, name: &'a str) -> Self {
        self.child(Segment::Field(name))
    }

    pub(crate) fn index(&'a self, index: usize) -> Self {
        self.child(Segment::Index(index))
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        self.child(Segment::Key(key))
    }

    fn child(&'a self, segment: Segment<'a>) -> Self {
        Self {
            parent: Some(self),
            segment,
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let follows_root = self
            .parent
            .is_none_or(|parent| matches!(parent.segment, Segment::Root));
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Field(name) if follows_root => f.write_str(name),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// The errors of one run, at most [`MAX_ERRORS`].
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<FieldError>);

impl Errors {
    pub(crate) fn add(&mut self, path: &Path<'_>, reason: impl Into<String>) {
        if !self.is_full() {
            self.push(FieldError {
                path: path.to_string(),
                reason: reason.into(),
            });
        }
    }

    pub(crate) fn push(&mut self, error: FieldError) {
        match self.0.len() {
            MAX_ERRORS.. => {}
            // The last place says that there is more.
            len if len == MAX_ERRORS - 1 => self.0.push(FieldError {
                path: String::new(),
                reason: format!("more than {} errors; the rest is not shown", MAX_ERRORS - 1),
            }),
            _ => self.0.push(error),
        }
    }

    /// Whether more errors would not be kept, so that a walk can stop.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MAX_ERRORS
    }

    pub(crate) fn into_vec(self) -> Vec<FieldError> {
        self.0
    }
}
