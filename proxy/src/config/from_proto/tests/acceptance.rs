//! The cases of `tests/acceptance`, of which the whole-system tests prove that Envoy treats them as they
//! say.

#[path = "../../../../../tests/acceptance/case.rs"]
mod case;

use crate::{
    bootstrap::{LoadError, Overrides, load},
    xds,
};

const CASES: &str = include_str!("../../../../../tests/acceptance/cases.yaml");

/// What is said of a bootstrap, a line for each error.
fn errors(text: &str) -> Vec<String> {
    let errors = match load(text, &Overrides::default()) {
        // The files that it names are looked for when it is in order otherwise.
        Ok(bootstrap) => xds::check_files(&bootstrap).err().unwrap_or_default(),
        Err(LoadError::Text(error)) => return vec![error.to_string()],
        Err(LoadError::Content(errors)) => errors,
    };
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn bootstraps_are_accepted_and_refused_as_the_cases_say() {
    let cases = outrigger_proto::parse_yaml(CASES).unwrap();
    let cases = case::read(&cases, "/dev/null");
    assert!(cases.len() >= 60);
    let mut wrong = Vec::new();
    for case in &cases {
        let found = errors(&case.bootstrap.to_string());
        let is_said = |line: &String| found.iter().any(|error| error.starts_with(line.as_str()));
        if found.is_empty() != case.says.is_empty() || !case.says.iter().all(is_said) {
            wrong.push(serde_json::json!({
                "name": case.name, "envoy_accepts": case.envoy_accepts, "found": found,
            }));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}",
        serde_json::to_string_pretty(&wrong).unwrap()
    );
}
