//! Header changes of routes and the levels above them, in Envoy's order.
//!
//! Levels apply one after the other: weighted cluster, route, virtual host, route configuration (the
//! last three reversed with `most_specific_header_mutations_wins`), so that later ones win. Within a
//! level removals come first, then overwrites, then additions; all values of a level are evaluated
//! before any of it is set.

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::config::{
    format::Format,
    header::{AppendAction, HeaderAddition, HeaderMutations},
};

/// The compiled changes of one level in one direction; none if there is nothing to do.
pub type Level = Option<Box<Mutations>>;

/// Compiled [`HeaderMutations`].
#[derive(Debug)]
pub struct Mutations {
    remove: Box<[HeaderName]>,
    add: Box<[Addition]>,
}

/// One compiled [`HeaderAddition`].
#[derive(Debug)]
pub struct Addition {
    name: HeaderName,
    value: Value,
    action: AppendAction,
    keep_empty: bool,
}

#[derive(Debug)]
enum Value {
    /// Cloning it copies nothing.
    Literal(HeaderValue),
    Format(Format),
}

impl Mutations {
    /// Compiles the changes; none if there are none.
    #[must_use]
    pub fn compile(config: &HeaderMutations) -> Level {
        if config.is_empty() {
            return None;
        }
        Some(Box::new(Self {
            remove: config.remove.as_slice().into(),
            add: config.add.iter().map(Addition::compile).collect(),
        }))
    }

    /// Formats that have to be evaluated.
    pub fn formats(&self) -> impl Iterator<Item = &Format> {
        self.add.iter().filter_map(Addition::format)
    }

    /// Applies the changes to what `headers` gives from `message`; `evaluate` appends the text of a
    /// format for the message as it is.
    pub fn apply<M>(
        &self,
        message: &mut M,
        headers: impl Fn(&mut M) -> &mut HeaderMap,
        evaluate: impl Fn(&M, &Format, &mut Vec<u8>),
    ) {
        for name in &self.remove {
            headers(message).remove(name);
        }
        if self.add.is_empty() {
            return;
        }
        let mut changes: SmallVec<[(&Addition, HeaderValue); 4]> = SmallVec::new();
        for addition in &self.add {
            if let Some(value) = addition.due(message, &headers, &evaluate) {
                changes.push((addition, value));
            }
        }
        let headers = headers(message);
        let (overwrites, additions): (SmallVec<[_; 4]>, SmallVec<[_; 4]>) = changes
            .into_iter()
            .partition(|(addition, _)| addition.action.overwrites());
        for (addition, value) in overwrites {
            headers.insert(&addition.name, value);
        }
        for (addition, value) in additions {
            headers.append(&addition.name, value);
        }
    }
}

impl Addition {
    /// Compiles an addition.
    #[must_use]
    pub fn compile(config: &HeaderAddition) -> Self {
        let literal = config.value.literal().map(HeaderValue::from_str);
        Self {
            name: config.name.clone(),
            value: match literal {
                Some(Ok(value)) => Value::Literal(value),
                _ => Value::Format(config.value.clone()),
            },
            action: config.action,
            keep_empty: config.keep_empty,
        }
    }

    /// The format that has to be evaluated, if there is one.
    #[must_use]
    pub fn format(&self) -> Option<&Format> {
        match &self.value {
            Value::Format(format) => Some(format),
            Value::Literal(_) => None,
        }
    }

    /// The value, if it is to be set on the message as it is.
    fn due<M>(
        &self,
        message: &mut M,
        headers: impl Fn(&mut M) -> &mut HeaderMap,
        evaluate: impl Fn(&M, &Format, &mut Vec<u8>),
    ) -> Option<HeaderValue> {
        let value = self
            .value
            .evaluate(|format, text| evaluate(message, format, text))
            .filter(|value| self.keep_empty || !value.is_empty())?;
        let is_present = headers(message).contains_key(&self.name);
        let applies = match self.action {
            AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
            AppendAction::AddIfAbsent => !is_present,
            AppendAction::OverwriteIfExists => is_present,
        };
        applies.then_some(value)
    }

    /// Applies this one alone; the parameters are those of [`Mutations::apply`].
    pub fn apply<M>(
        &self,
        message: &mut M,
        headers: impl Fn(&mut M) -> &mut HeaderMap,
        evaluate: impl Fn(&M, &Format, &mut Vec<u8>),
    ) {
        let Some(value) = self.due(message, &headers, evaluate) else {
            return;
        };
        if self.action.overwrites() {
            headers(message).insert(&self.name, value);
        } else {
            headers(message).append(&self.name, value);
        }
    }
}

impl AppendAction {
    fn overwrites(self) -> bool {
        matches!(self, Self::OverwriteIfExists | Self::OverwriteIfExistsOrAdd)
    }
}

impl Value {
    /// The value; none if it cannot be in a header.
    fn evaluate(&self, write: impl FnOnce(&Format, &mut Vec<u8>)) -> Option<HeaderValue> {
        match self {
            Self::Literal(value) => Some(value.clone()),
            Self::Format(format) => {
                let mut text = Vec::new();
                write(format, &mut text);
                HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
            }
        }
    }
}
