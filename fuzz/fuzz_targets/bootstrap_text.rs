//! Any text as a bootstrap.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| outrigger_fuzz::bootstrap_text(text));
