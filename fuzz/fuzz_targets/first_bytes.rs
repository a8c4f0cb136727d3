//! Any bytes as the first of a connection.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| outrigger_fuzz::first_bytes(bytes));
