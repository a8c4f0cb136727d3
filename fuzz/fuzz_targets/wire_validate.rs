//! Any bytes as any resource.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| outrigger_fuzz::wire_validate(bytes));
