//! The downstream connections of a worker, where draining finds them.

use std::{
    cell::{Cell, RefCell},
    fmt::Debug,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Instant,
};

use super::Worker;
use crate::{config::listener::TrafficDirection, listener::Active};

/// A connection from a client, whatever it speaks.
pub trait Connection: Debug {
    /// The listener as it was when the connection was accepted.
    fn listener(&self) -> &Arc<Active>;

    /// Begins to drain.
    fn drain(&self);
}

/// A connection that is open: its listener counts it, and draining finds it. Dropping this is its end.
#[derive(Debug)]
pub struct Open {
    worker: Rc<Worker>,
    listener: Arc<Active>,
    key: usize,
    start: Instant,
}

impl Open {
    /// It was accepted at `start`.
    pub fn new(worker: &Rc<Worker>, connection: Rc<dyn Connection>, start: Instant) -> Self {
        let listener = Arc::clone(connection.listener());
        listener.stats.cx_total.inc();
        listener.stats.cx_active.inc();
        Self {
            key: worker.connections.insert(connection),
            worker: Rc::clone(worker),
            listener,
            start,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.connections.remove(self.key);
        let stats = &self.listener.stats;
        stats.cx_active.dec();
        stats.cx_destroy.inc();
        let length = self.start.elapsed().as_millis();
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        stats.cx_length_ms.record(length);
    }
}

/// Who to wake when somebody else wants something of a connection.
#[derive(Debug, Default)]
pub struct Bell(RefCell<Option<Waker>>);

impl Bell {
    /// This one from now on.
    pub fn remember(&self, waker: &Waker) {
        let mut remembered = self.0.borrow_mut();
        if !remembered.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *remembered = Some(waker.clone());
        }
    }

    /// Wakes who was remembered.
    pub fn ring(&self) {
        if let Some(waker) = &*self.0.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// How many connections to and from the application a worker has. It alone writes, the main thread reads:
/// workers do not share its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Busy(AtomicUsize);

impl Busy {
    /// Whether there is none.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

/// Every open connection.
#[derive(Debug, Default)]
pub struct Connections {
    slots: RefCell<Vec<Option<Rc<dyn Connection>>>>,
    free: RefCell<Vec<usize>>,
    count: Cell<usize>,
    /// Those of listeners with a direction.
    busy: Arc<Busy>,
    /// Who waits for the last one to end.
    empty: RefCell<Option<Waker>>,
}

impl Connections {
    /// None yet; `busy` follows.
    #[must_use]
    pub fn counted(busy: Arc<Busy>) -> Self {
        Self {
            busy,
            ..Self::default()
        }
    }

    /// Adds a connection; the key removes it.
    pub fn insert(&self, connection: Rc<dyn Connection>) -> usize {
        self.count.set(self.count.get() + 1);
        if is_of_application(&*connection) {
            let busy = self.busy.0.load(Relaxed);
            self.busy.0.store(busy + 1, Relaxed);
        }
        let connection = Some(connection);
        let mut slots = self.slots.borrow_mut();
        if let Some(key) = self.free.borrow_mut().pop()
            && let Some(slot) = slots.get_mut(key)
        {
            *slot = connection;
            return key;
        }
        slots.push(connection);
        slots.len() - 1
    }

    /// Removes a connection.
    pub fn remove(&self, key: usize) {
        let removed = self.slots.borrow_mut().get_mut(key).and_then(Option::take);
        if let Some(removed) = removed {
            if is_of_application(&*removed) {
                let busy = self.busy.0.load(Relaxed);
                self.busy.0.store(busy.saturating_sub(1), Relaxed);
            }
            self.free.borrow_mut().push(key);
            self.count.set(self.count.get() - 1);
            if self.count.get() == 0
                && let Some(waker) = self.empty.borrow_mut().take()
            {
                waker.wake();
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.get()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// Begins to drain the connections of listeners that `is_gone` says are gone.
    pub fn drain(&self, is_gone: impl Fn(&Arc<Active>) -> bool) {
        // Collected first: a drained connection may end at once.
        let drained: Vec<Rc<dyn Connection>> = self
            .slots
            .borrow()
            .iter()
            .flatten()
            .filter(|connection| is_gone(connection.listener()))
            .cloned()
            .collect();
        for connection in drained {
            connection.drain();
        }
    }

    /// Ends once there is no connection.
    pub async fn wait_empty(&self) {
        std::future::poll_fn(|task| {
            if self.is_empty() {
                return std::task::Poll::Ready(());
            }
            *self.empty.borrow_mut() = Some(task.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }
}

/// Whether it comes to the application or from it.
fn is_of_application(connection: &dyn Connection) -> bool {
    connection.listener().config.direction != TrafficDirection::Unspecified
}
