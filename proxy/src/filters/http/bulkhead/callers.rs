//! How many requests of each caller are in progress: a table of fixed size that all workers change
//! without a lock.
//!
//! A caller is known by a hash with a secret. Its count is one word of the table, with a part of the
//! hash beside it, so that finding, counting and taking over a place that nobody uses are one
//! compare-and-swap each. A caller has few places to be in (as in a cache of several ways); one that finds
//! them all in use shares the count of all others.

use std::{
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use arc_swap::ArcSwapOption;

/// Places that a caller can be in.
const WAYS: usize = 8;
/// A word: this many bits of count below the tag.
const COUNT_BITS: u32 = 24;
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;
/// The name that callers without a place of their own are shown by.
pub(super) const OTHERS: &str = "(others)";
/// How much of a name is kept.
const MAX_NAME: usize = 64;
/// Who callers without a place of their own wait as.
const OTHERS_ID: u64 = u64::MAX;
/// How often a doubled entry is given up for another try.
const RETRIES: u32 = 8;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Identity<'a> {
    All,
    Text(&'a [u8]),
    Address(IpAddr),
}

impl Identity<'_> {
    /// For people: printable, and not long.
    pub(super) fn name(self) -> Arc<str> {
        match self {
            Self::All => "".into(),
            Self::Text(bytes) => {
                let kept = bytes.get(..MAX_NAME).unwrap_or(bytes);
                kept.escape_ascii().to_string().into()
            }
            Self::Address(address) => address.to_string().into(),
        }
    }
}

/// Where a request in progress is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

const OTHERS_PLACE: Place = Place(u32::MAX);

#[derive(Debug)]
struct Name {
    tag: u64,
    text: Arc<str>,
}

#[derive(Debug)]
pub(super) struct Callers {
    hasher: foldhash::quality::RandomState,
    words: Box<[AtomicU64]>,
    names: Box<[ArcSwapOption<Name>]>,
    /// The count of callers without a place of their own.
    others: AtomicU64,
    /// Callers with a place of their own that have requests in progress.
    active: AtomicU32,
}

enum Found {
    Own(usize, u64),
    Idle(usize, u64),
    Full,
}

fn tag_of(id: u64) -> u64 {
    // Zero is an empty word.
    (id >> COUNT_BITS).max(1)
}

fn count_of(word: u64) -> u64 {
    word & MAX_COUNT
}

impl Callers {
    /// A table for about this many callers at once; twice as many places, since hashes are not even.
    /// Without any, all callers are one.
    pub(super) fn new(max: u32) -> Self {
        let places = match max {
            0 => 0,
            max => (max as usize * 2).next_power_of_two().max(WAYS),
        };
        Self {
            hasher: foldhash::quality::RandomState::default(),
            words: (0..places).map(|_| AtomicU64::new(0)).collect(),
            names: (0..places).map(|_| ArcSwapOption::empty()).collect(),
            others: AtomicU64::new(0),
            active: AtomicU32::new(0),
        }
    }

    pub(super) fn id(&self, identity: Identity<'_>) -> u64 {
        match identity {
            Identity::All => 0,
            Identity::Text(bytes) => self.hasher.hash_one(bytes),
            Identity::Address(address) => self.hasher.hash_one(address),
        }
    }

    /// Who a caller that has to wait waits as: those that find no place of their own are one.
    pub(super) fn known_as(&self, id: u64) -> u64 {
        match self.find(id) {
            Found::Full if !self.words.is_empty() => OTHERS_ID,
            Found::Own(..) | Found::Idle(..) | Found::Full => id,
        }
    }

    /// Who a request that is counted there would have waited as.
    pub(super) fn counted_as(&self, id: u64, place: Place) -> u64 {
        if place == OTHERS_PLACE && !self.words.is_empty() {
            OTHERS_ID
        } else {
            id
        }
    }

    /// The name for people of one that waits.
    pub(super) fn name_of(known_as: u64, who: Identity<'_>) -> Arc<str> {
        match known_as {
            OTHERS_ID => OTHERS.into(),
            _ => who.name(),
        }
    }

    /// Counts one more request of a caller that has fewer than `max`. `name` is asked for when the caller
    /// was not in the table.
    pub(super) fn acquire(
        &self,
        id: u64,
        max: Option<u32>,
        name: impl Fn() -> Arc<str>,
    ) -> Option<Place> {
        let max = max.map_or(MAX_COUNT, |max| u64::from(max).min(MAX_COUNT));
        let tag = tag_of(id);
        let mut retries = 0;
        if id == OTHERS_ID {
            return self.acquire_other(max);
        }
        loop {
            let (index, word, next) = match self.find(id) {
                Found::Own(_, word) if count_of(word) >= max => return None,
                Found::Own(index, word) => (index, word, word + 1),
                Found::Idle(..) if max == 0 => return None,
                Found::Idle(index, word) => (index, word, (tag << COUNT_BITS) | 1),
                Found::Full => return self.acquire_other(max),
            };
            let Some(place) = self.words.get(index) else {
                return self.acquire_other(max);
            };
            if place
                .compare_exchange_weak(word, next, SeqCst, SeqCst)
                .is_err()
            {
                continue;
            }
            // Two workers may have given a caller two places at the same moment; who sees that steps back.
            if count_of(next) == 1 {
                if retries < RETRIES && self.is_doubled(id, index) {
                    retries += 1;
                    if count_of(place.fetch_sub(1, SeqCst)) > 1 {
                        // Another request of it stays here.
                        self.active.fetch_add(1, SeqCst);
                    }
                    continue;
                }
                self.active.fetch_add(1, SeqCst);
                self.note_name(index, tag, name);
            }
            return Some(Place(u32::try_from(index).unwrap_or(u32::MAX)));
        }
    }

    fn acquire_other(&self, max: u64) -> Option<Place> {
        self.others
            .fetch_update(SeqCst, SeqCst, |count| (count < max).then_some(count + 1))
            .ok()
            .map(|_| OTHERS_PLACE)
    }

    pub(super) fn release(&self, place: Place) {
        match self.words.get(place.0 as usize) {
            None => {
                self.others.fetch_sub(1, SeqCst);
            }
            Some(word) if count_of(word.fetch_sub(1, SeqCst)) == 1 => {
                self.active.fetch_sub(1, SeqCst);
            }
            Some(_) => {}
        }
    }

    /// Whether a caller has an equal share of so many places, or more, among all that have any. Where
    /// callers are not told apart, it always has.
    pub(super) fn has_share(&self, id: u64, places: u32) -> bool {
        if self.words.is_empty() {
            return true;
        }
        let others = u64::from(self.others.load(Relaxed) > 0);
        let active = u64::from(self.active.load(Relaxed)) + others;
        self.count(id).saturating_mul(active) >= u64::from(places)
    }

    /// How many requests of a caller are in progress, as far as it has a place of its own.
    pub(super) fn count(&self, id: u64) -> u64 {
        if id == OTHERS_ID {
            return self.others.load(SeqCst);
        }
        match self.find(id) {
            Found::Own(_, word) => count_of(word),
            Found::Idle(..) => 0,
            Found::Full => self.others.load(Relaxed),
        }
    }

    /// The callers with most requests in progress, most first.
    pub(super) fn top(&self, max: usize) -> Vec<(Arc<str>, u64)> {
        if self.words.is_empty() {
            return Vec::new();
        }
        // Words only: names are looked up for those that are shown.
        let mut busy: Vec<(u64, Option<usize>)> = self
            .words
            .iter()
            .enumerate()
            .map(|(index, word)| (count_of(word.load(Relaxed)), Some(index)))
            .chain([(self.others.load(Relaxed), None)])
            .filter(|(count, _)| *count > 0)
            .collect();
        busy.sort_unstable_by_key(|(count, _)| std::cmp::Reverse(*count));
        busy.truncate(max);
        busy.into_iter()
            .map(|(count, index)| {
                (
                    index.map_or_else(|| OTHERS.into(), |at| self.name(at)),
                    count,
                )
            })
            .collect()
    }

    /// The caller with most requests in progress.
    pub(super) fn biggest(&self) -> Option<(Arc<str>, u64)> {
        let all = self.words.iter().enumerate();
        let (count, index) = all
            .map(|(index, word)| (count_of(word.load(Relaxed)), index))
            .max()?;
        let others = self.others.load(Relaxed);
        match count.max(others) {
            0 => None,
            most if most == count => Some((self.name(index), count)),
            _ => Some((OTHERS.into(), others)),
        }
    }

    fn set(&self, id: u64) -> std::ops::Range<usize> {
        let sets = self.words.len() / WAYS;
        let low = usize::try_from(id & u64::from(u32::MAX)).unwrap_or_default();
        let first = low.checked_rem(sets).unwrap_or_default() * WAYS;
        first..(first + WAYS).min(self.words.len())
    }

    /// The caller's place where it has requests, else one that it had, else one that nobody uses.
    fn find(&self, id: u64) -> Found {
        let tag = tag_of(id);
        let (mut known, mut idle) = (None, None);
        let range = self.set(id);
        let first = range.start;
        for (index, word) in (first..).zip(self.words.get(range).unwrap_or_default()) {
            let word = word.load(SeqCst);
            match (word >> COUNT_BITS == tag, count_of(word)) {
                (true, 1..) => return Found::Own(index, word),
                (true, 0) => known = known.or(Some((index, word))),
                (false, 0) => idle = idle.or(Some((index, word))),
                (false, 1..) => {}
            }
        }
        known
            .or(idle)
            .map_or(Found::Full, |(index, word)| Found::Idle(index, word))
    }

    fn is_doubled(&self, id: u64, own: usize) -> bool {
        let tag = tag_of(id);
        let range = self.set(id);
        let first = range.start;
        (first..)
            .zip(self.words.get(range).unwrap_or_default())
            .any(|(index, word)| {
                let word = word.load(SeqCst);
                index != own && word >> COUNT_BITS == tag && count_of(word) > 0
            })
    }

    fn note_name(&self, index: usize, tag: u64, name: impl Fn() -> Arc<str>) {
        if let Some(slot) = self.names.get(index)
            && slot.load().as_ref().is_none_or(|known| known.tag != tag)
        {
            let text = name();
            slot.store(Some(Arc::new(Name { tag, text })));
        }
    }

    fn name(&self, index: usize) -> Arc<str> {
        let tag = self
            .words
            .get(index)
            .map_or(0, |word| word.load(Relaxed) >> COUNT_BITS);
        self.names
            .get(index)
            .and_then(|slot| slot.load_full())
            .filter(|name| name.tag == tag)
            .map_or_else(|| "?".into(), |name| Arc::clone(&name.text))
    }
}
