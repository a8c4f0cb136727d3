//! One bulkhead: its places, who has them, who waits. Shared by all workers.
//!
//! While there are free places and nobody waits, entering and leaving change atomics only. The queue
//! has a lock, which is taken when a request has to wait, gives up waiting, or leaves while others wait.
//!
//! Places that become free together are taken together while somebody waits, and so become free
//! together again; between two such moments more requests of callers below their share may come than
//! the queue holds. So while such have to wait, some places stay free for them: the reserve.
//!
//! No wake-up is lost: who is about to wait counts itself in `queued` before it looks for a free place,
//! and who leaves gives its place back before it looks at `queued`; both orders are total, so that one
//! of the two sees the other.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::oneshot;

use super::{
    callers::{Callers, Identity, Place},
    config::Limits,
    queue::{Asks, Pushed, Queue, Ticket},
};
use crate::{
    telemetry::stats::{Counter, Gauge, Registry},
    worker::Timer,
};

/// A place in the reserve.
const UNIT: u32 = 64;
/// One of so many places can be in the reserve.
const RESERVE: u32 = 16;

/// A bulkhead at run time.
#[derive(Debug)]
pub struct Bulkhead {
    name: Arc<str>,
    limits: ArcSwap<Limits>,
    in_use: Counted,
    queued: Counted,
    /// Places that callers with their share leave free, in fractions of [`UNIT`].
    reserve: Counted,
    callers: Callers,
    queue: Mutex<Queue<oneshot::Sender<Outcome>>>,
    stats: Stats,
    last_rejection: ArcSwapOption<LastRejection>,
}

/// A count with a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counted(AtomicU32);

#[derive(Debug)]
struct Stats {
    active: Gauge,
    queued: Gauge,
    limit: Gauge,
    queue_limit: Gauge,
    admitted: Counter,
    overflow: Counter,
    queue_timeout: Counter,
}

/// What becomes of a request that waits.
#[derive(Debug)]
enum Outcome {
    Granted(Permit),
    Displaced,
}

/// A request's place; given back when this is dropped.
#[derive(Debug)]
pub struct Permit(Option<Held>);

#[derive(Debug)]
struct Held {
    bulkhead: Arc<Bulkhead>,
    place: Place,
    /// Who the queue knows its caller as.
    caller: u64,
}

/// The latest refusal.
#[derive(Clone, Debug)]
pub struct LastRejection {
    /// When it was.
    pub at: SystemTime,
    /// What was said.
    pub reason: Box<str>,
}

/// What became of a request that asked to enter.
#[derive(Debug)]
pub(super) enum Entry {
    Admitted(Permit),
    Waits(Waiting),
    Refused,
}

/// A figure of a bulkhead at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name in statistics.
    pub name: Arc<str>,
    /// Its limits.
    pub limits: Arc<Limits>,
    /// Requests in progress.
    pub in_use: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Requests in progress of the callers that have most.
    pub top_callers: Vec<(Arc<str>, u64)>,
    /// Waiting requests of the callers that have most.
    pub top_waiting: Vec<(Arc<str>, usize)>,
    /// Requests admitted so far.
    pub admitted: u64,
    /// Requests refused so far for want of room in the queue.
    pub overflow: u64,
    /// Requests refused so far that waited too long.
    pub queue_timeout: u64,
    /// The latest refusal.
    pub last_rejection: Option<Arc<LastRejection>>,
}

impl Bulkhead {
    /// Counters are `bulkhead.<name>.…`.
    #[must_use]
    pub fn new(name: &Arc<str>, limits: Limits, registry: &Registry) -> Arc<Self> {
        let scope = registry.scope(&format!("bulkhead.{name}"));
        let bulkhead = Self {
            name: Arc::clone(name),
            in_use: Counted::default(),
            queued: Counted::default(),
            reserve: Counted::default(),
            callers: Callers::new(limits.max_tracked_callers),
            queue: Mutex::default(),
            stats: Stats {
                active: scope.gauge("active"),
                queued: scope.gauge("queued"),
                limit: scope.gauge("limit"),
                queue_limit: scope.gauge("queue_limit"),
                admitted: scope.counter("admitted"),
                overflow: scope.counter("overflow"),
                queue_timeout: scope.counter("queue_timeout"),
            },
            last_rejection: ArcSwapOption::empty(),
            limits: ArcSwap::from_pointee(limits),
        };
        bulkhead.show_limits();
        Arc::new(bulkhead)
    }

    /// Takes over changed limits: places in use stay counted, who waits may go on. On the main thread.
    pub(super) fn update(self: &Arc<Self>, limits: Limits) {
        if **self.limits.load() == limits {
            return;
        }
        self.limits.store(Arc::new(limits));
        self.show_limits();
        self.dispatch(&mut self.lock());
    }

    fn show_limits(&self) {
        let limits = self.limits.load();
        self.stats.limit.set(limits.max_concurrent.into());
        self.stats.queue_limit.set(limits.max_queued.into());
    }

    /// How many callers it was made for.
    pub(super) fn max_tracked_callers(&self) -> u32 {
        self.limits.load().max_tracked_callers
    }

    /// A place, or one in the queue.
    pub(super) fn enter(self: &Arc<Self>, who: Identity<'_>, lane: u8) -> Entry {
        let limits = self.limits.load();
        let id = self.callers.id(who);
        if self.queued.0.load(SeqCst) == 0
            && let Some(permit) = self.try_place(&limits, id, who)
        {
            return Entry::Admitted(permit);
        }
        self.enter_slowly(&limits, id, who, lane)
    }

    fn enter_slowly(
        self: &Arc<Self>,
        limits: &Limits,
        id: u64,
        who: Identity<'_>,
        lane: u8,
    ) -> Entry {
        self.queued.0.fetch_add(1, SeqCst);
        let mut queue = self.lock();
        // Who waits already goes first; the rest of them cannot go on whatever happens here.
        self.dispatch(&mut queue);
        let has_share = self.callers.has_share(id, limits.max_concurrent);
        let is_held_back = has_share && self.keeps_last_places(limits, self.in_use.0.load(SeqCst));
        if !is_held_back && self.take_place(limits) {
            let place = self
                .callers
                .acquire(id, limits.max_concurrent_per_caller, || who.name());
            if let Some(place) = place {
                if !has_share {
                    self.reserve_less(UNIT);
                }
                self.queued.0.fetch_sub(1, SeqCst);
                return Entry::Admitted(self.permit(id, place));
            }
            self.in_use.0.fetch_sub(1, SeqCst);
        } else if !has_share {
            self.reserve_more(limits);
        }
        let (sender, receiver) = oneshot::channel();
        let max = limits.max_queued as usize;
        let caller = self.callers.known_as(id);
        let asks = Asks {
            caller,
            in_progress: self.callers.count(caller),
            lane,
        };
        let name = || Callers::name_of(caller, who);
        let ticket = match queue.push(asks, name, sender, max) {
            Pushed::Waits(ticket) => {
                self.stats.queued.inc();
                ticket
            }
            Pushed::Displaced(ticket, other) => {
                self.queued.0.fetch_sub(1, SeqCst);
                // One that has gone meanwhile does not mind.
                drop(other.send(Outcome::Displaced));
                ticket
            }
            Pushed::Refused(_) => {
                self.queued.0.fetch_sub(1, SeqCst);
                return Entry::Refused;
            }
        };
        Entry::Waits(Waiting {
            bulkhead: Arc::clone(self),
            ticket: Some(ticket),
            receiver,
        })
    }

    /// A place if there is one, without asking who waits.
    fn try_place(self: &Arc<Self>, limits: &Limits, id: u64, who: Identity<'_>) -> Option<Permit> {
        let has_reserve = self.reserve.0.load(Relaxed) > 0;
        let lacks_share = has_reserve && !self.callers.has_share(id, limits.max_concurrent);
        if has_reserve && !lacks_share && self.keeps_last_places(limits, self.in_use.0.load(SeqCst))
        {
            return None;
        }
        if !self.take_place(limits) {
            return None;
        }
        let place = self
            .callers
            .acquire(id, limits.max_concurrent_per_caller, || who.name());
        match place {
            Some(place) => {
                if lacks_share {
                    self.reserve_less(UNIT);
                }
                Some(self.permit(id, place))
            }
            None => {
                self.give_back(None);
                None
            }
        }
    }

    /// Whether a caller that has its share must leave what is free, with so many in use.
    fn keeps_last_places(&self, limits: &Limits, in_use: u32) -> bool {
        let reserve = self.reserve.0.load(Relaxed).div_ceil(UNIT);
        let reserve = reserve.min(limits.max_concurrent.div_ceil(RESERVE));
        reserve > 0 && in_use.saturating_add(reserve) >= limits.max_concurrent
    }

    /// A caller without its share has to wait.
    fn reserve_more(&self, limits: &Limits) {
        let max = limits.max_concurrent.div_ceil(RESERVE).saturating_mul(UNIT);
        let more = |reserve: u32| Some(reserve.saturating_add(UNIT).min(max));
        // It is never refused.
        let _before = self.reserve.0.fetch_update(Relaxed, Relaxed, more);
    }

    /// A caller without its share did not have to wait, or what stayed free was of no use.
    fn reserve_less(&self, by: u32) {
        let less = |reserve: u32| (reserve > 0).then(|| reserve.saturating_sub(by));
        // Refused when there is nothing to take.
        let _before = self.reserve.0.fetch_update(Relaxed, Relaxed, less);
    }

    fn take_place(&self, limits: &Limits) -> bool {
        self.in_use
            .0
            .fetch_update(SeqCst, SeqCst, |now| {
                (now < limits.max_concurrent).then_some(now + 1)
            })
            .is_ok()
    }

    fn permit(self: &Arc<Self>, id: u64, place: Place) -> Permit {
        self.stats.active.inc();
        self.stats.admitted.inc();
        Permit(Some(Held {
            bulkhead: Arc::clone(self),
            caller: self.callers.counted_as(id, place),
            place,
        }))
    }

    /// Gives a place back, of this caller, if it was one's; hands it on if somebody waits.
    fn give_back(self: &Arc<Self>, caller: Option<u64>) {
        self.in_use.0.fetch_sub(1, SeqCst);
        if self.queued.0.load(SeqCst) > 0 {
            let mut queue = self.lock();
            if let Some(caller) = caller {
                queue.recount(caller, self.callers.count(caller));
            }
            self.dispatch(&mut queue);
        }
    }

    /// Gives free places to those that wait.
    fn dispatch(self: &Arc<Self>, queue: &mut Queue<oneshot::Sender<Outcome>>) {
        if queue.is_empty() {
            return;
        }
        let limits = self.limits.load();
        let max = limits.max_concurrent_per_caller;
        while !queue.is_empty() && self.take_place(&limits) {
            let in_use = self.in_use.0.load(SeqCst).saturating_sub(1);
            let keeps_last = self.keeps_last_places(&limits, in_use);
            let mut is_held_back = false;
            let next = queue.pop(
                |id| self.callers.count(id),
                |id, name| {
                    if keeps_last && self.callers.has_share(id, limits.max_concurrent) {
                        is_held_back = true;
                        return None;
                    }
                    let place = self.callers.acquire(id, max, || Arc::clone(name))?;
                    Some((id, place))
                },
            );
            let Some((sender, (id, place))) = next else {
                // All that wait are of callers that have as many as they may.
                self.in_use.0.fetch_sub(1, SeqCst);
                if is_held_back {
                    self.reserve_less(1);
                }
                return;
            };
            self.queued.0.fetch_sub(1, SeqCst);
            self.stats.queued.dec();
            let granted = Outcome::Granted(self.permit(id, place));
            if let Err(Outcome::Granted(permit)) = sender.send(granted) {
                // Nobody takes it, and dropping it would want the lock that is held here.
                permit.release_quietly();
                queue.recount(id, self.callers.count(id));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<oneshot::Sender<Outcome>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why a request of `who` was refused, and counts it.
    pub(super) fn reject(&self, who: Identity<'_>, waited: Option<Duration>) -> Box<str> {
        use std::fmt::Write as _;

        let limits = self.limits.load();
        let id = self.callers.id(who);
        let own_max = limits
            .max_concurrent_per_caller
            .filter(|max| self.callers.count(id) >= u64::from(*max));
        let mut text = match own_max {
            Some(max) => format!("bulkhead max_concurrent_per_caller={max}"),
            None => format!("bulkhead max_concurrent={}", limits.max_concurrent),
        };
        let mut add = |part: std::fmt::Arguments<'_>| {
            text.write_fmt(part)
                .expect("writing to a string does not fail");
        };
        match waited {
            None => {
                self.stats.overflow.inc();
                let queued = self.queued.0.load(Relaxed);
                add(format_args!(" queued={queued}/{}", limits.max_queued));
            }
            Some(waited) => {
                self.stats.queue_timeout.inc();
                add(format_args!(" queue_timeout={}ms", waited.as_millis()));
            }
        }
        match own_max {
            Some(max) => add(format_args!(
                " filled by caller \"{}\" {max} of {max}",
                who.name()
            )),
            None => {
                if let Some((name, count)) = self.callers.biggest() {
                    let max = limits.max_concurrent;
                    add(format_args!(
                        " filled by caller \"{name}\" {count} of {max}"
                    ));
                }
            }
        }
        add(format_args!(" ({})", limits.origin));
        let reason = text.into_boxed_str();
        self.last_rejection.store(Some(Arc::new(LastRejection {
            at: SystemTime::now(),
            reason: reason.clone(),
        })));
        reason
    }

    /// What can be seen from outside, with so many callers.
    #[must_use]
    pub fn report(&self, callers: usize) -> Report {
        Report {
            name: Arc::clone(&self.name),
            limits: self.limits.load_full(),
            in_use: self.in_use.0.load(Relaxed),
            queued: self.queued.0.load(Relaxed),
            top_callers: self.callers.top(callers),
            top_waiting: self.lock().top(callers),
            admitted: self.stats.admitted.value(),
            overflow: self.stats.overflow.value(),
            queue_timeout: self.stats.queue_timeout.value(),
            last_rejection: self.last_rejection.load_full(),
        }
    }
}

impl Permit {
    /// Gives the place back without handing it on.
    fn release_quietly(mut self) {
        if let Some(held) = self.0.take() {
            held.uncount();
            held.bulkhead.in_use.0.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.uncount();
            held.bulkhead.give_back(Some(held.caller));
        }
    }
}

impl Held {
    fn uncount(&self) {
        self.bulkhead.stats.active.dec();
        self.bulkhead.callers.release(self.place);
    }
}

/// A request in the queue; it leaves the queue when this is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    bulkhead: Arc<Bulkhead>,
    /// None once it has been taken out.
    ticket: Option<Ticket>,
    receiver: oneshot::Receiver<Outcome>,
}

/// Why a request that waited is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// Another one has the room in the queue.
    Displaced,
    /// It waited for as long as it may.
    TimedOut(Duration),
}

impl Waiting {
    /// The place, once there is one.
    pub(super) async fn wait(mut self, timer: &mut Timer) -> Result<Permit, GaveUp> {
        let timeout = self.bulkhead.limits.load().queue_timeout;
        let deadline = Instant::now() + timeout;
        let outcome = match timer.run_until(Some(deadline), &mut self.receiver).await {
            Ok(outcome) => outcome.ok(),
            Err(_) => {
                self.leave();
                // It may have been granted in the last moment.
                self.receiver.try_recv().ok()
            }
        };
        match outcome {
            Some(Outcome::Granted(permit)) => Ok(permit),
            Some(Outcome::Displaced) => Err(GaveUp::Displaced),
            None => Err(GaveUp::TimedOut(timeout)),
        }
    }

    fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let left = self.bulkhead.lock().remove(ticket);
        if left.is_some() {
            self.bulkhead.queued.0.fetch_sub(1, SeqCst);
            self.bulkhead.stats.queued.dec();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // When it was taken out by others, the channel holds a permit or nothing, and drops it.
        self.leave();
    }
}

#[cfg(test)]
impl Bulkhead {
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.in_use.0.load(SeqCst), self.queued.0.load(SeqCst))
    }

    pub(super) fn caller_count(&self, who: Identity<'_>) -> u64 {
        self.callers.count(self.callers.id(who))
    }
}
