//! The line of requests that wait for a connection of one pool.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

use super::{ConnectFailure, Failure};

/// A line; `C` is what is waited for.
pub(super) struct Line<C> {
    waiters: RefCell<VecDeque<Rc<Waiter<C>>>>,
}

struct Waiter<C> {
    outcome: Cell<Option<Result<C, Failure>>>,
    waker: Cell<Option<Waker>>,
}

/// A place in the line; leaving it early is dropping it.
pub(super) struct Place<'a, C> {
    line: &'a Line<C>,
    waiter: Rc<Waiter<C>>,
    give_back: &'a dyn Fn(C),
}

impl<C> Line<C> {
    pub(super) fn new() -> Self {
        Self {
            waiters: RefCell::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.borrow().len()
    }

    /// Joins at the end. `give_back` takes what was handed to a waiter that had just left.
    pub(super) fn join<'a>(&'a self, give_back: &'a dyn Fn(C)) -> Place<'a, C> {
        let waiter = Rc::new(Waiter {
            outcome: Cell::new(None),
            waker: Cell::new(None),
        });
        self.waiters.borrow_mut().push_back(Rc::clone(&waiter));
        Place {
            line: self,
            waiter,
            give_back,
        }
    }

    /// Hands `item` to the first in line, or gives it back if nobody waits.
    pub(super) fn serve(&self, item: C) -> Result<(), C> {
        match self.waiters.borrow_mut().pop_front() {
            Some(waiter) => {
                waiter.finish(Ok(item));
                Ok(())
            }
            None => Err(item),
        }
    }

    /// Fails everybody in line; how many there were.
    pub(super) fn fail(&self, failure: &ConnectFailure) -> usize {
        let waiters = self.waiters.take();
        for waiter in &waiters {
            waiter.finish(Err(Failure::Connect(failure.clone())));
        }
        waiters.len()
    }
}

impl<C> Waiter<C> {
    fn finish(&self, outcome: Result<C, Failure>) {
        self.outcome.set(Some(outcome));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<C> Place<'_, C> {
    /// Waits until served or failed.
    pub(super) async fn outcome(&self) -> Result<C, Failure> {
        poll_fn(|cx| match self.waiter.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.waiter.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl<C> Drop for Place<'_, C> {
    fn drop(&mut self) {
        self.line
            .waiters
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, &self.waiter));
        if let Some(Ok(item)) = self.waiter.outcome.take() {
            (self.give_back)(item);
        }
    }
}
