//! `/drain_listeners` and the end: which listeners have stopped, and whose clients are told to go elsewhere.

use std::time::{Duration, Instant};

use crate::config::listener::TrafficDirection;

/// Which listeners are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Those of inbound traffic.
    Inbound,
    /// All.
    All,
}

/// What was asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Clients of these are told to go, since that moment.
    pub leaving: Option<(Scope, Instant)>,
    /// These listen no more. What they accepted goes on.
    pub stopped: Option<Scope>,
    /// The process ends: clients of these are told to go at once.
    pub ending: Option<Scope>,
}

impl Scope {
    /// Whether a listener of this direction is meant.
    #[must_use]
    pub fn covers(self, direction: TrafficDirection) -> bool {
        self == Self::All || direction == TrafficDirection::Inbound
    }
}

impl Drain {
    /// Whether a listener has stopped.
    #[must_use]
    pub fn has_stopped(&self, direction: TrafficDirection) -> bool {
        self.stopped.is_some_and(|scope| scope.covers(direction))
    }

    /// Whether a client of a listener is to be told to go now: the more likely, the more of the drain
    /// time has passed, so that not all come back at once.
    #[must_use]
    pub fn tells_to_go(
        &self,
        direction: TrafficDirection,
        now: Instant,
        time: Duration,
        random: impl FnOnce() -> u64,
    ) -> bool {
        if self.ending.is_some_and(|scope| scope.covers(direction)) {
            return true;
        }
        let Some((scope, since)) = self.leaving else {
            return false;
        };
        let passed = now.saturating_duration_since(since);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        scope.covers(direction)
            && (passed >= time || millis(passed) > random() % millis(time).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_to_go_more_and_more() {
        let since = Instant::now();
        let time = Duration::from_secs(100);
        let told = |scope, direction, seconds| {
            let drain = Drain {
                leaving: Some((scope, since)),
                ..Drain::default()
            };
            let now = since + Duration::from_secs(seconds);
            (0..100)
                .filter(|n| drain.tells_to_go(direction, now, time, || n * 1000))
                .count()
        };
        let inbound = TrafficDirection::Inbound;
        assert_eq!(
            [0, 1, 50, 99, 100, 500].map(|seconds| told(Scope::All, inbound, seconds)),
            [0, 1, 50, 99, 100, 100]
        );
        assert_eq!(told(Scope::Inbound, inbound, 100), 100);
        assert_eq!(told(Scope::Inbound, TrafficDirection::Outbound, 100), 0);
        assert_eq!(told(Scope::Inbound, TrafficDirection::Unspecified, 100), 0);
        let ending = Drain {
            ending: Some(Scope::Inbound),
            ..Drain::default()
        };
        assert!(ending.tells_to_go(inbound, since, time, || 0));
        assert!(!ending.tells_to_go(TrafficDirection::Outbound, since, time, || 0));
        let nothing = Drain::default();
        assert!(!nothing.tells_to_go(inbound, since + time, time, || 0));
    }

    #[test]
    fn all_is_more_than_inbound() {
        assert!(Scope::All > Scope::Inbound);
        assert!(Some(Scope::Inbound) > None);
        let drain = Drain {
            stopped: Some(Scope::Inbound),
            ..Drain::default()
        };
        assert!(drain.has_stopped(TrafficDirection::Inbound));
        assert!(!drain.has_stopped(TrafficDirection::Outbound));
    }
}
