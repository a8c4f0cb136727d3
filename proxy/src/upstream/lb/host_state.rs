//! What balancing knows of one host; shared by all workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{clock, peak_ewma::Ewma};

/// Part of a [`Host`](crate::upstream::Host).
#[derive(Debug)]
pub struct HostBalance {
    /// When slow start began, by [`clock`]; zero before the host was healthy for the first time.
    started: AtomicU64,
    /// Latency, for peak-EWMA.
    pub(crate) ewma: Ewma,
}

impl Default for HostBalance {
    fn default() -> Self {
        Self {
            started: AtomicU64::new(0),
            ewma: Ewma::new(clock::now()),
        }
    }
}

impl HostBalance {
    /// Begins slow start anew: an active health check found the host healthy after it was not.
    pub fn restart(&self) {
        self.started.store(clock::now(), Relaxed);
    }

    /// The host is healthy: slow start begins if this is the first time.
    pub(crate) fn note_healthy(&self) {
        self.begin_at(clock::now());
    }

    pub(super) fn begin_at(&self, now: u64) {
        // Whoever was first is right: a lost race changes nothing.
        let _first = self.started.compare_exchange(0, now, Relaxed, Relaxed);
    }

    #[cfg(test)]
    pub(super) fn begin_again_at(&self, now: u64) {
        self.started.store(now, Relaxed);
    }

    /// How long the host has been healthy, milliseconds; none if it never was.
    pub(super) fn age(&self, now: u64) -> Option<u64> {
        match self.started.load(Relaxed) {
            0 => None,
            started => Some(now.saturating_sub(started)),
        }
    }
}
