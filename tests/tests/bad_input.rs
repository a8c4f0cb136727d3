//! The bad-input corpus of `bad`.

use outrigger_tests::{bad, block_on};

include!(concat!(env!("OUT_DIR"), "/bad_cases.rs"));

fn run(name: &str) {
    if let Err(error) = block_on(bad::check_base(name)) {
        panic!("{name}: {error:#}");
    }
    if let Err(error) = block_on(bad::run(name)) {
        panic!("{name}: {error:#}");
    }
}

#[test]
fn the_corpus_is_large_enough() {
    let count = bad::count().expect("the corpus can be read");
    assert!(count >= 40, "only {count} entries");
}
