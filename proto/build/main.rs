//! Prunes the descriptor set of `envoy-types` to the types named in `build/extensions.rs`, and turns
//! their protoc-gen-validate options into a static table.
//!
//! The whole set costs about 48 MB of heap once parsed, too much for a sidecar.

mod extensions;
mod prune;
mod rules;
mod table;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{CargoOpt, MetadataCommand};
use prost_reflect::DescriptorPool;

fn main() {
    let types = descriptor_file();
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed={}", types.display());

    let bytes = fs::read(&types).unwrap_or_else(|err| panic!("{}: {err}", types.display()));
    let pool = DescriptorPool::decode(bytes.as_slice())
        .unwrap_or_else(|err| panic!("{}: {err}", types.display()));
    let roots = extensions::RESOURCES
        .iter()
        .chain(extensions::EXTENSIONS)
        .copied();
    let kept = prune::reachable(&pool, roots);

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    write(&out.join("pool.bin"), &prune::prune(&pool, &kept));
    write(&out.join("table.rs"), table::generate(&kept).as_bytes());
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}

/// Where the package `envoy-types` keeps the descriptor set of its sources.
fn descriptor_file() -> PathBuf {
    let platform = env::var("TARGET").expect("cargo sets TARGET");
    let metadata = |more: &[&str]| {
        // Without a platform, the metadata would need packages of every other platform as well.
        let mut options = vec!["--filter-platform".to_owned(), platform.clone()];
        options.extend(more.iter().map(ToString::to_string));
        MetadataCommand::new()
            .features(CargoOpt::SomeFeatures(Vec::new()))
            .other_options(options)
            .exec()
    };
    // Offline first: the package has been unpacked to build this crate. A registry is asked only when
    // another member of the workspace has packages that this build did not need.
    let metadata = metadata(&["--offline"])
        .or_else(|_| metadata(&[]))
        .unwrap_or_else(|err| panic!("cargo metadata, to find the package envoy-types: {err}"));
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "envoy-types")
        .expect("envoy-types is a dependency of this package");
    let directory = package
        .manifest_path
        .parent()
        .expect("a manifest is in a directory");
    directory.join("src/generated/types.bin").into()
}
