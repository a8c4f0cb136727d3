//! Makes one test function per case file, so that libtest lists, filters and runs cases by name,
//! and finds the descriptor set that lets the kit turn YAML into any Envoy message.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (folder, file) in [("parity/cases", "parity_cases.rs"), ("bad", "bad_cases.rs")] {
        println!("cargo::rerun-if-changed={folder}");
        fs::write(out.join(file), test_functions(Path::new(folder))).expect("OUT_DIR is writable");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let descriptors = envoy_descriptors();
    println!(
        "cargo::rustc-env=ENVOY_DESCRIPTORS={}",
        descriptors.display()
    );
}

fn test_functions(folder: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".yaml")?.to_owned()))
        .collect();
    names.sort();
    names
        .iter()
        .map(|name| format!("#[test]\nfn {name}() {{\n    run(\"{name}\");\n}}\n"))
        .collect()
}

/// `envoy-types` ships the descriptor set of all of Envoy's messages beside its sources.
fn envoy_descriptors() -> PathBuf {
    // Only this target's packages are on the machine; asking for all would go to the network.
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let metadata = cargo_metadata::MetadataCommand::new()
        .other_options(["--filter-platform", &target].map(str::to_owned).to_vec())
        .exec()
        .expect("cargo metadata runs inside a build");
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "envoy-types")
        .expect("envoy-types is a dependency");
    let root = package
        .manifest_path
        .parent()
        .expect("a manifest lies in a folder");
    root.join("src/generated/types.bin").into()
}
