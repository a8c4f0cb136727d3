//! Any bytes as an OTLP export into a store.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| outrigger_fuzz::otlp(bytes));
