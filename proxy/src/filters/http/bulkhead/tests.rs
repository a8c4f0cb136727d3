use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use outrigger_proto::{
    message_from_value,
    outrigger::extensions::filters::http::bulkhead::v1alpha1::{
        Bulkhead as Proto, BulkheadPerRoute,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    callers::{Callers, Identity, OTHERS},
    config::{Config, Key, Limits, RouteConfig},
    queue::{Asks, Pushed, Queue},
    registry::Bulkheads,
    shared::{Bulkhead, Entry, GaveUp, Permit, Waiting},
};
use crate::{
    convert::Sink, filters::http::FilterConfig, telemetry::stats::Registry, worker::Timers,
};

fn limits(max_concurrent: u32, max_queued: u32) -> Limits {
    Limits {
        origin: "Bulkhead/shop/reviews".into(),
        max_concurrent,
        max_queued,
        queue_timeout: Duration::from_millis(250),
        max_concurrent_per_caller: None,
        max_tracked_callers: 64,
    }
}

fn bulkhead(limits: Limits) -> Arc<Bulkhead> {
    Bulkhead::new(&"reviews".into(), limits, &Registry::new(1))
}

fn caller(name: &'static str) -> Identity<'static> {
    Identity::Text(name.as_bytes())
}

fn admitted(entry: Entry) -> Permit {
    match entry {
        Entry::Admitted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn waiting(entry: Entry) -> Waiting {
    match entry {
        Entry::Waits(waiting) => waiting,
        other => panic!("{other:?}"),
    }
}

/// Runs with a clock that goes on only when everything waits.
fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

type Wait = Pin<Box<dyn Future<Output = Result<Permit, GaveUp>>>>;

fn wait(waiting: Waiting) -> Wait {
    Box::pin(async move { waiting.wait(&mut Timers::default().timer()).await })
}

fn poll(wait: &mut Wait) -> Poll<Result<Permit, GaveUp>> {
    wait.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

mod queue {
    use super::*;

    fn push(
        queue: &mut Queue<&'static str>,
        caller: u64,
        lane: u8,
        value: &'static str,
        max: usize,
    ) -> Pushed<&'static str> {
        let asks = Asks {
            caller,
            in_progress: 0,
            lane,
        };
        queue.push(asks, || caller.to_string().into(), value, max)
    }

    /// With nothing in progress.
    fn pop_all(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        let next = || queue.pop(|_| 0, |_, _| Some(())).map(|(value, ())| value);
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn lanes_first_then_callers_by_turns_then_arrival() {
        let mut queue = Queue::default();
        for (caller, lane, value) in [
            (1, 1, "late 1"),
            (1, 0, "a1"),
            (1, 0, "a2"),
            (1, 0, "a3"),
            (2, 0, "b1"),
            (3, 0, "c1"),
            (2, 0, "b2"),
        ] {
            assert!(matches!(
                push(&mut queue, caller, lane, value, 10),
                Pushed::Waits(_)
            ));
        }
        assert_eq!(
            pop_all(&mut queue),
            ["a1", "b1", "c1", "a2", "b2", "a3", "late 1"]
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn who_has_fewest_in_progress_is_next() {
        let mut queue = Queue::default();
        for (caller, lane, value) in [
            (1, 0, "a1"),
            (1, 0, "a2"),
            (2, 0, "b1"),
            (2, 0, "b2"),
            (3, 0, "c1"),
            (4, 1, "d1"),
        ] {
            push(&mut queue, caller, lane, value, 10);
        }
        let in_progress = RefCell::new(HashMap::from([(1, 3), (2, 1), (3, 2), (4, 0)]));
        for (caller, count) in in_progress.borrow().iter() {
            queue.recount(*caller, *count);
        }
        let count = |id: u64| in_progress.borrow()[&id];
        let grant = |id: u64, _: &Arc<str>| {
            *in_progress.borrow_mut().get_mut(&id).unwrap() += 1;
            Some(id)
        };
        // Each that goes on counts; two that have equally many have turns.
        assert_eq!(queue.pop(count, grant), Some(("b1", 2)));
        assert_eq!(queue.pop(count, grant), Some(("c1", 3)));
        // What ends counts as soon as it is told, and what began without being told when it would be next.
        in_progress.borrow_mut().insert(1, 1);
        queue.recount(1, 1);
        assert_eq!(queue.pop(count, grant), Some(("a1", 1)));
        in_progress.borrow_mut().insert(1, 9);
        assert_eq!(queue.pop(count, grant), Some(("b2", 2)));
        assert_eq!(queue.pop(count, grant), Some(("a2", 1)));
        // Lanes come before all this.
        assert_eq!(queue.pop(count, grant), Some(("d1", 4)));
        assert_eq!(queue.pop(count, grant), None);
        assert!(queue.is_empty() && queue.top(9).is_empty());
    }

    #[test]
    fn callers_that_may_not_go_on_are_passed_over_and_keep_their_turn() {
        let mut queue = Queue::default();
        for (caller, value) in [(1, "a1"), (2, "b1"), (2, "b2")] {
            push(&mut queue, caller, 0, value, 10);
        }
        let only_two = |id: u64, _: &Arc<str>| (id == 2).then_some(());
        assert_eq!(queue.pop(|_| 0, only_two).unwrap().0, "b1");
        assert_eq!(queue.pop(|_| 0, only_two).unwrap().0, "b2");
        assert!(queue.pop(|_| 0, only_two).is_none());
        assert_eq!(pop_all(&mut queue), ["a1"]);
    }

    #[test]
    fn a_full_queue_refuses_the_newest_of_whoever_has_most() {
        let mut queue = Queue::default();
        for value in ["a1", "a2", "a3"] {
            push(&mut queue, 1, 0, value, 3);
        }
        // The noisy caller itself.
        assert!(matches!(
            push(&mut queue, 1, 0, "a4", 3),
            Pushed::Refused("a4")
        ));
        // Another one takes the room of its newest.
        assert!(matches!(
            push(&mut queue, 2, 0, "b1", 3),
            Pushed::Displaced(_, "a3")
        ));
        // Two and two are even: the newest is the one that comes.
        assert!(matches!(
            push(&mut queue, 2, 0, "b2", 3),
            Pushed::Refused("b2")
        ));
        // A request of an earlier lane is more urgent than those of its own caller in a later one.
        push(&mut queue, 3, 5, "c1", 4);
        for (caller, value) in [(3, "c2"), (3, "c3")] {
            push(&mut queue, caller, 5, value, 6);
        }
        assert!(matches!(
            push(&mut queue, 3, 0, "c0", 6),
            Pushed::Displaced(_, "c3")
        ));
        assert_eq!(queue.len(), 6);
        assert_eq!(pop_all(&mut queue), ["a1", "b1", "c0", "a2", "c1", "c2"]);
    }

    #[test]
    fn of_equally_many_the_one_with_more_in_progress_loses() {
        let mut queue = Queue::default();
        push(&mut queue, 1, 0, "a1", 2);
        push(&mut queue, 2, 0, "b1", 2);
        queue.recount(1, 7);
        assert!(matches!(
            push(&mut queue, 3, 0, "c1", 2),
            Pushed::Displaced(_, "a1")
        ));
        assert!(matches!(
            push(&mut queue, 4, 0, "d1", 2),
            Pushed::Refused("d1")
        ));
        assert_eq!(pop_all(&mut queue), ["b1", "c1"]);
    }

    #[test]
    fn who_leaves_is_gone() {
        let mut queue = Queue::default();
        let Pushed::Waits(first) = push(&mut queue, 1, 0, "a1", 9) else {
            panic!()
        };
        let Pushed::Waits(second) = push(&mut queue, 2, 0, "b1", 9) else {
            panic!()
        };
        push(&mut queue, 2, 0, "b2", 9);
        assert_eq!(queue.remove(first), Some("a1"));
        assert_eq!(queue.remove(first), None);
        assert_eq!(queue.remove(second), Some("b1"));
        assert_eq!(pop_all(&mut queue), ["b2"]);
    }
}

#[test]
fn callers_are_counted_up_to_their_limit() {
    let callers = Callers::new(16);
    let id = |name| callers.id(caller(name));
    let acquire = |name: &'static str| callers.acquire(id(name), Some(2), || caller(name).name());
    let (one, two) = (acquire("a").unwrap(), acquire("a").unwrap());
    assert!(acquire("a").is_none());
    let other = acquire("b\n").unwrap();
    assert_eq!(callers.top(9), [("a".into(), 2), ("b\\n".into(), 1)]);
    assert_eq!(callers.biggest().unwrap(), ("a".into(), 2));
    for place in [one, two, other] {
        callers.release(place);
    }
    assert_eq!(callers.count(id("a")), 0);
    assert!(callers.biggest().is_none());
}

#[test]
fn the_memory_for_callers_is_bounded_and_reused() {
    let callers = Callers::new(8);
    let acquire = |number: usize| {
        let text = number.to_string();
        let who = Identity::Text(text.as_bytes());
        callers
            .acquire(callers.id(who), None, || who.name())
            .unwrap()
    };
    let places: Vec<_> = (0..100).map(acquire).collect();
    let top = callers.top(200);
    assert_eq!(
        top.len(),
        17,
        "16 of their own, and one for all others: {top:?}"
    );
    assert_eq!(&*top[0].0, OTHERS);
    assert_eq!(top[0].1, 84);
    places.into_iter().for_each(|place| callers.release(place));
    assert!(callers.top(1).is_empty());
    // Places that nobody uses any more are taken over, with the new name.
    let last = acquire(1000);
    assert_eq!(callers.top(1), [("1000".into(), 1)]);
    callers.release(last);
}

#[test]
fn requests_wait_for_a_place_and_give_up_in_time() {
    run(async {
        let bulkhead = bulkhead(limits(1, 1));
        let first = admitted(bulkhead.enter(caller("a"), 0));
        let second = waiting(bulkhead.enter(caller("b"), 0));
        assert!(matches!(bulkhead.enter(caller("b"), 0), Entry::Refused));
        assert_eq!(bulkhead.counts(), (1, 1));
        drop(first);
        let second = wait(second).await.unwrap();
        assert_eq!(bulkhead.counts(), (1, 0));
        let third = wait(waiting(bulkhead.enter(caller("a"), 0)));
        let before = tokio::time::Instant::now();
        let gave_up = third.await.unwrap_err();
        assert_eq!(gave_up, GaveUp::TimedOut(Duration::from_millis(250)));
        assert!(before.elapsed() >= Duration::from_millis(249));
        assert_eq!(bulkhead.counts(), (1, 0));
        drop(second);
        assert_eq!(bulkhead.counts(), (0, 0));
    });
}

#[test]
fn who_goes_away_gives_back_what_it_was_just_granted() {
    let bulkhead = bulkhead(limits(1, 2));
    let first = admitted(bulkhead.enter(caller("a"), 0));
    let second = waiting(bulkhead.enter(caller("a"), 0));
    let third = waiting(bulkhead.enter(caller("a"), 0));
    drop(first);
    // Granted, and not noticed yet.
    drop(second);
    assert_eq!(bulkhead.counts(), (1, 0));
    let third = run(wait(third)).unwrap();
    drop(third);
    assert_eq!(bulkhead.counts(), (0, 0));
    assert_eq!(bulkhead.caller_count(caller("a")), 0);
}

#[test]
fn a_caller_at_its_own_limit_leaves_places_to_others() {
    let bulkhead = bulkhead(Limits {
        max_concurrent_per_caller: Some(1),
        ..limits(2, 4)
    });
    let noisy = admitted(bulkhead.enter(caller("noisy"), 0));
    let again = waiting(bulkhead.enter(caller("noisy"), 0));
    let other = admitted(bulkhead.enter(caller("other"), 0));
    assert_eq!(bulkhead.counts(), (2, 1));
    drop(other);
    assert_eq!(
        bulkhead.counts(),
        (1, 1),
        "the free place is not for who has one"
    );
    drop(noisy);
    assert_eq!(bulkhead.counts(), (1, 0));
    drop(again);
    assert_eq!(bulkhead.counts(), (0, 0));
}

#[test]
fn a_refusal_says_which_limit_and_who_fills_it() {
    let shared = bulkhead(limits(3, 0));
    let held: Vec<_> = ["noisy", "noisy", "quiet"]
        .map(|name| admitted(shared.enter(caller(name), 0)))
        .into();
    assert!(matches!(shared.enter(caller("quiet"), 0), Entry::Refused));
    let reason = shared.reject(caller("quiet"), None);
    assert_eq!(
        &*reason,
        "bulkhead max_concurrent=3 queued=0/0 filled by caller \"noisy\" 2 of 3 (Bulkhead/shop/reviews)"
    );
    let report = shared.report(5);
    assert_eq!(
        (
            report.in_use,
            report.queued,
            report.admitted,
            report.overflow
        ),
        (3, 0, 3, 1)
    );
    assert_eq!(report.top_callers[0], ("noisy".into(), 2));
    assert_eq!(report.last_rejection.unwrap().reason, reason);
    drop(held);

    let own = bulkhead(Limits {
        max_concurrent_per_caller: Some(1),
        ..limits(3, 2)
    });
    let _held = admitted(own.enter(caller("a\"b"), 0));
    assert_eq!(
        &*own.reject(caller("a\"b"), Some(Duration::from_millis(250))),
        "bulkhead max_concurrent_per_caller=1 queue_timeout=250ms filled by caller \"a\\\"b\" 1 of 1 (Bulkhead/shop/reviews)"
    );
    assert_eq!(own.report(1).queue_timeout, 1);

    let all = bulkhead(Limits {
        max_tracked_callers: 0,
        ..limits(1, 0)
    });
    let _held = admitted(all.enter(Identity::All, 0));
    assert_eq!(
        &*all.reject(Identity::All, None),
        "bulkhead max_concurrent=1 queued=0/0 (Bulkhead/shop/reviews)"
    );
}

#[test]
fn changed_limits_keep_what_is_in_use() {
    let bulkheads = Bulkheads::default();
    let registry = Registry::new(1);
    let config = |max_concurrent| Config {
        name: "reviews".into(),
        key: Key::All,
        lanes: None,
        cluster: None,
        limits: limits(max_concurrent, 5),
    };
    let one = bulkheads.get(&config(1), &registry);
    let first = admitted(one.enter(Identity::All, 0));
    let second = waiting(one.enter(Identity::All, 0));
    let same = bulkheads.get(&config(3), &registry);
    assert!(Arc::ptr_eq(&one, &same));
    assert_eq!(one.counts(), (2, 0), "a raised limit lets in who waits");
    assert_eq!(bulkheads.report(1)[0].limits.max_concurrent, 3);
    let less = bulkheads.get(&config(1), &registry);
    assert!(matches!(less.enter(Identity::All, 0), Entry::Waits(_)));
    drop((first, second));
    assert_eq!(one.counts(), (0, 0));
    drop((one, same, less));
    assert!(bulkheads.report(1).is_empty());
}

/// Places for 10 requests that take one step each, five callers: a share is 2 per step.
#[test]
fn a_caller_at_ten_times_its_share_takes_nothing_from_the_others() {
    const QUIET: [&str; 4] = ["a", "b", "c", "d"];
    let bulkhead = bulkhead(limits(10, 20));
    let mut running = Vec::new();
    let mut waits: Vec<(&str, usize, Wait)> = Vec::new();
    let mut served: HashMap<&str, usize> = HashMap::new();
    run(async {
        for step in 0..200 {
            // Else the runtime thinks that the test takes more than its share.
            tokio::task::yield_now().await;
            running.clear();
            for (name, since, mut wait) in std::mem::take(&mut waits) {
                match poll(&mut wait) {
                    Poll::Ready(Ok(permit)) => {
                        assert!(
                            name == "noisy" || step - since <= 2,
                            "{name} waited for {}",
                            step - since
                        );
                        *served.entry(name).or_default() += 1;
                        running.push(permit);
                    }
                    Poll::Ready(Err(why)) => {
                        assert!(name == "noisy", "{name} lost its room: {why:?}")
                    }
                    Poll::Pending => waits.push((name, since, wait)),
                }
            }
            let offers = std::iter::repeat_n("noisy", 20)
                .chain(QUIET.into_iter().flat_map(|name| [name, name]));
            for name in offers {
                match bulkhead.enter(caller(name), 0) {
                    Entry::Admitted(permit) => {
                        *served.entry(name).or_default() += 1;
                        running.push(permit);
                    }
                    Entry::Waits(waiting) => waits.push((name, step, wait(waiting))),
                    Entry::Refused => {
                        assert_eq!(name, "noisy", "step {step}: {:?}", bulkhead.report(9))
                    }
                }
            }
        }
    });
    for name in QUIET {
        assert!(served[name] >= 396, "{name}: {} of 400", served[name]);
    }
    assert!(
        (390..=420).contains(&served["noisy"]),
        "{}",
        served["noisy"]
    );
}

/// What became of the requests of one caller.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    asked: u32,
    served: u32,
    lost: u32,
}

/// Requests at random moments, in virtual microseconds: those of each caller are independent of
/// one another, as of many clients.
struct Arrivals {
    next: Vec<(f64, f64)>,
    random: u64,
}

impl Arrivals {
    /// So many requests a second of each caller.
    fn new(rates: &[f64]) -> Self {
        let mut arrivals = Self {
            next: rates.iter().map(|rate| (0.0, 1e6 / rate)).collect(),
            random: 0x9e37_79b9_7f4a_7c15,
        };
        for who in 0..rates.len() {
            arrivals.draw(who);
        }
        arrivals
    }

    fn draw(&mut self, who: usize) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let unit = ((self.random >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        let (at, mean) = &mut self.next[who];
        *at -= unit.ln() * *mean;
    }

    /// The next request: when, and of whom.
    fn take(&mut self) -> (u64, usize) {
        let all = self.next.iter().enumerate();
        let (who, (at, _)) = all.min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0)).unwrap();
        let at = *at as u64;
        self.draw(who);
        (at, who)
    }
}

/// A bulkhead of 100 with a queue of 50 before something that takes 50 ms, which can do 2,000 requests a second.
/// Five callers ask for 0.9 of a sixth of that, at random; one for ten times a sixth.
#[test]
fn callers_below_their_share_lose_nothing_to_one_far_above_it() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "noisy"];
    const NOISY: usize = 5;
    const SERVICE: u64 = 50_000;
    const PATIENCE: u64 = 100_000;
    const END: u64 = 20_000_000;
    let share = 2000.0 / 6.0;
    let mut rates = [share * 0.9; 6];
    rates[NOISY] = share * 10.0;
    let mut arrivals = Arrivals::new(&rates);
    let bulkhead = bulkhead(Limits {
        // Patience is of this test's clock.
        queue_timeout: Duration::from_secs(3600),
        ..limits(100, 50)
    });
    let mut tally = [Tally::default(); 6];
    let mut running: VecDeque<(u64, Permit)> = VecDeque::new();
    let mut waits: Vec<(usize, u64, Wait)> = Vec::new();
    run(async {
        // What waits no longer: goes on from `now`, or is refused.
        let settle = |now: u64, waits: &mut Vec<(usize, u64, Wait)>, tally: &mut [Tally; 6]| {
            let mut begun = Vec::new();
            waits.retain_mut(|(who, since, wait)| match poll(wait) {
                Poll::Ready(Ok(permit)) => {
                    tally[*who].served += 1;
                    begun.push((now + SERVICE, permit));
                    false
                }
                Poll::Ready(Err(_)) => {
                    tally[*who].lost += 1;
                    false
                }
                Poll::Pending if *since + PATIENCE < now => {
                    tally[*who].lost += 1;
                    false
                }
                Poll::Pending => true,
            });
            begun
        };
        loop {
            // Else the runtime thinks that the test takes more than its share.
            tokio::task::yield_now().await;
            let (now, who) = arrivals.take();
            while running.front().is_some_and(|(end, _)| *end <= now) {
                let (end, permit) = running.pop_front().unwrap();
                drop(permit);
                running.extend(settle(end, &mut waits, &mut tally));
            }
            if now > END {
                break;
            }
            tally[who].asked += 1;
            match bulkhead.enter(caller(NAMES[who]), 0) {
                Entry::Admitted(permit) => {
                    tally[who].served += 1;
                    running.push_back((now + SERVICE, permit));
                }
                Entry::Waits(waiting) => waits.push((who, now, wait(waiting))),
                Entry::Refused => tally[who].lost += 1,
            }
            running.extend(settle(now, &mut waits, &mut tally));
        }
    });
    let (quiet, noisy) = tally.split_at(NOISY);
    for one in quiet {
        assert!(one.asked > 5000, "{tally:?}");
        assert!(one.lost * 200 <= one.asked, "{tally:?}");
    }
    // The rest is the noisy caller's: next to nothing stays free.
    let all: u32 = tally.iter().map(|one| one.served).sum();
    assert!(all >= 39_600, "{all} of 40000: {tally:?}");
    assert!(noisy[0].served > 9000, "{tally:?}");
}

#[derive(Clone, Debug)]
enum Op {
    Enter(usize, u8),
    Leave(usize),
    Cancel(usize),
    Pass(u64),
    Limit(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => (0..4_usize, 0..3_u8).prop_map(|(caller, lane)| Op::Enter(caller, lane)),
        3 => any::<usize>().prop_map(Op::Leave),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => (0..200_u64).prop_map(Op::Pass),
        1 => (1..6_u32).prop_map(Op::Limit),
    ];
    prop::collection::vec(op, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever requests do, places and room are as many as those that have them, and no place stays
    /// free that somebody who waits could take.
    #[test]
    fn no_place_is_lost_or_doubled(ops in ops(), own_max in prop::option::of(1..4_u32), queue in 0..6_u32) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let base = Limits { max_concurrent_per_caller: own_max, ..limits(4, queue) };
        let bulkhead = bulkhead(base.clone());
        run(async {
            let mut max = 4;
            let mut held: Vec<(usize, Permit)> = Vec::new();
            let mut waits: Vec<(usize, Wait)> = Vec::new();
            for op in ops {
                tokio::task::yield_now().await;
                let mut may_exceed = false;
                match op {
                    Op::Enter(who, lane) => match bulkhead.enter(caller(NAMES[who]), lane) {
                        Entry::Admitted(permit) => held.push((who, permit)),
                        Entry::Waits(waiting) => waits.push((who, wait(waiting))),
                        Entry::Refused => {
                            prop_assert!(waits.len() >= queue as usize);
                        }
                    },
                    Op::Leave(index) if !held.is_empty() => {
                        drop(held.swap_remove(index % held.len()));
                    }
                    Op::Cancel(index) if !waits.is_empty() => {
                        drop(waits.swap_remove(index % waits.len()));
                    }
                    Op::Pass(millis) => tokio::time::advance(Duration::from_millis(millis)).await,
                    Op::Limit(new) => {
                        bulkhead.update(Limits { max_concurrent: new, ..base.clone() });
                        may_exceed = new < max;
                        max = new;
                    }
                    Op::Leave(_) | Op::Cancel(_) => {}
                }
                for (who, mut wait) in std::mem::take(&mut waits) {
                    match poll(&mut wait) {
                        Poll::Ready(Ok(permit)) => held.push((who, permit)),
                        Poll::Ready(Err(_)) => {}
                        Poll::Pending => waits.push((who, wait)),
                    }
                }
                prop_assert_eq!(bulkhead.counts(), (held.len() as u32, waits.len() as u32));
                prop_assert!(waits.len() <= queue as usize);
                let of = |who: usize| held.iter().filter(|(holder, _)| *holder == who).count();
                for (who, name) in NAMES.iter().enumerate() {
                    prop_assert_eq!(bulkhead.caller_count(caller(name)), of(who) as u64);
                    prop_assert!(own_max.is_none_or(|max| of(who) <= max as usize));
                }
                if held.len() < max as usize && !may_exceed {
                    let active = (0..NAMES.len()).filter(|who| of(*who) > 0).count();
                    let is_last = held.len() + max.div_ceil(16) as usize >= max as usize;
                    for (who, _) in &waits {
                        let has_share = of(*who) * active >= max as usize;
                        prop_assert!(
                            Some(of(*who) as u32) == own_max || (has_share && is_last),
                            "{} waits with {} of {} in use", who, held.len(), max
                        );
                    }
                }
            }
            drop((held, waits));
            prop_assert_eq!(bulkhead.counts(), (0, 0));
            let report = bulkhead.report(9);
            prop_assert!(report.top_callers.is_empty() && report.top_waiting.is_empty());
            Ok(())
        })?;
    }
}

/// How many run at once, and how many did at most.
#[derive(Default)]
struct Peak {
    now: AtomicU32,
    most: AtomicU32,
}

impl Peak {
    fn begin(&self) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
    }

    fn end(&self) {
        self.now.fetch_sub(1, SeqCst);
    }
}

/// Four threads, as workers are: never more than the limits, and everybody who waits goes on.
#[test]
fn workers_share_places_without_a_lost_wake_up() {
    const MAX: u32 = 3;
    const OWN_MAX: u32 = 2;
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let bulkhead = bulkhead(Limits {
        queue_timeout: Duration::from_secs(60),
        max_concurrent_per_caller: Some(OWN_MAX),
        ..limits(MAX, 1000)
    });
    let all = Arc::new(Peak::default());
    let own: Arc<[Peak; 3]> = Arc::default();
    let request = async |index: usize, round: usize| {
        let permit = match bulkhead.enter(caller(NAMES[index]), 0) {
            Entry::Admitted(permit) => permit,
            // Some go away at once.
            Entry::Waits(_) if round % 7 == 3 => return,
            Entry::Waits(waiting) => wait(waiting).await.unwrap(),
            Entry::Refused => panic!("there is room for all"),
        };
        all.begin();
        own[index].begin();
        tokio::task::yield_now().await;
        own[index].end();
        all.end();
        drop(permit);
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let request = &request;
            scope.spawn(move || {
                let tasks = (0..4).map(|task| async move {
                    for round in 0..400 {
                        request((thread + task) % 3, round).await;
                    }
                });
                tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap()
                    .block_on(futures_util::future::join_all(tasks));
            });
        }
    });
    assert_eq!(bulkhead.counts(), (0, 0));
    assert!(bulkhead.report(9).top_callers.is_empty());
    assert!((1..=MAX).contains(&all.most.load(SeqCst)));
    for peak in own.iter() {
        assert!((1..=OWN_MAX).contains(&peak.most.load(SeqCst)));
    }
}

#[test]
fn entering_and_leaving_without_a_queue_allocates_nothing() {
    let bulkhead = bulkhead(Limits {
        max_concurrent_per_caller: Some(2),
        ..limits(2, 0)
    });
    // The first request of a caller notes its name; it may take the place of another one's.
    drop(bulkhead.enter(caller("a"), 0));
    let (outcomes, count) = crate::allocations::during(|| {
        let first = bulkhead.enter(caller("a"), 0);
        let outcomes = [&first, &bulkhead.enter(caller("a"), 0)]
            .map(|entry| matches!(entry, Entry::Admitted(_)));
        drop(first);
        outcomes
    });
    assert_eq!(outcomes, [true, true]);
    assert_eq!(count, 0);
}

fn read(value: Value) -> Result<Config, Vec<String>> {
    let proto = message_from_value::<Proto>(value).unwrap();
    let sink = Sink::new();
    let config = Config::from_proto(&sink.root(""), proto);
    sink.finish(config)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn defaults_are_filled_in() {
    let config = read(json!({"stat_prefix": "r", "max_concurrent": 5, "max_queued": 2})).unwrap();
    assert_eq!(&*config.limits.origin, "r");
    assert_eq!(config.limits.queue_timeout, Duration::from_secs(1));
    assert_eq!(config.limits.max_tracked_callers, 0);
    let config = read(json!({
        "stat_prefix": "r", "max_concurrent": 5, "caller_header": "X-Caller",
        "priority": {"header": "x-lane", "lanes": {"live": 0, "batch": 7}, "default_lane": 3}
    }))
    .unwrap();
    assert_eq!(config.limits.max_tracked_callers, 1024);
    assert_eq!(config.key, Key::Header("x-caller".parse().unwrap()));
    let lanes = config.lanes.unwrap();
    let mut headers = http::HeaderMap::new();
    assert_eq!(lanes.of(&headers), 3);
    for (value, lane) in [("live", 0), ("batch", 7), ("other", 3)] {
        headers.insert("x-lane", value.parse().unwrap());
        assert_eq!(lanes.of(&headers), lane, "{value}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_its_path() {
    let mut value = json!({"stat_prefix": "r", "max_concurrent": 5, "queue_timeout": "1s",
        "max_concurrent_per_caller": 1, "max_tracked_callers": 2});
    assert_eq!(
        read(value.clone()).unwrap_err(),
        [
            "max_concurrent_per_caller: needs to know callers: set caller_header or caller_source_address",
            "max_tracked_callers: needs to know callers: set caller_header or caller_source_address",
            "queue_timeout: has no effect without max_queued",
        ]
    );
    value["max_queued"] = 1.into();
    value["caller_identity"] = true.into();
    assert_eq!(
        read(value).unwrap_err(),
        ["caller_identity: not supported: there is no TLS yet that tells a peer's identity"]
    );
    let route = |value: Value| {
        let proto = message_from_value::<BulkheadPerRoute>(value).unwrap();
        let sink = Sink::new();
        let config = Config::route_from_proto(&sink.root(""), proto);
        sink.finish(config).map_err(|errors| errors[0].to_string())
    };
    assert!(matches!(
        route(json!({"disabled": true})),
        Ok(RouteConfig::Disabled)
    ));
    assert_eq!(
        route(
            json!({"bulkhead": {"stat_prefix": "r", "max_concurrent": 1, "queue_timeout": "1s"}})
        )
        .unwrap_err(),
        "bulkhead.queue_timeout: has no effect without max_queued"
    );
}
