//! One count with its threshold.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::telemetry::stats::Gauge;

/// One count with its threshold.
#[derive(Debug)]
#[repr(align(64))]
pub struct Resource {
    current: AtomicU64,
    max: AtomicU32,
    is_open: AtomicBool,
    open: Gauge,
    remaining: Option<Gauge>,
    trips: AtomicU64,
    /// In milliseconds since 1970; zero: never.
    last_trip: AtomicU64,
}

/// What is used of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The limit's name in the configuration.
    pub name: &'static str,
    /// How many there are.
    pub used: u64,
    /// How many there may be.
    pub limit: u64,
    /// How often it refused something.
    pub trips: u64,
    /// When it last did.
    pub last_trip: Option<SystemTime>,
}

impl Resource {
    pub(super) fn new(max: u32, open: Gauge, remaining: Option<Gauge>) -> Self {
        if let Some(remaining) = &remaining {
            remaining.add(i64::from(max));
        }
        Self {
            current: AtomicU64::new(0),
            max: AtomicU32::new(max),
            is_open: AtomicBool::new(false),
            open,
            remaining,
            trips: AtomicU64::new(0),
            last_trip: AtomicU64::new(0),
        }
    }

    pub(super) fn update(&self, max: u32) {
        let before = self.max.swap(max, Relaxed);
        if let Some(remaining) = &self.remaining {
            remaining.add(i64::from(max) - i64::from(before));
        }
        self.note(self.current.load(Relaxed));
    }

    /// Whether one more is within the threshold.
    #[must_use]
    pub fn can_create(&self) -> bool {
        self.current.load(Relaxed) < u64::from(self.max.load(Relaxed))
    }

    /// How many there are.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.current.load(Relaxed)
    }

    /// The threshold.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    /// How it stands.
    #[must_use]
    pub fn usage(&self, name: &'static str) -> Usage {
        let last = self.last_trip.load(Relaxed);
        Usage {
            name,
            used: self.current(),
            limit: u64::from(self.max()),
            trips: self.trips.load(Relaxed),
            last_trip: (last > 0).then(|| UNIX_EPOCH + Duration::from_millis(last)),
        }
    }

    /// Notes that something was refused.
    pub(crate) fn trip(&self) {
        self.trips.fetch_add(1, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.last_trip.store(millis, Relaxed);
    }

    /// Counts one, whatever the threshold.
    pub(crate) fn acquire(&self) {
        let now = self.add_one();
        self.note(now);
    }

    /// Counts one if it is within the threshold, else notes the refusal.
    pub(crate) fn try_acquire(&self) -> bool {
        let within = self.can_create();
        if within {
            self.acquire();
        } else {
            self.trip();
        }
        within
    }

    /// Counts one less.
    pub(crate) fn release(&self) {
        let now = self.take_one();
        self.note(now);
    }

    pub(super) fn add_one(&self) -> u64 {
        if let Some(remaining) = &self.remaining {
            remaining.dec();
        }
        self.current.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn take_one(&self) -> u64 {
        if let Some(remaining) = &self.remaining {
            remaining.inc();
        }
        self.current.fetch_sub(1, Relaxed) - 1
    }

    fn note(&self, current: u64) {
        self.note_open(current >= u64::from(self.max.load(Relaxed)));
    }

    /// Shows whether the limit is reached.
    pub(super) fn note_open(&self, open: bool) {
        if self.is_open.load(Relaxed) != open && self.is_open.swap(open, AcqRel) != open {
            if open {
                self.open.inc();
            } else {
                self.open.dec();
            }
        }
    }
}
