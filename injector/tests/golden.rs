//! Real manifests and what they become: `golden/NAME.in.yaml` and `golden/NAME.out.yaml`, which has what the
//! command says as comments at its head. `UPDATE_GOLDEN=1` writes the outputs anew; read the difference.

use std::{collections::BTreeSet, fs, path::Path};

use outrigger_injector::{
    manifest::{Action, Format, documents, parse, rewrite},
    spec::Settings,
};

fn values(text: &str) -> Vec<serde_json::Value> {
    documents(text)
        .iter()
        .filter_map(|document| parse(document).expect("what was written can be read"))
        .collect()
}

#[test]
fn manifests_become_what_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let is_update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let settings = Settings::default();
    let names = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".in.yaml").map(str::to_owned)
        })
        .collect::<BTreeSet<_>>();
    assert!(names.len() >= 40, "only {} manifests", names.len());
    let mut wrong = Vec::new();
    for name in names {
        let input = fs::read_to_string(folder.join(format!("{name}.in.yaml"))).unwrap();
        let once = rewrite(&input, Action::Inject(&settings), Format::Yaml);
        let mut output = String::new();
        for item in &once.items {
            for line in item.to_string().lines() {
                output.push_str(&format!("#: {line}\n"));
            }
        }
        if once.is_fine() {
            output.push_str(&once.text);
            // What is injected already stays as it is, and all of it can be taken back.
            let twice = rewrite(&once.text, Action::Inject(&settings), Format::Yaml);
            assert_eq!(twice.text, once.text, "{name}: not idempotent");
            let back = rewrite(&once.text, Action::Uninject, Format::Yaml);
            assert!(back.is_fine(), "{name}: {:?}", back.items);
            let (back, before) = (values(&back.text), values(&input));
            // As text: the order of fields counts too.
            assert_eq!(
                format!("{back:?}"),
                format!("{before:?}"),
                "{name}: not taken back"
            );
        }
        let path = folder.join(format!("{name}.out.yaml"));
        if is_update {
            fs::write(&path, &output).unwrap();
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&output) {
            wrong.push(format!("{name}:\n{output}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "differ from their .out.yaml:\n{}",
        wrong.join("\n")
    );
}
