//! What is on its way from a live request's body to a copy's: bounded, and never waited for.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::{
    http::{Body, BodyError},
    telemetry::stats::Counter,
    upstream::pool::UploadState,
};

/// Chunks of one body.
pub(super) struct Queue {
    frames: RefCell<VecDeque<Frame<Bytes>>>,
    /// Bytes in `frames`.
    held: Cell<usize>,
    /// How many bytes may be held.
    limit: usize,
    /// Bytes that the copy's body has still to come, where the head said so.
    remaining: Cell<Option<u64>>,
    is_complete: Cell<bool>,
    is_given_up: Cell<bool>,
    /// Wakes who sends the copy's body.
    reader: Cell<Option<Waker>>,
    /// Wakes who waits for the copy's answer.
    watcher: Cell<Option<Waker>>,
    /// Done when the live body has come in completely.
    arrived: Rc<UploadState>,
}

impl Queue {
    pub(super) fn new(length: Option<u64>, limit: usize) -> Rc<Self> {
        Rc::new(Self {
            frames: RefCell::default(),
            held: Cell::new(0),
            limit,
            remaining: Cell::new(length),
            is_complete: Cell::new(false),
            is_given_up: Cell::new(false),
            reader: Cell::new(None),
            watcher: Cell::new(None),
            arrived: UploadState::new(Rc::default()),
        })
    }

    pub(super) fn arrived(&self) -> Rc<UploadState> {
        Rc::clone(&self.arrived)
    }

    /// Ready once no more of the body will come although there is more.
    pub(super) fn poll_given_up(&self, task: &Context<'_>) -> Poll<()> {
        if self.is_given_up.get() {
            return Poll::Ready(());
        }
        if !self.is_complete.get() {
            self.watcher.set(Some(task.waker().clone()));
        }
        Poll::Pending
    }

    fn give_up(&self) {
        self.is_given_up.set(true);
        self.frames.borrow_mut().clear();
        wake(&self.watcher);
        wake(&self.reader);
    }

    fn push(&self, frame: Frame<Bytes>) {
        self.frames.borrow_mut().push_back(frame);
        wake(&self.reader);
    }
}

fn wake(waker: &Cell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The live body's end of a queue. Dropped unfinished, it gives the copy up.
pub(super) struct Sender {
    queue: Rc<Queue>,
    /// Copies that were too slow.
    abandoned: Counter,
}

impl Sender {
    pub(super) fn new(queue: &Rc<Queue>, abandoned: &Counter) -> Self {
        Self {
            queue: Rc::clone(queue),
            abandoned: abandoned.clone(),
        }
    }

    /// Passes a chunk on without copying it; false if the copy is too slow, or has ended.
    pub(super) fn send(&self, data: &Bytes) -> bool {
        let queue = &self.queue;
        // Nobody reads a copy any more that has its answer, or failed.
        if Rc::strong_count(queue) == 1 {
            return false;
        }
        let held = queue.held.get() + data.len();
        if held > queue.limit && held > data.len() {
            self.abandoned.inc();
            return false;
        }
        queue.held.set(held);
        queue.push(Frame::data(data.clone()));
        true
    }

    /// The body is complete.
    pub(super) fn finish(self, trailers: Option<&HeaderMap>) {
        let queue = &self.queue;
        queue.is_complete.set(true);
        queue.arrived.finish();
        match trailers {
            Some(trailers) => queue.push(Frame::trailers(trailers.clone())),
            None => wake(&queue.reader),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.queue.is_complete.get() {
            self.queue.give_up();
        }
    }
}

/// The copy's end.
pub(super) fn body(queue: Rc<Queue>) -> Body {
    Body::boxed(Receiver { queue })
}

struct Receiver {
    queue: Rc<Queue>,
}

impl http_body::Body for Receiver {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let queue = &self.queue;
        if queue.is_given_up.get() {
            return Poll::Ready(Some(Err(BodyError::Ended("mirror_given_up"))));
        }
        let Some(frame) = queue.frames.borrow_mut().pop_front() else {
            if queue.is_complete.get() {
                return Poll::Ready(None);
            }
            queue.reader.set(Some(task.waker().clone()));
            return Poll::Pending;
        };
        if let Some(data) = frame.data_ref() {
            queue.held.set(queue.held.get() - data.len());
            let length = data.len() as u64;
            let remaining = queue.remaining.get();
            queue
                .remaining
                .set(remaining.map(|remaining| remaining.saturating_sub(length)));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.queue.is_complete.get() && self.queue.frames.borrow().is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.queue
            .remaining
            .get()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
