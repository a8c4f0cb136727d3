//! Any bytes as a resource of one type.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| outrigger_fuzz::xds_resource(input.0, input.1));
