//! What is counted of one host. Workers add, the main thread reads, and keeps here what it decided: a
//! host outlives the versions of its cluster.

use std::{
    ops::BitOrAssign,
    sync::{
        LazyLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Averages, Outcome, http_status};

/// What made a host an outlier; numbered as Envoy's `OutlierEjectionType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    SuccessRate,
    ConsecutiveLocalOriginFailure,
    SuccessRateLocalOrigin,
    FailurePercentage,
    FailurePercentageLocalOrigin,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayFailure,
        Self::SuccessRate,
        Self::ConsecutiveLocalOriginFailure,
        Self::SuccessRateLocalOrigin,
        Self::FailurePercentage,
        Self::FailurePercentageLocalOrigin,
    ];

    /// As statistics name it.
    pub(super) fn stat_name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::SuccessRate => "success_rate",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRateLocalOrigin => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::FailurePercentageLocalOrigin => "local_origin_failure_percentage",
        }
    }

    /// As the event log names it.
    pub(super) fn event_name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "CONSECUTIVE_5XX",
            Self::ConsecutiveGatewayFailure => "CONSECUTIVE_GATEWAY_FAILURE",
            Self::SuccessRate => "SUCCESS_RATE",
            Self::ConsecutiveLocalOriginFailure => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            Self::SuccessRateLocalOrigin => "SUCCESS_RATE_LOCAL_ORIGIN",
            Self::FailurePercentage => "FAILURE_PERCENTAGE",
            Self::FailurePercentageLocalOrigin => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        }
    }

    fn is_local(self) -> bool {
        matches!(
            self,
            Self::ConsecutiveLocalOriginFailure
                | Self::SuccessRateLocalOrigin
                | Self::FailurePercentageLocalOrigin
        )
    }
}

/// What a worker tells the main thread of a host; several at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trip(u8);

impl Trip {
    pub(super) const NONE: Self = Self(0);
    pub(super) const CONSECUTIVE_5XX: Self = Self(1);
    pub(super) const GATEWAY_FAILURE: Self = Self(2);
    pub(super) const LOCAL_ORIGIN_FAILURE: Self = Self(4);
    pub(super) const PROBE_SUCCEEDED: Self = Self(8);
    pub(super) const PROBE_FAILED: Self = Self(16);

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOrAssign for Trip {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How far the return of an ejected host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Probe {
    /// Not ejected, or its time is not over.
    None,
    /// The next request goes to it.
    Wanted,
    /// One request is under way.
    Sent,
    /// It was already at the last sweep.
    Overdue,
}

impl Probe {
    fn of(code: u8) -> Self {
        match code {
            1 => Self::Wanted,
            2 => Self::Sent,
            3 => Self::Overdue,
            _ => Self::None,
        }
    }
}

/// A value of two halves, written by the main thread and shown by `/clusters`; a reader may meet a half
/// of each of two sweeps.
#[derive(Debug)]
pub(super) struct Shared<T> {
    first: AtomicU64,
    second: AtomicU64,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl Shared<Averages> {
    pub(super) fn new() -> Self {
        let unknown = AtomicU64::new((-1.0_f64).to_bits());
        Self {
            first: AtomicU64::new(unknown.load(Relaxed)),
            second: unknown,
            kind: std::marker::PhantomData,
        }
    }

    pub(super) fn load(&self) -> Averages {
        Averages {
            mean: f64::from_bits(self.first.load(Relaxed)),
            threshold: f64::from_bits(self.second.load(Relaxed)),
        }
    }

    pub(super) fn store(&self, averages: Averages) {
        self.first.store(averages.mean.to_bits(), Relaxed);
        self.second.store(averages.threshold.to_bits(), Relaxed);
    }
}

/// Requests of one interval: all in the upper half, those that went well in the lower one.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

const ONE: u64 = 1 << 32;

impl Bucket {
    fn count(&self, is_success: bool) {
        self.0.fetch_add(ONE + u64::from(is_success), Relaxed);
    }

    /// Ends an interval: all, and those that went well.
    fn take(&self) -> (u64, u64) {
        let value = self.0.swap(0, Relaxed);
        (value / ONE, value % ONE)
    }
}

/// The counts of one host, and what was decided about it.
#[derive(Debug)]
pub struct Monitor {
    consecutive_5xx: AtomicU32,
    consecutive_gateway_failure: AtomicU32,
    consecutive_local_origin_failure: AtomicU32,
    external: Bucket,
    local: Bucket,
    trips: AtomicU8,
    probe: AtomicU8,
    // The rest is written by the main thread only.
    rate: AtomicU64,
    local_rate: AtomicU64,
    kind: AtomicU8,
    ejections: AtomicU32,
    backoff: AtomicU32,
    ejected_at: AtomicU64,
    unejected_at: AtomicU64,
    jitter: AtomicU64,
}

impl Default for Monitor {
    fn default() -> Self {
        let unknown = || AtomicU64::new((-1.0_f64).to_bits());
        Self {
            consecutive_5xx: AtomicU32::default(),
            consecutive_gateway_failure: AtomicU32::default(),
            consecutive_local_origin_failure: AtomicU32::default(),
            external: Bucket::default(),
            local: Bucket::default(),
            trips: AtomicU8::default(),
            probe: AtomicU8::default(),
            rate: unknown(),
            local_rate: unknown(),
            kind: AtomicU8::default(),
            ejections: AtomicU32::default(),
            backoff: AtomicU32::default(),
            ejected_at: AtomicU64::default(),
            unejected_at: AtomicU64::default(),
            jitter: AtomicU64::default(),
        }
    }
}

/// Sets a counter to zero; writes only where it is not, so that good hosts' lines stay shared.
fn reset(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

/// Workers' side.
impl Monitor {
    pub(super) fn success(&self) {
        self.external.count(true);
        reset(&self.consecutive_5xx);
        reset(&self.consecutive_gateway_failure);
    }

    pub(super) fn failure(&self, is_gateway: bool, limit_5xx: u32, limit_gateway: u32) -> Trip {
        self.external.count(false);
        let mut trips = Trip::NONE;
        if is_gateway {
            if self.consecutive_gateway_failure.fetch_add(1, Relaxed) + 1 == limit_gateway {
                trips |= Trip::GATEWAY_FAILURE;
            }
        } else {
            reset(&self.consecutive_gateway_failure);
        }
        if self.consecutive_5xx.fetch_add(1, Relaxed) + 1 == limit_5xx {
            trips |= Trip::CONSECUTIVE_5XX;
        }
        trips
    }

    pub(super) fn local_success(&self) {
        self.local.count(true);
        reset(&self.consecutive_local_origin_failure);
    }

    pub(super) fn local_failure(&self, limit: u32) -> Trip {
        self.local.count(false);
        match self.consecutive_local_origin_failure.fetch_add(1, Relaxed) + 1 == limit {
            true => Trip::LOCAL_ORIGIN_FAILURE,
            false => Trip::NONE,
        }
    }

    pub(super) fn trip(&self, trips: Trip) {
        self.trips.fetch_or(trips.0, Relaxed);
    }

    /// Whether the one request that decides over the host's return is under way.
    pub(super) fn is_probed(&self) -> bool {
        matches!(self.probe(), Probe::Sent | Probe::Overdue)
    }

    /// What an outcome says of the host's return, if anything.
    pub(super) fn probed(&self, outcome: Outcome) -> Trip {
        let kind = self.kind();
        let is_fine = match outcome {
            Outcome::Connected if kind.is_local() => true,
            Outcome::Connected => return Trip::NONE,
            // Whoever could not be reached answers.
            Outcome::Http(_) | Outcome::Grpc(_) if kind.is_local() => true,
            Outcome::Http(status) => is_good(kind, status.as_u16()),
            Outcome::Grpc(status) => is_good(kind, http_status(status)),
            Outcome::LocalConnectFailed | Outcome::LocalTimeout => false,
        };
        match is_fine {
            true => Trip::PROBE_SUCCEEDED,
            false => Trip::PROBE_FAILED,
        }
    }

    /// Takes the one request for a host whose time is over; true for one caller.
    pub(in crate::upstream) fn take_probe(&self) -> bool {
        let (from, to) = (Probe::Wanted as u8, Probe::Sent as u8);
        self.probe.load(Relaxed) == from
            && self
                .probe
                .compare_exchange(from, to, Relaxed, Relaxed)
                .is_ok()
    }
}

fn is_good(kind: Kind, status: u16) -> bool {
    match kind {
        Kind::ConsecutiveGatewayFailure => !matches!(status, 502..=504),
        _ => status < 500,
    }
}

/// The main thread's side.
impl Monitor {
    /// Whether one request may go to the host to see if it is well again.
    pub(in crate::upstream) fn wants_probe(&self) -> bool {
        self.probe() != Probe::None
    }

    pub(super) fn probe(&self) -> Probe {
        Probe::of(self.probe.load(Relaxed))
    }

    pub(super) fn set_probe(&self, probe: Probe) {
        self.probe.store(probe as u8, Relaxed);
    }

    pub(super) fn take_trips(&self) -> Trip {
        Trip(self.trips.swap(0, Relaxed))
    }

    pub(super) fn reset_consecutive(&self, kind: Kind) {
        match kind {
            Kind::Consecutive5xx => reset(&self.consecutive_5xx),
            Kind::ConsecutiveGatewayFailure => reset(&self.consecutive_gateway_failure),
            Kind::ConsecutiveLocalOriginFailure => {
                reset(&self.consecutive_local_origin_failure);
            }
            _ => {}
        }
    }

    /// Ends an interval: the host's answers, and the attempts to reach it.
    pub(super) fn take_buckets(&self) -> [(u64, u64); 2] {
        [self.external.take(), self.local.take()]
    }

    /// The success rate in percent of the last interval, or -1.
    #[must_use]
    pub fn success_rate(&self) -> f64 {
        f64::from_bits(self.rate.load(Relaxed))
    }

    /// The same of attempts to reach the host.
    #[must_use]
    pub fn local_success_rate(&self) -> f64 {
        f64::from_bits(self.local_rate.load(Relaxed))
    }

    pub(super) fn set_rate(&self, is_local: bool, rate: f64) {
        let cell = if is_local {
            &self.local_rate
        } else {
            &self.rate
        };
        cell.store(rate.to_bits(), Relaxed);
    }

    pub(super) fn kind(&self) -> Kind {
        let code = usize::from(self.kind.load(Relaxed));
        Kind::ALL.get(code).copied().unwrap_or(Kind::Consecutive5xx)
    }

    /// Notes an ejection.
    pub(super) fn eject(&self, kind: Kind, now: Instant, jitter: Duration) {
        self.kind.store(kind as u8, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        self.ejected_at.store(millis(now), Relaxed);
        self.jitter.store(as_millis(jitter), Relaxed);
        self.set_probe(Probe::None);
    }

    /// Notes the return.
    pub(super) fn uneject(&self, now: Instant) {
        self.set_probe(Probe::None);
        reset(&self.consecutive_5xx);
        reset(&self.consecutive_gateway_failure);
        reset(&self.consecutive_local_origin_failure);
        self.unejected_at.store(millis(now), Relaxed);
    }

    pub(super) fn ejections(&self) -> u32 {
        self.ejections.load(Relaxed)
    }

    /// What the base time is multiplied by.
    pub(super) fn backoff(&self) -> u32 {
        self.backoff.load(Relaxed)
    }

    pub(super) fn set_backoff(&self, backoff: u32) {
        self.backoff.store(backoff, Relaxed);
    }

    pub(super) fn jitter(&self) -> Duration {
        Duration::from_millis(self.jitter.load(Relaxed))
    }

    /// Time since the last ejection.
    pub(super) fn since_ejection(&self, now: Instant) -> Option<Duration> {
        since(self.ejected_at.load(Relaxed), now)
    }

    /// Time since the last return.
    pub(super) fn since_return(&self, now: Instant) -> Option<Duration> {
        since(self.unejected_at.load(Relaxed), now)
    }
}

/// Milliseconds since some moment well before the first call; never zero.
fn millis(now: Instant) -> u64 {
    static START: LazyLock<std::time::Instant> = LazyLock::new(|| {
        let now = std::time::Instant::now();
        now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
    });
    as_millis(now.into_std().saturating_duration_since(*START)) + 1
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn since(moment: u64, now: Instant) -> Option<Duration> {
    (moment > 0).then(|| Duration::from_millis(millis(now).saturating_sub(moment)))
}
