//! Any text: a bootstrap or errors, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_proxy::bootstrap::{Overrides, load};

fuzz_target!(|text: &str| {
    drop(load(text, &Overrides::default()));
});
