//! Any text as a file of mesh objects: objects or findings, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    drop(outrigger_mesh::parse::parse_file("fuzz.yaml", text));
});
