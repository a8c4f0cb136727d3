//! Log-linear histograms: ninety buckets a decade, as in Envoy's (circllhist), merged on read.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::add_to;

/// Buckets in a decade: mantissas 10 to 99.
const DECADE: usize = 90;
/// Decades of a `u64`.
const DECADES: usize = 20;

/// What a histogram's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Just numbers.
    Unspecified,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

/// Buckets of one decade; made when a first value falls there.
type Page = Box<[AtomicU64; DECADE]>;

/// One worker's share.
#[derive(Debug)]
struct Row {
    zero: AtomicU64,
    pages: [OnceLock<Page>; DECADES],
}

/// Storage of one histogram.
#[derive(Debug)]
pub(super) struct Cells {
    unit: Unit,
    rows: Box<[OnceLock<Box<Row>>]>,
    interval: Mutex<Interval>,
}

/// Only touched by the main thread.
#[derive(Debug, Default)]
struct Interval {
    /// What was there at the last flush.
    flushed: Summary,
    /// What came in between the last two flushes.
    last: Summary,
}

/// A bucket's place: its decade and mantissa − 10; none is the zero bucket.
fn place(value: u64) -> Option<(usize, usize)> {
    let decade = value.checked_ilog10()?;
    let mantissa = match decade {
        0 => value * 10,
        _ => value / 10_u64.pow(decade - 1),
    };
    let offset = usize::try_from(mantissa - 10).ok()?;
    Some((usize::try_from(decade).ok()?, offset))
}

impl Cells {
    pub(super) fn new(unit: Unit, rows: usize) -> Self {
        Self {
            unit,
            rows: (0..rows).map(|_| OnceLock::new()).collect(),
            interval: Mutex::default(),
        }
    }

    pub(super) fn unit(&self) -> Unit {
        self.unit
    }

    #[inline]
    pub(super) fn record(&self, row: usize, shared: bool, value: u64) {
        let row = self.rows[row].get_or_init(|| {
            Box::new(Row {
                zero: AtomicU64::new(0),
                pages: [const { OnceLock::new() }; DECADES],
            })
        });
        let cell = match place(value) {
            None => &row.zero,
            Some((decade, offset)) => {
                let page = row.pages[decade]
                    .get_or_init(|| Box::new([const { AtomicU64::new(0) }; DECADE]));
                &page[offset]
            }
        };
        add_to(cell, shared, 1);
    }

    /// Everything recorded.
    pub(super) fn cumulative(&self) -> Summary {
        let mut buckets: Vec<(u16, u64)> = Vec::new();
        for row in self.rows.iter().filter_map(OnceLock::get) {
            let mut add = |index: usize, cell: &AtomicU64| {
                let count = cell.load(Relaxed);
                if count > 0 {
                    buckets.push((u16::try_from(index).unwrap_or(u16::MAX), count));
                }
            };
            add(0, &row.zero);
            for (decade, page) in row.pages.iter().enumerate() {
                for (offset, cell) in page
                    .get()
                    .into_iter()
                    .flat_map(|page| page.iter().enumerate())
                {
                    add(1 + decade * DECADE + offset, cell);
                }
            }
        }
        buckets.sort_unstable_by_key(|(index, _)| *index);
        buckets.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        Summary { buckets }
    }

    /// What was recorded in the last whole interval.
    pub(super) fn interval(&self) -> Summary {
        self.interval_state().last.clone()
    }

    fn interval_state(&self) -> std::sync::MutexGuard<'_, Interval> {
        self.interval.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn flush(&self) {
        if self.rows.iter().all(|row| row.get().is_none()) {
            return;
        }
        let now = self.cumulative();
        let mut interval = self.interval_state();
        interval.last = now.since(&interval.flushed);
        interval.flushed = now;
    }

    /// Forgets everything. A value recorded by a worker at this very moment may survive.
    pub(super) fn reset(&self) {
        for row in self.rows.iter().filter_map(OnceLock::get) {
            row.zero.store(0, Relaxed);
            for page in row.pages.iter().filter_map(OnceLock::get) {
                page.iter().for_each(|cell| cell.store(0, Relaxed));
            }
        }
        *self.interval_state() = Interval::default();
    }
}

/// Merged buckets of a histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bucket index and count, ordered; without empty buckets.
    buckets: Vec<(u16, u64)>,
}

/// The lower bound and width of a bucket.
fn bounds(index: u16) -> (f64, f64) {
    let Some(index) = usize::from(index).checked_sub(1) else {
        return (0.0, 0.0);
    };
    let scale = 10_f64.powi(i32::try_from(index / DECADE).unwrap_or(i32::MAX) - 1);
    let mantissa = u32::try_from(10 + index % DECADE).unwrap_or(u32::MAX);
    (f64::from(mantissa) * scale, scale)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are shown, not computed with"
)]
fn float(count: u64) -> f64 {
    count as f64
}

impl Summary {
    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// About their sum, from the middles of the buckets (the harmonic ones), as Envoy has it.
    #[must_use]
    pub fn sum(&self) -> f64 {
        let middle = |index| {
            let (low, width) = bounds(index);
            match low > 0.0 {
                true => 2.0 * low * (low + width) / (2.0 * low + width),
                false => 0.0,
            }
        };
        self.buckets
            .iter()
            .map(|(index, count)| middle(*index) * float(*count))
            .sum()
    }

    /// How many values are at most `bound`, for a bound that a bucket starts at.
    #[must_use]
    pub fn count_up_to(&self, bound: f64) -> u64 {
        let within = |index: u16| bounds(index).0 <= bound;
        self.buckets
            .iter()
            .take_while(|(index, _)| within(*index))
            .map(|(_, count)| count)
            .sum()
    }

    /// The value below which the part `q` (0 to 1) lies: samples are spread evenly over their bucket, as
    /// in Envoy. None if there is nothing.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let wanted = (q * float(self.count())).ceil().max(1.0);
        let mut below = 0.0;
        let mut value = None;
        for (index, count) in &self.buckets {
            let (low, width) = bounds(*index);
            let within = (wanted - below).min(float(*count));
            value = Some(low + width * within / (float(*count) + 1.0));
            below += float(*count);
            if below >= wanted {
                break;
            }
        }
        value
    }

    /// Lower bound, width and count of each bucket that is not empty.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, f64, u64)> + '_ {
        self.buckets.iter().map(|(index, count)| {
            let (low, width) = bounds(*index);
            (low, width, *count)
        })
    }

    fn since(&self, earlier: &Self) -> Self {
        let mut before = earlier.buckets.iter().peekable();
        let buckets = self
            .buckets
            .iter()
            .filter_map(|(index, count)| {
                while before.next_if(|(other, _)| other < index).is_some() {}
                let old = before
                    .next_if(|(other, _)| other == index)
                    .map_or(0, |(_, count)| *count);
                let count = count.saturating_sub(old);
                (count > 0).then_some((*index, count))
            })
            .collect();
        Self { buckets }
    }
}
