//! The downstream connections of a worker, where draining finds them.

use std::{
    cell::{Cell, RefCell},
    fmt::Debug,
    rc::Rc,
    sync::Arc,
    task::Waker,
};

use crate::listener::Active;

/// A connection from a client, whatever it speaks.
pub trait Connection: Debug {
    /// The listener as it was when the connection was accepted.
    fn listener(&self) -> &Arc<Active>;

    /// Begins to drain.
    fn drain(&self);
}

/// Every open connection.
#[derive(Debug, Default)]
pub struct Connections {
    slots: RefCell<Vec<Option<Rc<dyn Connection>>>>,
    free: RefCell<Vec<usize>>,
    count: Cell<usize>,
    /// Who waits for the last one to end.
    empty: RefCell<Option<Waker>>,
}

impl Connections {
    /// Adds a connection; the key removes it.
    pub fn insert(&self, connection: Rc<dyn Connection>) -> usize {
        self.count.set(self.count.get() + 1);
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
        if removed.is_some() {
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
