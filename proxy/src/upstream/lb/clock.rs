//! Time for balancing: milliseconds since the first look at it, in one word, so that workers share it in
//! atomics.

use std::{sync::OnceLock, time::Instant};

/// Now; never zero.
pub(crate) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).map_or(u64::MAX, |millis| millis + 1)
}
