//! The order of header changes.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::mutate::Mutations;
use crate::config::{
    format::{Format, Piece},
    header::{AppendAction, HeaderAddition, HeaderMutations},
};

fn add(name: &'static str, value: &str, action: AppendAction) -> HeaderAddition {
    HeaderAddition {
        name: HeaderName::from_static(name),
        value: Format::parse(value).unwrap(),
        action,
        keep_empty: false,
    }
}

fn changed(mutations: HeaderMutations, before: &[(&'static str, &'static str)]) -> Vec<String> {
    let mut headers = HeaderMap::new();
    for (name, value) in before {
        headers.append(*name, HeaderValue::from_static(value));
    }
    if let Some(mutations) = Mutations::compile(&mutations) {
        mutations.apply(
            &mut headers,
            |headers| headers,
            // Stands in for operators: how many headers they saw.
            |headers, format, text| {
                let pieces = format.pieces().iter();
                if pieces
                    .clone()
                    .any(|piece| matches!(piece, Piece::Operator(..)))
                {
                    text.extend_from_slice(headers.len().to_string().as_bytes());
                }
            },
        );
    }
    let mut all: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    all.sort();
    all
}

use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};

#[test]
fn removals_come_first() {
    let mutations = HeaderMutations {
        remove: vec![HeaderName::from_static("a")],
        add: vec![add("a", "new", AppendIfExistsOrAdd)],
    };
    assert_eq!(
        changed(mutations, &[("a", "1"), ("a", "2"), ("b", "3")]),
        ["a: new", "b: 3"]
    );
}

#[test]
fn overwrites_come_before_additions() {
    let mutations = HeaderMutations {
        remove: Vec::new(),
        add: vec![
            add("a", "added", AppendIfExistsOrAdd),
            add("a", "set", OverwriteIfExistsOrAdd),
        ],
    };
    assert_eq!(changed(mutations, &[("a", "old")]), ["a: added", "a: set"]);
}

#[test]
fn actions_look_at_the_headers_as_they_were() {
    let mutations = HeaderMutations {
        remove: Vec::new(),
        add: vec![
            add("a", "1", AddIfAbsent),
            add("a", "2", AddIfAbsent),
            add("b", "no", AddIfAbsent),
            add("b", "set", OverwriteIfExists),
            add("c", "no", OverwriteIfExists),
            add("n", "%PROTOCOL%", AppendIfExistsOrAdd),
            add("m", "%PROTOCOL%", AppendIfExistsOrAdd),
        ],
    };
    let after = changed(mutations, &[("b", "old")]);
    assert_eq!(after, ["a: 1", "a: 2", "b: set", "m: 1", "n: 1"]);
}

#[test]
fn empty_values_are_left_out_unless_kept() {
    let mut kept = add("kept", "", AppendIfExistsOrAdd);
    kept.keep_empty = true;
    let mutations = HeaderMutations {
        remove: Vec::new(),
        add: vec![add("left-out", "", AppendIfExistsOrAdd), kept],
    };
    assert_eq!(changed(mutations, &[]), ["kept: "]);
}

#[test]
fn nothing_to_do_compiles_to_nothing() {
    assert!(Mutations::compile(&HeaderMutations::default()).is_none());
}
