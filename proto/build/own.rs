//! Compiles Outrigger's own messages, in `proto/`, which refer to Envoy's.
//!
//! The compiler is itself Rust, so that building needs no `protoc`. Types of Envoy's API are those of
//! `envoy-types`, and their descriptors stand in for the sources that `import` names.

use std::path::{Path, PathBuf};

use prost_reflect::DescriptorPool;
use protox::{
    Compiler,
    file::{ChainFileResolver, DescriptorSetFileResolver, IncludeFileResolver},
};

/// Where the sources are, below this package.
pub(crate) const SOURCES: &str = "proto";

/// Packages whose Rust types exist already.
const FOREIGN: [(&str, &str); 6] = [
    (".envoy", "::envoy_types::pb::envoy"),
    (".google", "::envoy_types::pb::google"),
    (".udpa", "::envoy_types::pb::udpa"),
    (".validate", "::envoy_types::pb::validate"),
    (".xds", "::envoy_types::pb::xds"),
    (".cel", "::envoy_types::pb::cel"),
];

/// Writes the Rust types and adds the descriptors, with their options, to the pool.
pub(crate) fn compile(pool: &mut DescriptorPool, envoy: &[u8]) {
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(SOURCES.into()));
    let known = DescriptorSetFileResolver::decode(envoy)
        .expect("the pool was read from the same descriptor set");
    resolver.add(known);

    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_source_info(true);
    for file in sources(Path::new(SOURCES)) {
        if let Err(err) = compiler.open_file(&file) {
            panic!("{}: {err:?}", file.display());
        }
    }
    // The imports are in the pool already.
    pool.decode_file_descriptor_set(compiler.encode_file_descriptor_set().as_slice())
        .unwrap_or_else(|err| panic!("{SOURCES}: {err}"));

    let mut config = prost_build::Config::new();
    config
        .compile_well_known_types()
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        // Maps with an order, so that what is made from them does not change between runs.
        .btree_map(["."]);
    for (package, module) in FOREIGN {
        config.extern_path(package, module);
    }
    compiler.include_imports(true);
    config
        .compile_fds(compiler.file_descriptor_set())
        .unwrap_or_else(|err| panic!("{SOURCES}: {err}"));
}

/// All `.proto` files below a directory, sorted.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .unwrap_or_else(|err| panic!("{}: {err}", directory.display()));
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "proto") {
            files.push(path);
        }
    }
    files
}
