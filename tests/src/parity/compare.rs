//! Finds every place where two observations differ.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::outcome::Observed;
use super::share;

/// One difference: its place, Envoy's value and ours.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) at: String,
    envoy: String,
    ours: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  {}\n    envoy: {}\n    ours:  {}",
            self.at, self.envoy, self.ours
        )
    }
}

/// All differences, in order of their places.
pub(super) fn compare(envoy: &Observed, ours: &Observed) -> Vec<Difference> {
    let mut found = Vec::new();
    let as_json = |observed: &Observed| {
        serde_json::to_value(observed).expect("maps with string keys always serialise")
    };
    walk(
        String::new(),
        Some(&as_json(envoy)),
        Some(&as_json(ours)),
        &mut found,
    );
    for (index, (theirs, mine)) in envoy.requests.iter().zip(&ours.requests).enumerate() {
        if let (Some(theirs), Some(mine)) = (&theirs.chosen, &mine.chosen)
            && !share::same(theirs, mine)
        {
            found.push(Difference {
                at: format!("requests[{index}].chosen"),
                envoy: format!("{:?}", theirs.counts),
                ours: format!("{:?}", mine.counts),
            });
        }
    }
    found
}

fn walk(at: String, envoy: Option<&Value>, ours: Option<&Value>, found: &mut Vec<Difference>) {
    match (envoy, ours) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let dot = if at.is_empty() { "" } else { "." };
                walk(
                    format!("{at}{dot}{key}"),
                    left.get(key),
                    right.get(key),
                    found,
                );
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            for index in 0..left.len().max(right.len()) {
                walk(
                    format!("{at}[{index}]"),
                    left.get(index),
                    right.get(index),
                    found,
                );
            }
        }
        (left, right) if left == right => {}
        (left, right) => found.push(Difference {
            at,
            envoy: show(left),
            ours: show(right),
        }),
    }
}

fn show(value: Option<&Value>) -> String {
    value.map_or_else(|| "(absent)".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_named() {
        let mut found = Vec::new();
        let left = json!({"a": [{"b": 1}, 2], "same": true});
        let right = json!({"a": [{"b": 3}], "same": true, "more": null});
        walk(String::new(), Some(&left), Some(&right), &mut found);
        let places: Vec<&str> = found
            .iter()
            .map(|difference| difference.at.as_str())
            .collect();
        assert_eq!(places, ["a[0].b", "a[1]", "more"]);
    }
}
