//! Route tables and requests that meet.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    |input: (Vec<Vec<Vec<u8>>>, Vec<u8>, Vec<u8>)| outrigger_fuzz::route_table(
        &input.0, &input.1, &input.2
    )
);
