//! Who waits, and who is next: lanes in order, inside a lane the caller with fewest requests in progress,
//! callers with equally many by turns, requests of one caller in the order in which they came.
//!
//! So places go where they are missing most, and all callers get what they ask for up to the same level
//! (max-min fairness): one above it waits behind those below, however much it asks for.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use super::config::LANES;

/// A bounded queue of `T`s.
#[derive(Debug)]
pub(super) struct Queue<T> {
    callers: HashMap<u64, Caller<T>, foldhash::fast::RandomState>,
    /// In each lane the callers that have something in it, the next first.
    next: [BTreeSet<Rank>; LANES],
    /// Callers by how much they have in all lanes.
    sizes: BTreeSet<Size>,
    len: usize,
    next_number: u64,
}

#[derive(Debug)]
struct Caller<T> {
    name: Arc<str>,
    waiting: usize,
    /// As was last told.
    in_progress: u64,
    lanes: [Lane<T>; LANES],
}

/// What a caller has in a lane.
#[derive(Debug)]
struct Lane<T> {
    /// Among callers with equally many in progress, the least is next.
    turn: u64,
    waiting: VecDeque<(u64, T)>,
}

/// Ordered as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    in_progress: u64,
    turn: u64,
    caller: u64,
}

/// Ordered as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Size {
    waiting: usize,
    in_progress: u64,
    caller: u64,
}

/// Finds what waits again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    caller: u64,
    lane: u8,
    number: u64,
}

/// What became of a request that asked to wait.
#[derive(Debug)]
pub(super) enum Pushed<T> {
    Waits(Ticket),
    /// It waits, and this one no longer does.
    Displaced(Ticket, T),
    /// There is no room.
    Refused(T),
}

/// Who asks to wait, and how many requests of it are in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks {
    pub(super) caller: u64,
    pub(super) in_progress: u64,
    pub(super) lane: u8,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            turn: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            callers: HashMap::default(),
            next: Default::default(),
            sizes: BTreeSet::new(),
            len: 0,
            next_number: 0,
        }
    }
}

impl<T> Queue<T> {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one. When `max` wait already, the newest of the caller that has most, counting this one,
    /// goes, from the last lane that it has any in; of callers with equally many, of the one that has more
    /// in progress.
    pub(super) fn push(
        &mut self,
        asks: Asks,
        name: impl FnOnce() -> Arc<str>,
        value: T,
        max: usize,
    ) -> Pushed<T> {
        let Asks {
            caller,
            in_progress,
            lane,
        } = asks;
        self.recount(caller, in_progress);
        if self.len < max {
            return Pushed::Waits(self.add(asks, name, value));
        }
        let own = self.callers.get(&caller).map_or(0, |known| known.waiting);
        let loser = match self.sizes.last() {
            Some(most) if (most.waiting, most.in_progress) > (own + 1, in_progress) => most.caller,
            _ => caller,
        };
        let last = self.callers.get(&loser).and_then(|loser| {
            let lane = loser
                .lanes
                .iter()
                .rposition(|lane| !lane.waiting.is_empty())?;
            Some((lane, loser.lanes.get(lane)?.waiting.back()?.0))
        });
        let Some((last_lane, number)) = last else {
            return Pushed::Refused(value);
        };
        if loser == caller && last_lane <= usize::from(lane) {
            return Pushed::Refused(value);
        }
        let displaced = self.remove(Ticket {
            caller: loser,
            lane: u8::try_from(last_lane).unwrap_or_default(),
            number,
        });
        let ticket = self.add(asks, name, value);
        match displaced {
            Some(displaced) => Pushed::Displaced(ticket, displaced),
            None => Pushed::Waits(ticket),
        }
    }

    fn add(&mut self, asks: Asks, name: impl FnOnce() -> Arc<str>, value: T) -> Ticket {
        let Asks {
            caller: id,
            in_progress,
            lane,
        } = asks;
        let number = self.number();
        let caller = self.callers.entry(id).or_insert_with(|| Caller {
            name: name(),
            waiting: 0,
            in_progress,
            lanes: Default::default(),
        });
        let index = usize::from(lane).min(LANES - 1);
        if let (Some(own), Some(next)) = (caller.lanes.get_mut(index), self.next.get_mut(index)) {
            if own.waiting.is_empty() {
                own.turn = number;
                next.insert(Rank {
                    in_progress,
                    turn: number,
                    caller: id,
                });
            }
            own.waiting.push_back((number, value));
        }
        self.sizes.remove(&caller.size(id));
        caller.waiting += 1;
        self.sizes.insert(caller.size(id));
        self.len += 1;
        Ticket {
            caller: id,
            lane: u8::try_from(index).unwrap_or_default(),
            number,
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Notes how many requests of a caller are in progress now, if any of it wait.
    pub(super) fn recount(&mut self, id: u64, in_progress: u64) {
        let Some(caller) = self.callers.get_mut(&id) else {
            return;
        };
        if caller.in_progress == in_progress {
            return;
        }
        for (lane, next) in caller.lanes.iter().zip(&mut self.next) {
            let rank = |in_progress| Rank {
                in_progress,
                turn: lane.turn,
                caller: id,
            };
            if next.remove(&rank(caller.in_progress)) {
                next.insert(rank(in_progress));
            }
        }
        self.sizes.remove(&caller.size(id));
        caller.in_progress = in_progress;
        self.sizes.insert(caller.size(id));
    }

    /// Takes out the next one whose caller `may` go on, with what that gave. `count` says how many
    /// requests of a caller are in progress.
    pub(super) fn pop<G>(
        &mut self,
        count: impl Fn(u64) -> u64,
        mut may: impl FnMut(u64, &Arc<str>) -> Option<G>,
    ) -> Option<(T, G)> {
        for lane in 0..LANES {
            let mut after = Bound::Unbounded;
            while let Some(rank) = self.rank_after(lane, after) {
                let id = rank.caller;
                let in_progress = count(id);
                self.recount(id, in_progress);
                if in_progress > rank.in_progress {
                    // Others may come before it.
                    continue;
                }
                let granted = self
                    .callers
                    .get(&id)
                    .and_then(|caller| may(id, &caller.name));
                let Some(granted) = granted else {
                    after = Bound::Excluded(rank);
                    continue;
                };
                let value = self.take_first(id, lane)?;
                self.recount(id, count(id));
                return Some((value, granted));
            }
        }
        None
    }

    fn rank_after(&self, lane: usize, after: Bound<Rank>) -> Option<Rank> {
        let next = self.next.get(lane)?;
        next.range((after, Bound::Unbounded)).next().copied()
    }

    /// The caller's first in this lane; its turn comes again after those of others.
    fn take_first(&mut self, id: u64, lane: usize) -> Option<T> {
        let number = self.number();
        let caller = self.callers.get_mut(&id)?;
        let own = caller.lanes.get_mut(lane)?;
        let (_, value) = own.waiting.pop_front()?;
        let next = self.next.get_mut(lane)?;
        let mut rank = Rank {
            in_progress: caller.in_progress,
            turn: own.turn,
            caller: id,
        };
        next.remove(&rank);
        if !own.waiting.is_empty() {
            own.turn = number;
            rank.turn = number;
            next.insert(rank);
        }
        self.count_down(id);
        Some(value)
    }

    /// Takes out one that no longer waits; none if it was taken before.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let lane = usize::from(ticket.lane);
        let caller = self.callers.get_mut(&ticket.caller)?;
        let in_progress = caller.in_progress;
        let own = caller.lanes.get_mut(lane)?;
        // Numbers grow.
        let index = own
            .waiting
            .binary_search_by_key(&ticket.number, |(number, _)| *number)
            .ok()?;
        let (_, value) = own.waiting.remove(index)?;
        if own.waiting.is_empty()
            && let Some(next) = self.next.get_mut(lane)
        {
            next.remove(&Rank {
                in_progress,
                turn: own.turn,
                caller: ticket.caller,
            });
        }
        self.count_down(ticket.caller);
        Some(value)
    }

    fn count_down(&mut self, id: u64) {
        self.len -= 1;
        let Some(caller) = self.callers.get_mut(&id) else {
            return;
        };
        self.sizes.remove(&caller.size(id));
        caller.waiting -= 1;
        if caller.waiting == 0 {
            self.callers.remove(&id);
        } else {
            self.sizes.insert(caller.size(id));
        }
    }

    /// The callers with most in the queue, most first.
    pub(super) fn top(&self, max: usize) -> Vec<(Arc<str>, usize)> {
        let biggest = self.sizes.iter().rev().take(max);
        biggest
            .filter_map(|size| {
                let name = &self.callers.get(&size.caller)?.name;
                Some((Arc::clone(name), size.waiting))
            })
            .collect()
    }
}

impl<T> Caller<T> {
    fn size(&self, id: u64) -> Size {
        Size {
            waiting: self.waiting,
            in_progress: self.in_progress,
            caller: id,
        }
    }
}
