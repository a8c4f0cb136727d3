//! What is known of protocols from earlier connections, and how protocols were chosen.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, time::Instant};

use crate::telemetry::stats::{Counter, Scope};

/// The most destinations that are remembered: more would be given up for those that are used.
const MOST: usize = 1024;

/// Destinations whose hosts speak first, as one worker has seen it.
#[derive(Debug, Default)]
pub struct Learned {
    /// Until when each is remembered.
    until: RefCell<HashMap<SocketAddr, Instant, foldhash::fast::RandomState>>,
}

impl Learned {
    /// Whether the host there spoke first not too long ago.
    #[must_use]
    pub fn knows(&self, destination: SocketAddr, now: Instant) -> bool {
        let until = self.until.borrow();
        until.get(&destination).is_some_and(|until| *until > now)
    }

    /// Remembers a destination.
    pub fn learn(&self, destination: SocketAddr, until: Instant, now: Instant) {
        let mut known = self.until.borrow_mut();
        if known.len() >= MOST && !known.contains_key(&destination) {
            known.retain(|_, until| *until > now);
            if known.len() >= MOST {
                let first = known.iter().min_by_key(|(_, until)| **until);
                if let Some(first) = first.map(|(destination, _)| *destination) {
                    known.remove(&first);
                }
            }
        }
        known.insert(destination, until);
    }

    /// It was wrong.
    pub fn forget(&self, destination: SocketAddr) {
        self.until.borrow_mut().remove(&destination);
    }
}

/// `listener.<address>.protocol_choice.…`
#[derive(Debug)]
pub struct ChoiceStats {
    /// `http`: the client spoke first, and HTTP.
    pub http: Counter,
    /// `tcp`: the client spoke first, and something else, or closed its half.
    pub tcp: Counter,
    /// `server_first`: the host spoke first.
    pub server_first: Counter,
    /// `timeout`: nobody had spoken at the end of `listener_filters_timeout`.
    pub timeout: Counter,
    /// `connected_early`: a connection to a host was begun before the choice.
    pub connected_early: Counter,
    /// `learned`: at once, since the host had spoken first before.
    pub learned: Counter,
    /// `unused`: it was closed, since another chain was chosen.
    pub unused: Counter,
}

impl ChoiceStats {
    /// Handles below `scope` (`listener.<address>`).
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let scope = scope.scope("protocol_choice");
        Self {
            http: scope.counter("http"),
            tcp: scope.counter("tcp"),
            server_first: scope.counter("server_first"),
            timeout: scope.counter("timeout"),
            connected_early: scope.counter("connected_early"),
            learned: scope.counter("learned"),
            unused: scope.counter("unused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    fn at(number: u32) -> SocketAddr {
        (Ipv4Addr::from_bits(number), 3306).into()
    }

    #[test]
    fn what_was_learned_is_forgotten_in_time() {
        let (learned, start) = (Learned::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        learned.learn(at(1), later(10), start);
        assert!(learned.knows(at(1), later(9)));
        assert!(!learned.knows(at(1), later(10)) && !learned.knows(at(2), start));
        learned.learn(at(1), later(20), later(9));
        assert!(learned.knows(at(1), later(19)));
        learned.forget(at(1));
        assert!(!learned.knows(at(1), start));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_newest() {
        let (learned, start) = (Learned::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        let most = u32::try_from(MOST).unwrap();
        for number in 0..2 * most {
            learned.learn(at(number), later(100 + u64::from(number)), start);
        }
        assert_eq!(learned.until.borrow().len(), MOST);
        assert!(!learned.knows(at(most - 1), start) && learned.knows(at(most), start));
        // One that is known already takes no other's place.
        learned.learn(at(most), later(9999), start);
        assert!(learned.knows(at(most + 1), start));
        // What is over goes first, all at once.
        learned.learn(at(7), later(9000), later(8000));
        assert_eq!(learned.until.borrow().len(), 2);
    }
}
