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
    header::{AppendAction, HeaderMutations},
};

/// The compiled changes of one level in one direction; none if there is nothing to do.
pub(super) type Level = Option<Box<Mutations>>;

/// Compiled [`HeaderMutations`].
#[derive(Debug)]
pub(super) struct Mutations {
    remove: Box<[HeaderName]>,
    add: Box<[Addition]>,
}

#[derive(Debug)]
struct Addition {
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
    pub(super) fn compile(config: &HeaderMutations) -> Level {
        if config.is_empty() {
            return None;
        }
        let add = config.add.iter().map(|addition| {
            let literal = addition.value.literal().map(HeaderValue::from_str);
            Addition {
                name: addition.name.clone(),
                value: match literal {
                    Some(Ok(value)) => Value::Literal(value),
                    _ => Value::Format(addition.value.clone()),
                },
                action: addition.action,
                keep_empty: addition.keep_empty,
            }
        });
        Some(Box::new(Self {
            remove: config.remove.as_slice().into(),
            add: add.collect(),
        }))
    }

    /// Formats that have to be evaluated.
    pub(super) fn formats(&self) -> impl Iterator<Item = &Format> {
        self.add
            .iter()
            .filter_map(|addition| match &addition.value {
                Value::Format(format) => Some(format),
                Value::Literal(_) => None,
            })
    }

    /// Applies the changes to what `headers` gives from `message`; `evaluate` appends the text of a
    /// format for the message as it is.
    pub(super) fn apply<M>(
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
            let value = addition
                .value
                .evaluate(|format, text| evaluate(message, format, text));
            let Some(value) = value.filter(|value| addition.keep_empty || !value.is_empty()) else {
                continue;
            };
            let is_present = headers(message).contains_key(&addition.name);
            let applies = match addition.action {
                AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
                AppendAction::AddIfAbsent => !is_present,
                AppendAction::OverwriteIfExists => is_present,
            };
            if applies {
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
