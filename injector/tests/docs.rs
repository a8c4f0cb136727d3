//! The documentation names every annotation with its values.

use std::{fs, path::Path};

use outrigger_injector::spec::ANNOTATIONS;

#[test]
fn every_annotation_is_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/injection.md");
    let page = fs::read_to_string(page).unwrap();
    for annotation in ANNOTATIONS {
        let row = format!("| `{}` | {} |", annotation.name, annotation.values);
        assert!(page.contains(&row), "missing in docs/injection.md: {row}");
    }
    let rows = page.split("## Annotations of pods").nth(1).unwrap();
    let rows = rows.split("## ").next().unwrap();
    let documented = rows.lines().filter(|line| line.starts_with("| `")).count();
    // The head has backquotes too.
    assert_eq!(documented, ANNOTATIONS.len() + 1);
}
