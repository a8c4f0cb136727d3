//! A YAML value → a typed object, with the path of what does not fit.

use serde::de::DeserializeOwned;
use serde_norway::Value;

use super::{Checks, finding::Problem};

/// Deserialises `value`; unknown fields are errors, all of them reported.
pub(super) fn typed<T: DeserializeOwned>(value: Value, checks: &mut Checks) -> Option<T> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(ignored_path(&path));
    let deserializer = serde_ignored::Deserializer::new(value, &mut note);
    let result = T::deserialize(serde_path_to_error::Deserializer::new(
        deserializer,
        &mut track,
    ));
    let result = match result {
        Ok(object) => Some(object),
        Err(error) => {
            let error = serde_path_to_error::Error::new(track.path(), error);
            checks.errors.push(type_error(&error));
            None
        }
    };
    for path in unknown {
        checks.error(path, "unknown field");
    }
    result
}

/// As a problem with its path.
pub(super) fn type_error(error: &serde_path_to_error::Error<serde_norway::Error>) -> Problem {
    let path = error.path().to_string();
    let path = if path == "." { String::new() } else { path };
    Problem::new(path, error.inner().to_string())
}

/// `spec.rules[0].name`, where serde_ignored would write `spec.rules.0.?.name`.
fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        Path::Map { parent, key } => {
            let parent = ignored_path(parent);
            if parent.is_empty() {
                key.clone()
            } else {
                format!("{parent}.{key}")
            }
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => ignored_path(parent),
    }
}
