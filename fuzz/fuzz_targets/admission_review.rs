//! Any bytes as the body of an AdmissionReview.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| outrigger_fuzz::admission_review(bytes));
