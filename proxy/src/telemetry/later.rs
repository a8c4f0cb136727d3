//! A moment later, on the same thread: how each thread's buffers are flushed.

use std::time::Duration;

/// Runs `flush` on this thread after `delay`; false outside a runtime, where nobody would.
pub(super) fn later(delay: Duration, flush: fn()) -> bool {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return false;
    };
    runtime.spawn(async move {
        tokio::time::sleep(delay).await;
        flush();
    });
    true
}
