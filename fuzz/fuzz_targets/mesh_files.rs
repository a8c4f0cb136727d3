//! Any text as a file of mesh objects.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| outrigger_fuzz::mesh_files(text));
