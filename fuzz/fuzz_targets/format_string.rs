//! Any text as an access-log format.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| outrigger_fuzz::format_string(text));
