//! The JSON Patch (RFC 6902) that makes one value of another.
//!
//! A general differ compares lists place by place: a container that is put before the others would rewrite
//! all of them. Here an item is found again by its name, so that audit logs show what was done.

use serde_json::{Value, json};

/// The operations that turn `old` into `new`; none if they are equal.
pub fn diff(old: &Value, new: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(old, new, "", &mut operations);
    operations
}

fn compare(old: &Value, new: &Value, path: &str, operations: &mut Vec<Value>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for key in before.keys().filter(|key| !after.contains_key(*key)) {
                operations.push(json!({"op": "remove", "path": below(path, key)}));
            }
            for (key, value) in after {
                let path = below(path, key);
                match before.get(key) {
                    Some(former) => compare(former, value, &path, operations),
                    None => operations.push(json!({"op": "add", "path": path, "value": value})),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => lists(before, after, path, operations),
        _ if old == new => {}
        _ => operations.push(json!({"op": "replace", "path": path, "value": new})),
    }
}

/// What both lists begin and end with stays; what is between goes, and comes.
fn lists(old: &[Value], new: &[Value], path: &str, operations: &mut Vec<Value>) {
    let same = |(before, after): &(&Value, &Value)| is_same(before, after);
    let head = old.iter().zip(new).take_while(same).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(rest)
        .take_while(same)
        .count();
    for _ in head..old.len() - tail {
        operations.push(json!({"op": "remove", "path": format!("{path}/{head}")}));
    }
    let end = new.len() - tail;
    for (index, value) in new.iter().enumerate().take(end).skip(head) {
        operations.push(json!({"op": "add", "path": format!("{path}/{index}"), "value": value}));
    }
    // From here on every item has the place that it has in the end.
    let heads = old.iter().zip(new).take(head).enumerate();
    let tails = old.iter().skip(old.len() - tail).zip(new.iter().skip(end));
    let tails = tails.enumerate().map(|(index, pair)| (end + index, pair));
    for (index, (before, after)) in heads.chain(tails) {
        compare(before, after, &format!("{path}/{index}"), operations);
    }
}

fn is_same(old: &Value, new: &Value) -> bool {
    match (old.get("name"), new.get("name")) {
        (Some(before), Some(after)) => before == after,
        _ => old == new,
    }
}

fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply(old: &Value, new: &Value) -> Vec<Value> {
        let operations = diff(old, new);
        let patch: json_patch::Patch = serde_json::from_value(operations.clone().into()).unwrap();
        let mut patched = old.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched, *new, "{operations:#?}");
        operations
    }

    #[test]
    fn an_item_put_before_others_leaves_them_alone() {
        let old = json!({"list": [{"name": "a", "port": "x"}, {"name": "b"}], "gone": 1});
        let new =
            json!({"list": [{"name": "s"}, {"name": "a", "port": 2}, {"name": "b"}], "a/b~": {}});
        assert_eq!(
            apply(&old, &new),
            [
                json!({"op": "remove", "path": "/gone"}),
                json!({"op": "add", "path": "/list/0", "value": {"name": "s"}}),
                json!({"op": "replace", "path": "/list/1/port", "value": 2}),
                json!({"op": "add", "path": "/a~1b~0", "value": {}}),
            ]
        );
        assert!(apply(&new, &new).is_empty());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0_u8..3).prop_map(Value::from),
            "[ab~/]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let key = prop_oneof![Just("name".to_owned()), "[ab~/]{0,2}"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::vec((key, inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_any_value_of_any_other(old in value(), new in value()) {
            apply(&old, &new);
        }
    }
}
