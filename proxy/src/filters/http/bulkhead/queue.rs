//! Who waits, and who is next: lanes in order, inside a lane callers by turns, requests of one caller in
//! the order in which they came.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use super::config::LANES;

/// A bounded queue of `T`s.
#[derive(Debug)]
pub(super) struct Queue<T> {
    callers: HashMap<u64, Caller<T>, foldhash::fast::RandomState>,
    /// In each lane the callers that have something in it, the next first.
    turns: [VecDeque<u64>; LANES],
    /// Callers by how much they have in all lanes.
    by_count: BTreeSet<(usize, u64)>,
    len: usize,
    next_number: u64,
}

#[derive(Debug)]
struct Caller<T> {
    name: Arc<str>,
    waiting: usize,
    lanes: [VecDeque<(u64, T)>; LANES],
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

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            callers: HashMap::default(),
            turns: Default::default(),
            by_count: BTreeSet::new(),
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
    /// goes: from the last lane that it has any in.
    pub(super) fn push(
        &mut self,
        caller: u64,
        name: impl FnOnce() -> Arc<str>,
        lane: u8,
        value: T,
        max: usize,
    ) -> Pushed<T> {
        if self.len < max {
            return Pushed::Waits(self.add(caller, name, lane, value));
        }
        let own = self.callers.get(&caller).map_or(0, |known| known.waiting);
        let loser = match self.by_count.last() {
            Some((most, biggest)) if *most > own + 1 => *biggest,
            _ => caller,
        };
        let last = self.callers.get(&loser).and_then(|loser| {
            let lane = loser.lanes.iter().rposition(|lane| !lane.is_empty())?;
            Some((lane, loser.lanes.get(lane)?.back()?.0))
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
        let ticket = self.add(caller, name, lane, value);
        match displaced {
            Some(displaced) => Pushed::Displaced(ticket, displaced),
            None => Pushed::Waits(ticket),
        }
    }

    fn add(&mut self, id: u64, name: impl FnOnce() -> Arc<str>, lane: u8, value: T) -> Ticket {
        let number = self.next_number;
        self.next_number += 1;
        let caller = self.callers.entry(id).or_insert_with(|| Caller {
            name: name(),
            waiting: 0,
            lanes: Default::default(),
        });
        let index = usize::from(lane).min(LANES - 1);
        if let (Some(own), Some(turns)) = (caller.lanes.get_mut(index), self.turns.get_mut(index)) {
            if own.is_empty() {
                turns.push_back(id);
            }
            own.push_back((number, value));
        }
        self.by_count.remove(&(caller.waiting, id));
        caller.waiting += 1;
        self.by_count.insert((caller.waiting, id));
        self.len += 1;
        Ticket {
            caller: id,
            lane: u8::try_from(index).unwrap_or_default(),
            number,
        }
    }

    /// Takes out the next one whose caller `may` go on, with what that gave.
    pub(super) fn pop<G>(
        &mut self,
        mut may: impl FnMut(u64, &Arc<str>) -> Option<G>,
    ) -> Option<(T, G)> {
        for (lane, turns) in self.turns.iter_mut().enumerate() {
            for _ in 0..turns.len() {
                let Some(id) = turns.pop_front() else { break };
                let Some(caller) = self.callers.get_mut(&id) else {
                    continue;
                };
                let Some(granted) = may(id, &caller.name) else {
                    turns.push_back(id);
                    continue;
                };
                let own = caller.lanes.get_mut(lane);
                let popped = own.and_then(|own| {
                    let popped = own.pop_front();
                    if !own.is_empty() {
                        turns.push_back(id);
                    }
                    popped
                });
                let Some((_, value)) = popped else { continue };
                self.count_down(id);
                return Some((value, granted));
            }
        }
        None
    }

    /// Takes out one that no longer waits; none if it was taken before.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let lane = usize::from(ticket.lane);
        let own = self.callers.get_mut(&ticket.caller)?.lanes.get_mut(lane)?;
        // Numbers grow.
        let index = own
            .binary_search_by_key(&ticket.number, |(number, _)| *number)
            .ok()?;
        let (_, value) = own.remove(index)?;
        if own.is_empty()
            && let Some(turns) = self.turns.get_mut(lane)
            && let Some(turn) = turns.iter().position(|id| *id == ticket.caller)
        {
            turns.remove(turn);
        }
        self.count_down(ticket.caller);
        Some(value)
    }

    fn count_down(&mut self, id: u64) {
        self.len -= 1;
        let Some(caller) = self.callers.get_mut(&id) else {
            return;
        };
        self.by_count.remove(&(caller.waiting, id));
        caller.waiting -= 1;
        if caller.waiting == 0 {
            self.callers.remove(&id);
        } else {
            self.by_count.insert((caller.waiting, id));
        }
    }

    /// The callers with most in the queue, most first.
    pub(super) fn top(&self, max: usize) -> Vec<(Arc<str>, usize)> {
        let biggest = self.by_count.iter().rev().take(max);
        biggest
            .filter_map(|(count, id)| Some((Arc::clone(&self.callers.get(id)?.name), *count)))
            .collect()
    }
}
