//! Readable YAML in, readable YAML out. Each folder of `tests/golden` holds `mesh.yaml` (objects),
//! `node.yaml` (a proxy) and `expected.yaml`: the conditions of every object and every resource that
//! the proxy gets. `UPDATE_GOLDEN=1 cargo test -p outrigger-mesh` writes the last one; read the
//! difference before you commit it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

use std::{fs, path::Path, sync::Arc};

use outrigger_mesh::{Model, Translator, parse, scope::Node};
use outrigger_proto::{any_to_value, envoy::config::core::v3, message_from_value, parse_yaml};
use serde_json::{Map, Value, json};

#[test]
fn golden_meshes_translate_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    let mut failures = Vec::new();
    for folder in folders {
        let actual = serde_norway::to_string(&translate(&folder)).unwrap();
        let file = folder.join("expected.yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &actual).unwrap();
        } else if fs::read_to_string(&file).unwrap_or_default() != actual {
            failures.push(format!("{} differs; now it is\n{actual}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn translate(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("mesh.yaml")).unwrap();
    let parsed = parse::parse_file("mesh.yaml", &text);
    let findings: Vec<_> = parsed.findings.iter().map(ToString::to_string).collect();
    assert!(parsed.is_valid(), "{folder:?}: {findings:#?}");
    let objects = parsed.objects.into_iter().map(|located| located.object);
    let model = Arc::new(Model::build(1, objects));
    let node = fs::read_to_string(folder.join("node.yaml")).unwrap();
    let node: v3::Node = message_from_value(parse_yaml(&node).unwrap()).unwrap();
    let node = Node::from_proto(&node).unwrap();
    let statuses: Map<String, Value> = model
        .statuses()
        .iter()
        .map(|(object, status)| (object.to_string(), serde_json::to_value(status).unwrap()))
        .collect();
    let resources = Translator::new(Arc::clone(&model), None).translate(&node);
    let resources: Vec<Value> = resources.to_any().iter().map(any_to_value).collect();
    json!({"findings": findings, "statuses": statuses, "resources": resources})
}
