//! Any text as a regular expression.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| outrigger_fuzz::regex(text));
