//! Words for errors: what a name was probably meant to be, and a short form of a value.

use serde_json::Value;

/// The candidate that a name was probably meant to be.
pub(super) fn nearest<'a, T>(
    name: &str,
    candidates: impl Iterator<Item = (&'a str, T)>,
) -> Option<T> {
    const MAX_CHARS: usize = 200;
    let chars = name.chars().count();
    if chars > MAX_CHARS {
        return None;
    }
    // A third of the letters may differ, not more than four.
    let limit = (chars / 3).clamp(1, 4);
    candidates
        .filter(|(candidate, _)| candidate.len().abs_diff(name.len()) <= limit)
        .map(|(candidate, item)| (strsim::damerau_levenshtein(name, candidate), item))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, item)| item)
}

/// A short form of a value.
pub(super) fn show(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > MAX_CHARS => {
            let start: String = text.chars().take(MAX_CHARS).collect();
            format!("{start:?}…")
        }
        other => other.to_string(),
    }
}
