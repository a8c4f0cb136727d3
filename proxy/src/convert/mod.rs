//! The kit that turns Envoy's messages into configuration types.
//!
//! Every conversion takes its message apart exhaustively (no `..`), says for each field that it does
//! not implement whether a set value is refused ([`Cx::unsupported`]) or without effect
//! ([`Cx::no_effect`]), and goes on after an error, so that one run reports all of them. The same
//! calls feed the support table: a [`Recorder`] runs each conversion on an empty message and notes what
//! it says of each field.

mod recorder;
mod set;
mod value;

use std::{cell::RefCell, fmt};

pub use outrigger_proto::FieldError as ConfigError;
pub use recorder::{Recorder, Status};
pub use set::IsSet;
pub use value::{HostPort, bool_or, u32_or};

/// Collects errors of one conversion, and what the conversion says of fields.
#[derive(Debug, Default)]
pub struct Sink {
    errors: RefCell<Vec<ConfigError>>,
    recorder: Option<RefCell<Recorder>>,
}

impl Sink {
    /// A sink for errors only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A sink that also records the treatment of every field.
    #[must_use]
    pub fn recording() -> Self {
        Self {
            errors: RefCell::default(),
            recorder: Some(RefCell::default()),
        }
    }

    /// The context at the root of a message; paths begin with `root` unless it is empty.
    #[must_use]
    pub fn root<'a>(&'a self, root: &'a str) -> Cx<'a> {
        Cx {
            sink: self,
            parent: None,
            segment: Segment::Field(root),
        }
    }

    /// The value when no error was reported, else the errors.
    ///
    /// # Errors
    /// All that were reported, in the order of their finding.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<ConfigError>> {
        let errors = self.errors.into_inner();
        match value {
            Some(value) if errors.is_empty() => Ok(value),
            _ => Err(errors),
        }
    }

    /// What was recorded of fields.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.recorder
            .as_ref()
            .map(|recorder| recorder.borrow().clone())
            .unwrap_or_default()
    }
}

/// Where a conversion is: a path and the sink for what it finds.
#[derive(Clone, Copy, Debug)]
pub struct Cx<'a> {
    sink: &'a Sink,
    parent: Option<&'a Self>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Cx<'a> {
    /// A field of this message.
    #[must_use]
    pub fn field(&'a self, name: &'a str) -> Self {
        self.child(Segment::Field(name))
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&'a self, index: usize) -> Self {
        self.child(Segment::Index(index))
    }

    /// An entry of this map.
    #[must_use]
    pub fn key(&'a self, key: &'a str) -> Self {
        self.child(Segment::Key(key))
    }

    fn child(&'a self, segment: Segment<'a>) -> Self {
        Cx {
            sink: self.sink,
            parent: Some(self),
            segment,
        }
    }

    /// Reports an error here.
    pub fn error(&self, reason: impl Into<String>) {
        self.sink.errors.borrow_mut().push(ConfigError {
            path: self.to_string(),
            reason: reason.into(),
        });
    }

    /// Reports an error found by validation below this place; its path is joined to ours.
    pub fn error_below(&self, error: ConfigError) {
        let here = self.to_string();
        let path = match (here.is_empty(), error.path.is_empty()) {
            (true, _) => error.path,
            (false, true) => here,
            (false, false) if error.path.starts_with('[') => format!("{here}{}", error.path),
            (false, false) => format!("{here}.{}", error.path),
        };
        self.sink.errors.borrow_mut().push(ConfigError {
            path,
            reason: error.reason,
        });
    }

    /// Says that the field is not implemented; a set value is an error.
    pub fn unsupported<M: prost::Name>(&self, field: &str, value: &impl IsSet) {
        self.record::<M>(field, Status::Rejected);
        if value.is_set() {
            self.field(field).error("not supported");
        }
    }

    /// Says that the field changes nothing that a user could see, and why.
    pub fn no_effect<M: prost::Name>(&self, field: &str, why: &'static str) {
        self.record::<M>(field, Status::NoEffect(why));
    }

    /// Says that these members of a oneof are refused where it is taken apart.
    pub fn refuses<M: prost::Name>(&self, fields: &[&str]) {
        for field in fields {
            self.record::<M>(field, Status::Rejected);
        }
    }

    /// Says that the field is supported in part only, and which part.
    pub fn partly<M: prost::Name>(&self, field: &str, what: &'static str) {
        self.record::<M>(field, Status::Partly(what));
    }

    fn record<M: prost::Name>(&self, field: &str, status: Status) {
        if let Some(recorder) = &self.sink.recorder {
            recorder.borrow_mut().note(&M::full_name(), field, status);
        }
    }

    /// Notes that the message is converted, so that the support table lists its fields.
    pub fn converts<M: prost::Name>(&self) {
        if let Some(recorder) = &self.sink.recorder {
            recorder.borrow_mut().message(&M::full_name());
        }
    }

    /// How many errors there are so far; comparing two readings tells whether a part was fine.
    #[must_use]
    pub fn error_count(&self) -> usize {
        self.sink.errors.borrow().len()
    }
}

impl fmt::Display for Cx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_start = true;
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            is_start = parent.is_root();
        }
        match self.segment {
            Segment::Field(name) => {
                if !is_start {
                    f.write_str(".")?;
                }
                f.write_str(name)
            }
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

impl Cx<'_> {
    /// Whether the path is empty here.
    fn is_root(&self) -> bool {
        self.parent.is_none_or(Self::is_root)
            && matches!(self.segment, Segment::Field(name) if name.is_empty())
    }
}

/// Says of each named field of message `$message` that it is not implemented.
#[macro_export]
macro_rules! unsupported {
    ($cx:expr, $message:ty, [$($field:ident),* $(,)?]) => {
        $($cx.unsupported::<$message>(stringify!($field), &$field);)*
    };
}

/// Says of each named field of message `$message` that it has no effect, with the reason.
#[macro_export]
macro_rules! no_effect {
    ($cx:expr, $message:ty, $why:literal, [$($field:ident),* $(,)?]) => {
        $(let _ = &$field; $cx.no_effect::<$message>(stringify!($field), $why);)*
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join_fields_indices_and_keys() {
        let sink = Sink::new();
        let root = sink.root("");
        let listeners = root.field("listeners");
        let first = listeners.index(0);
        let map = first.field("typed_per_filter_config");
        let entry = map.key("envoy.fault");
        assert_eq!(
            entry.to_string(),
            r#"listeners[0].typed_per_filter_config["envoy.fault"]"#
        );
        let named = sink.root("static_resources");
        assert_eq!(named.field("x").to_string(), "static_resources.x");
    }

    #[test]
    fn errors_below_are_joined() {
        let sink = Sink::new();
        let root = sink.root("");
        let config = root.field("typed_config");
        config.error_below(ConfigError {
            path: "a[0]".to_owned(),
            reason: "bad".to_owned(),
        });
        config.error_below(ConfigError {
            path: String::new(),
            reason: "worse".to_owned(),
        });
        let errors = sink.finish::<()>(None).unwrap_err();
        assert_eq!(errors[0].path, "typed_config.a[0]");
        assert_eq!(errors[1].path, "typed_config");
    }
}
