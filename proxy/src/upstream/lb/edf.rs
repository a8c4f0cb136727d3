//! Earliest-deadline-first scheduling, for round robin and least request with weights.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::below;

/// Earliest-deadline-first scheduling: weighted round robin without bursts.
#[derive(Debug)]
pub(super) struct Schedule {
    queue: BinaryHeap<Entry>,
    order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    index: usize,
}

impl Schedule {
    /// All hosts queued by weight, and some turns taken so that workers do not start in step.
    pub(super) fn new(count: usize, weight: impl Fn(usize) -> f64, random: u64) -> Self {
        let mut schedule = Self {
            queue: BinaryHeap::with_capacity(count),
            order: 0,
        };
        for index in 0..count {
            schedule.add(0.0, weight(index), index);
        }
        for _ in 0..below(count, random) {
            schedule.pick(&weight);
        }
        schedule
    }

    fn add(&mut self, now: f64, weight: f64, index: usize) {
        self.order += 1;
        self.queue.push(Entry {
            deadline: now + 1.0 / weight,
            order: self.order,
            index,
        });
    }

    pub(super) fn pick(&mut self, weight: impl Fn(usize) -> f64) -> usize {
        let Some(first) = self.queue.pop() else {
            return 0;
        };
        self.add(first.deadline, weight(first.index), first.index);
        first.index
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, as [`BinaryHeap`] pops the greatest; of equals the first added.
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then_with(|| other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
