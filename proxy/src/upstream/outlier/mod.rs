//! Outlier detection: hosts that fail are left out for a while.
//!
//! Workers report the outcome of each try with [`Detector::report`], which counts it in atomics of the
//! host. Only where a count reaches its threshold the main thread is woken; it alone ejects hosts and
//! takes them back (`judge`), sweeps once per interval, and writes the event log.
//!
//! A host whose time is over is not taken back at once: the next pick sends one request to it, and its
//! outcome decides for all others.

mod event;
mod judge;
mod monitor;
mod stats;
mod watch;

use std::sync::{Arc, OnceLock};

use http::StatusCode;
use tokio::sync::Notify;

use self::{monitor::Trip, stats::Stats};
use super::Host;
use crate::{
    config::outlier_detection::OutlierDetection,
    telemetry::{access_log::EventLog, stats::Scope},
};

pub use monitor::Monitor;
pub(super) use watch::uneject;
pub use watch::watch;

/// How one try at a host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request has a connection. Says nothing of the answer.
    Connected,
    /// An answer with this status.
    Http(StatusCode),
    /// An answer of a gRPC service with this status, from headers or trailers.
    Grpc(u32),
    /// No connection, or it broke, or the stream was reset, before the answer was complete.
    LocalConnectFailed,
    /// No answer in time.
    LocalTimeout,
}

/// Averages of the last sweep, or -1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Averages {
    /// The mean of the hosts' success rates.
    pub mean: f64,
    /// Rates below it lead to ejection.
    pub threshold: f64,
}

/// Outlier detection of one cluster.
#[derive(Debug)]
pub struct Detector {
    config: Arc<OutlierDetection>,
    stats: Stats,
    /// Wakes the main thread; shared with earlier and later versions of the cluster, as its hosts are.
    wake: Arc<Notify>,
    /// Set when the main thread begins to watch.
    log: OnceLock<EventLog>,
    averages: monitor::Shared<Averages>,
    local_averages: monitor::Shared<Averages>,
}

impl Detector {
    /// Detection by `config`; `scope` is the cluster's.
    pub(super) fn new(
        config: Arc<OutlierDetection>,
        scope: &Scope,
        previous: Option<&Self>,
    ) -> Self {
        Self {
            config,
            stats: Stats::new(&scope.scope("outlier_detection")),
            wake: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.wake)),
            log: OnceLock::new(),
            averages: monitor::Shared::new(),
            local_averages: monitor::Shared::new(),
        }
    }

    /// Takes an outcome into account. Called by workers, once for each try (and once more when it has its
    /// connection); counts only, unless a threshold is reached.
    #[inline]
    pub fn report(&self, host: &Host, outcome: Outcome) {
        let monitor = &host.outlier;
        let splits = self.config.split_external_local_origin_errors;
        let mut trips = Trip::NONE;
        if monitor.is_probed() {
            trips |= monitor.probed(outcome);
        }
        match outcome {
            Outcome::Connected if splits => monitor.local_success(),
            Outcome::Connected => {}
            Outcome::Http(status) => trips |= self.count(monitor, status.as_u16()),
            Outcome::Grpc(status) => trips |= self.count(monitor, http_status(status)),
            Outcome::LocalConnectFailed | Outcome::LocalTimeout if splits => {
                let threshold = self.config.consecutive_local_origin_failure.threshold;
                trips |= monitor.local_failure(threshold);
            }
            Outcome::LocalConnectFailed => trips |= self.count(monitor, 503),
            Outcome::LocalTimeout => trips |= self.count(monitor, 504),
        }
        if trips != Trip::NONE {
            monitor.trip(trips);
            self.wake.notify_one();
        }
    }

    fn count(&self, monitor: &Monitor, status: u16) -> Trip {
        if status < 500 {
            monitor.success();
            return Trip::NONE;
        }
        monitor.failure(
            matches!(status, 502..=504),
            self.config.consecutive_5xx.threshold,
            self.config.consecutive_gateway_failure.threshold,
        )
    }

    /// Averages of the hosts' answers, as of the last sweep.
    #[must_use]
    pub fn averages(&self) -> Averages {
        self.averages.load()
    }

    /// Averages of failures to reach hosts, as of the last sweep.
    #[must_use]
    pub fn local_averages(&self) -> Averages {
        self.local_averages.load()
    }
}

/// The HTTP status that a gRPC status corresponds to.
fn http_status(grpc: u32) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests;
