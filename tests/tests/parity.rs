//! Each case of `parity/cases` on real Envoy and on `outrigger-proxy`.

use outrigger_tests::{block_on, parity};

include!(concat!(env!("OUT_DIR"), "/parity_cases.rs"));

fn run(name: &str) {
    if let Err(error) = block_on(parity::run(name)) {
        panic!("{name}: {error:#}");
    }
}

#[test]
fn every_documented_difference_is_shown_by_a_case() {
    if let Err(error) = parity::check_documentation() {
        panic!("{error:#}");
    }
}
