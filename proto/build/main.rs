//! Turns the descriptor sets of `envoy-types` and of our own messages, as far as they are reachable from the types named in
//! `build/extensions.rs`, into a static table, with the protoc-gen-validate options in it.
//!
//! Parsed at run time, the whole set would cost about 48 MB of heap, and its reachable part still
//! 10 MB: too much for a sidecar.

#![allow(
    clippy::print_stdout,
    reason = "a build script speaks to cargo on its output"
)]

mod extensions;
mod own;
mod reach;
mod rules;
mod table;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{CargoOpt, MetadataCommand};
use prost::Message;
use prost_reflect::{DescriptorPool, prost_types::FileDescriptorSet};

fn main() {
    // Cargo does not run this again when only the version of envoy-types changes in Cargo.lock:
    // `touch proto/build/main.rs` after such a change.
    let types = descriptor_file();
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed={}", own::SOURCES);
    println!("cargo::rerun-if-changed={}", types.display());

    let bytes = fs::read(&types).unwrap_or_else(|err| panic!("{}: {err}", types.display()));
    let mut pool = DescriptorPool::decode(bytes.as_slice())
        .unwrap_or_else(|err| panic!("{}: {err}", types.display()));
    own::compile(&mut pool, &bytes);
    let roots = extensions::RESOURCES
        .iter()
        .chain(extensions::EXTENSIONS)
        .chain(extensions::OWN)
        .copied();
    let kept = reach::reachable(&pool, roots);

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    write(&out.join("leaves.bin"), &leaves(&pool));
    write(&out.join("table.rs"), table::generate(&kept).as_bytes());
}

/// The well-known types that are read and written as a whole.
fn leaves(pool: &DescriptorPool) -> Vec<u8> {
    const FILES: [&str; 5] = [
        "google/protobuf/duration.proto",
        "google/protobuf/empty.proto",
        "google/protobuf/struct.proto",
        "google/protobuf/timestamp.proto",
        "google/protobuf/wrappers.proto",
    ];
    let file: Vec<_> = pool
        .file_descriptor_protos()
        .filter(|file| FILES.contains(&file.name()))
        .cloned()
        .collect();
    assert_eq!(
        file.len(),
        FILES.len(),
        "a file of the well-known types is missing"
    );
    FileDescriptorSet { file }.encode_to_vec()
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
