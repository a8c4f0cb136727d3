//! Any text as an access-log format.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_proxy::config::format::Format;

fuzz_target!(|text: &str| {
    if let Ok(format) = Format::parse(text)
        && !text.contains('%')
    {
        // Without operators a format is its own text.
        assert_eq!(format.literal().unwrap_or_default(), text);
    }
});
