//! Any text as manifests that are to be injected.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| outrigger_fuzz::manifests(text));
