//! Counters, gauges and histograms with Envoy's dotted names.
//!
//! Each worker thread writes its own slots with plain loads and stores; readers merge the slots of
//! all workers. Handles are resolved when configuration is built: recording never looks up a name,
//! locks or shares a cache line with another worker. Values of one worker are packed together, so
//! that a metric costs eight bytes per worker. A metric lives as long as one of its handles.

mod histogram;
pub mod render;
mod tags;

use std::{
    any::{Any, TypeId},
    cell::Cell,
    cmp::Ordering as Order,
    collections::{HashMap, HashSet},
    fmt,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

pub use histogram::{Summary, Unit};

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Says which slot this thread writes: 0 is the main thread and every thread that never calls this,
/// workers count from 1. Each worker thread calls it once, before it records anything.
pub fn set_worker(index: usize) {
    WORKER.set(index);
}

/// Slots in one block of a worker.
const BLOCK: usize = 64;

/// One worker's slots of a chunk; aligned so that no two workers write to one cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Block([AtomicU64; BLOCK]);

/// Adds to the cell of the calling thread. Slot 0 may be shared by threads that are not workers.
#[inline]
fn add_to(cell: &AtomicU64, shared: bool, value: u64) {
    if shared {
        cell.fetch_add(value, Relaxed);
    } else {
        cell.store(cell.load(Relaxed).wrapping_add(value), Relaxed);
    }
}

/// The row of the calling thread among `rows`, and whether other threads may write to it.
#[inline]
fn own_row(rows: usize) -> (usize, bool) {
    let worker = WORKER.get();
    if worker == 0 || worker >= rows {
        (0, true)
    } else {
        (worker, false)
    }
}

/// All metrics of a process. Clones share them.
#[derive(Clone)]
pub struct Registry(Arc<Core>);

struct Core {
    /// The main thread's row and one for each worker.
    rows: usize,
    state: Mutex<State>,
    companions: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
}

#[derive(Default)]
struct State {
    /// By hash of kind and full name: names are kept in two shared parts only.
    metrics: HashMap<u64, Weak<Metric>, foldhash::fast::FixedState>,
    /// Last parts of names, shared by all scopes that have them.
    names: HashSet<Arc<str>, foldhash::fast::FixedState>,
    free: Vec<Slot>,
}

/// A place for one number of each worker.
struct Slot {
    blocks: Arc<[Block]>,
    index: u32,
}

impl Slot {
    /// A remainder, so that no bound is checked.
    #[inline]
    fn place(&self) -> usize {
        self.index as usize % BLOCK
    }

    #[inline]
    fn add(&self, value: u64) {
        let (row, shared) = own_row(self.blocks.len());
        add_to(&self.blocks[row].0[self.place()], shared, value);
    }

    fn sum(&self) -> u64 {
        self.blocks.iter().fold(0, |sum: u64, block| {
            sum.wrapping_add(block.0[self.place()].load(Relaxed))
        })
    }

    fn reset(&self) {
        for block in &*self.blocks {
            block.0[self.place()].store(0, Relaxed);
        }
    }
}

struct Metric {
    core: Arc<Core>,
    key: u64,
    scope: Arc<str>,
    /// See [`Scope::entity_end`].
    entity_end: u32,
    name: Arc<str>,
    value: Value,
}

enum Value {
    Counter(Slot),
    Gauge(Slot),
    Histogram(Box<histogram::Cells>),
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram(Unit),
}

impl Registry {
    /// A registry for the main thread and `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(Core {
            rows: workers + 1,
            state: Mutex::default(),
            companions: Mutex::default(),
        }))
    }

    /// The scope whose names start with `prefix` and a dot; an empty prefix is the root.
    #[must_use]
    pub fn scope(&self, prefix: &str) -> Scope {
        let prefix = prefix.trim_end_matches('.');
        Scope {
            core: Arc::clone(&self.0),
            entity_end: entity_end(0, prefix),
            prefix: prefix.into(),
        }
    }

    /// What outlives configurations as statistics do, one of each type in a process; clones share it.
    /// For what is built, not for requests.
    #[must_use]
    pub fn companion<T: Clone + Default + Send + Sync + 'static>(&self) -> T {
        let mut all = self
            .0
            .companions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = all
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Box::new(T::default()));
        entry.downcast_ref::<T>().cloned().unwrap_or_default()
    }

    /// Every metric with its merged value, ordered by name.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Sample> {
        let mut metrics: Vec<Arc<Metric>> = self
            .0
            .lock()
            .metrics
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        metrics.sort_unstable_by(|a, b| a.compare_names(b));
        metrics.into_iter().map(Sample).collect()
    }

    /// Ends an interval of the histograms (`stats_flush_interval`): what was recorded since the last
    /// call becomes their interval value.
    pub fn flush(&self) {
        for sample in self.snapshot() {
            if let Value::Histogram(cells) = &sample.0.value {
                cells.flush();
            }
        }
    }

    /// Sets all counters to zero and forgets what histograms recorded (`/reset_counters`).
    pub fn reset_counters(&self) {
        for sample in self.snapshot() {
            match &sample.0.value {
                Value::Counter(slot) => slot.reset(),
                Value::Gauge(_) => {}
                Value::Histogram(cells) => cells.reset(),
            }
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("rows", &self.0.rows)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A panic while the lock was held leaves a usable map.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn slot(&mut self, rows: usize) -> Slot {
        if self.free.is_empty() {
            let blocks: Arc<[Block]> = (0..rows)
                .map(|_| Block([const { AtomicU64::new(0) }; BLOCK]))
                .collect();
            self.free.extend((0..BLOCK as u32).rev().map(|index| Slot {
                blocks: Arc::clone(&blocks),
                index,
            }));
        }
        self.free.pop().expect("a block was just added")
    }

    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(name) = self.names.get(name) {
            return Arc::clone(name);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }
}

/// A prefix of names.
#[derive(Clone)]
pub struct Scope {
    core: Arc<Core>,
    prefix: Arc<str>,
    /// Where the name of the cluster, listener … ends in `prefix`: names may hold dots. Zero if there is
    /// none.
    entity_end: u32,
}

/// Where the entity's name ends in `prefix`, if it ended at `outer` in the scope around.
fn entity_end(outer: u32, prefix: &str) -> u32 {
    if outer != 0 || !prefix.contains('.') {
        return outer;
    }
    // A listener's scope may be made in one step with what is below it.
    let below = match prefix.starts_with("listener.") {
        true => [".http.", ".worker_"]
            .iter()
            .find_map(|part| prefix.find(part)),
        false => None,
    };
    u32::try_from(below.unwrap_or(prefix.len())).unwrap_or(0)
}

impl Scope {
    /// The scope below this one.
    #[must_use]
    pub fn scope(&self, suffix: &str) -> Self {
        let suffix = suffix.trim_matches('.');
        let prefix = match (self.prefix.is_empty(), suffix.is_empty()) {
            (_, true) => Arc::clone(&self.prefix),
            (true, false) => suffix.into(),
            (false, false) => format!("{}.{suffix}", self.prefix).into(),
        };
        Self {
            core: Arc::clone(&self.core),
            entity_end: entity_end(self.entity_end, &prefix),
            prefix,
        }
    }

    /// What names start with, without the last dot.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The counter of this name, made if it is not there yet.
    #[must_use]
    pub fn counter(&self, name: &str) -> Counter {
        Counter(self.metric(name, Kind::Counter))
    }

    /// The gauge of this name, made if it is not there yet.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Gauge {
        Gauge(self.metric(name, Kind::Gauge))
    }

    /// The histogram of this name, made if it is not there yet.
    #[must_use]
    pub fn histogram(&self, name: &str, unit: Unit) -> Histogram {
        Histogram(self.metric(name, Kind::Histogram(unit)))
    }

    fn metric(&self, name: &str, kind: Kind) -> Arc<Metric> {
        let full = match self.prefix.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.prefix),
        };
        // Declared before the guard: dropping the last handle of a metric takes the lock.
        let mut others = Vec::new();
        let mut state = self.core.lock();
        let hasher = foldhash::fast::FixedState::default();
        let mut key = hasher.hash_one((&full, kind));
        // A different name under the same hash moves this one to the next place.
        while let Some(found) = state.metrics.get(&key).and_then(Weak::upgrade) {
            if found.kind() == kind && found.name() == full {
                return found;
            }
            key = key.wrapping_add(1);
            others.push(found);
        }
        let rows = self.core.rows;
        let value = match kind {
            Kind::Counter => Value::Counter(state.slot(rows)),
            Kind::Gauge => Value::Gauge(state.slot(rows)),
            Kind::Histogram(unit) => Value::Histogram(Box::new(histogram::Cells::new(unit, rows))),
        };
        let metric = Arc::new(Metric {
            core: Arc::clone(&self.core),
            key,
            scope: Arc::clone(&self.prefix),
            entity_end: self.entity_end,
            name: state.intern(name),
            value,
        });
        state.metrics.insert(key, Arc::downgrade(&metric));
        metric
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&self.prefix).finish()
    }
}

impl Metric {
    fn kind(&self) -> Kind {
        match &self.value {
            Value::Counter(_) => Kind::Counter,
            Value::Gauge(_) => Kind::Gauge,
            Value::Histogram(cells) => Kind::Histogram(cells.unit()),
        }
    }

    fn name(&self) -> String {
        match self.scope.is_empty() {
            true => String::from(&*self.name),
            false => format!("{}.{}", self.scope, self.name),
        }
    }

    fn compare_names(&self, other: &Self) -> Order {
        self.name_bytes().cmp(other.name_bytes())
    }

    fn name_bytes(&self) -> impl Iterator<Item = u8> + '_ {
        let dot = (!self.scope.is_empty()).then_some(b'.');
        self.scope.bytes().chain(dot).chain(self.name.bytes())
    }
}

impl Drop for Metric {
    fn drop(&mut self) {
        let core = Arc::clone(&self.core);
        let mut state = core.lock();
        // Somebody may have made a successor under the same name meanwhile.
        let is_ours = |weak: &Weak<Self>| std::ptr::eq(weak.as_ptr(), self);
        if state.metrics.get(&self.key).is_some_and(is_ours) {
            state.metrics.remove(&self.key);
        }
        if let Value::Counter(slot) | Value::Gauge(slot) = &self.value {
            slot.reset();
            state.free.push(Slot {
                blocks: Arc::clone(&slot.blocks),
                index: slot.index,
            });
        }
        // One in the set, one here: nobody else uses the name.
        if Arc::strong_count(&self.name) == 2 {
            state.names.remove(&self.name);
        }
    }
}

/// A number that only grows.
#[derive(Clone)]
pub struct Counter(Arc<Metric>);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        if let Value::Counter(slot) = &self.0.value {
            slot.add(n);
        }
    }

    /// The sum over all workers.
    #[must_use]
    pub fn value(&self) -> u64 {
        Sample(Arc::clone(&self.0)).value()
    }
}

/// A number that goes up and down.
#[derive(Clone)]
pub struct Gauge(Arc<Metric>);

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `n`; the sum over all workers must not be negative.
    #[inline]
    pub fn add(&self, n: i64) {
        if let Value::Gauge(slot) = &self.0.value {
            slot.add(n.cast_unsigned());
        }
    }

    /// Sets the value. Only for gauges that the main thread alone writes.
    pub fn set(&self, value: u64) {
        if let Value::Gauge(slot) = &self.0.value {
            slot.blocks[0].0[slot.place()].store(value, Relaxed);
        }
    }

    /// The sum over all workers.
    #[must_use]
    pub fn value(&self) -> u64 {
        Sample(Arc::clone(&self.0)).value()
    }
}

/// A distribution.
#[derive(Clone)]
pub struct Histogram(Arc<Metric>);

impl Histogram {
    /// Records a value, in the histogram's unit.
    #[inline]
    pub fn record(&self, value: u64) {
        if let Value::Histogram(cells) = &self.0.value {
            let (row, shared) = own_row(self.0.core.rows);
            cells.record(row, shared, value);
        }
    }
}

macro_rules! debug_by_name {
    ($($handle:ident),*) => {$(
        impl fmt::Debug for $handle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($handle)).field(&self.0.name()).finish()
            }
        }
    )*};
}
debug_by_name!(Counter, Gauge, Histogram, Sample);

/// One metric, for reading.
pub struct Sample(Arc<Metric>);

impl Sample {
    /// The full name.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// The merged value; of a histogram, how many values were recorded. A gauge read in the middle
    /// of a hand-over between workers is never shown below zero.
    #[must_use]
    pub fn value(&self) -> u64 {
        match &self.0.value {
            Value::Counter(slot) => slot.sum(),
            Value::Gauge(slot) => slot.sum().cast_signed().max(0).cast_unsigned(),
            Value::Histogram(cells) => cells.cumulative().count(),
        }
    }

    /// Whether it was ever written: the value is not zero, or a histogram has values.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.value() != 0
    }

    /// Kind of the entity, its name, and the rest of the metric's name; without entity only the rest.
    fn parts(&self) -> (&str, &str, String) {
        let (scope, name) = (&*self.0.scope, &*self.0.name);
        let (entity, below) = scope.split_at(self.0.entity_end as usize);
        let below = below.strip_prefix('.').unwrap_or(below);
        let rest = match below.is_empty() {
            true => name.to_owned(),
            false => format!("{below}.{name}"),
        };
        let (kind, entity) = entity.split_once('.').unwrap_or(("", ""));
        (kind, entity, rest)
    }

    /// A histogram's values since the start, and in the last interval.
    #[must_use]
    pub fn histogram(&self) -> Option<(Summary, Summary)> {
        match &self.0.value {
            Value::Histogram(cells) => Some((cells.cumulative(), cells.interval())),
            Value::Counter(_) | Value::Gauge(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
