//! Who polls an HTTP/1 connection: its own task, and from the sending of a request to the head of its
//! response the request itself. So a request goes out, and its response comes in, without a turn of
//! another task; a proxy under a moderate load does nothing but wake up and go to sleep.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;

use super::{Upload, connect::Metered};

/// hyper's side of a connection.
type Driver = http1::Connection<TokioIo<Metered>, Upload>;

/// The socket with what was read ahead, unless the connection failed.
pub(super) type Ended = hyper::Result<(Metered, Bytes)>;

/// A connection's driver, shared by its task and the request on it.
pub(super) struct Drive {
    /// None once it is over.
    driver: RefCell<Option<Driver>>,
    /// How it ended, until its task takes note.
    ended: Cell<Option<Ended>>,
    /// A request drives.
    is_lent: Cell<bool>,
    /// Of the connection's task.
    task: RefCell<Option<Waker>>,
    wakes: Arc<Wakes>,
    /// What the connection knows of all this: it wakes whom `wakes` says.
    waker: Waker,
}

/// Whom the connection wakes.
struct Wakes {
    target: AtomicWaker,
    state: AtomicU8,
}

/// The target is woken.
const FREE: u8 = 0;
/// Nobody is woken: who would be is there already.
const HELD: u8 = 1;
/// The same, and somebody would have been.
const WOKEN: u8 = 2;

impl Drive {
    pub(super) fn new(driver: Driver) -> Rc<Self> {
        let wakes = Arc::new(Wakes {
            target: AtomicWaker::new(),
            state: AtomicU8::new(FREE),
        });
        Rc::new(Self {
            driver: RefCell::new(Some(driver)),
            ended: Cell::new(None),
            is_lent: Cell::new(false),
            task: RefCell::new(None),
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
        })
    }

    /// Drives for the connection's own task; ready once with the connection's end.
    pub(super) fn poll_task(&self, cx: &Context<'_>) -> Poll<Ended> {
        let mut task = self.task.borrow_mut();
        if !task
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *task = Some(cx.waker().clone());
        }
        drop(task);
        let is_lent = self.is_lent.get();
        if !is_lent {
            self.wakes.target.register(cx.waker());
        }
        self.poll();
        if is_lent {
            // What the request waits for may be there now.
            self.wakes.target.wake();
        }
        match self.ended.take() {
            Some(ended) => Poll::Ready(ended),
            None => Poll::Pending,
        }
    }

    /// Whether the connection is over, by this or before.
    fn poll(&self) -> bool {
        let mut place = self.driver.borrow_mut();
        let Some(driver) = place.as_mut() else {
            return true;
        };
        let mut cx = Context::from_waker(&self.waker);
        let Poll::Ready(ended) = driver.poll_without_shutdown(&mut cx) else {
            return false;
        };
        // It is taken apart in any case, so that its sender knows that it is closed.
        let parts = place.take().map(Driver::into_parts);
        let ended = ended.map(|()| parts.map(|parts| (parts.io.into_inner(), parts.read_buf)));
        self.ended.set(ended.transpose());
        true
    }

    /// A request is about to be given to the connection: who asks for its response drives.
    pub(super) fn lend(&self) {
        self.is_lent.set(true);
        self.hold();
    }

    /// The connection's task drives again, and what it may have missed is made up for.
    pub(super) fn take_back(&self) {
        if self.is_lent.get() {
            self.settle();
            self.wake_task();
        }
    }

    fn settle(&self) {
        self.is_lent.set(false);
        self.wakes.state.store(FREE, Ordering::Release);
        // Without one, its first turn is still to come.
        if let Some(task) = &*self.task.borrow() {
            self.wakes.target.register(task);
        }
    }

    /// Drives until `response` is there, which needs no waker: only driving brings it.
    pub(super) fn until<F>(self: Rc<Self>, response: F) -> Driven<F> {
        Driven {
            drive: self,
            response,
        }
    }

    fn poll_lent<T>(
        &self,
        response: Pin<&mut impl Future<Output = T>>,
        cx: &Context<'_>,
    ) -> Poll<T> {
        self.wakes.target.register(cx.waker());
        self.hold();
        let is_over = self.poll();
        let goes_on = self.let_go();
        if is_over {
            self.wake_task();
        }
        match response.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(response) => {
                self.settle();
                if goes_on {
                    self.wake_task();
                }
                Poll::Ready(response)
            }
            Poll::Pending => {
                if goes_on {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// Whoever the connection would wake from now on need not be.
    pub(super) fn hold(&self) {
        self.wakes.state.store(HELD, Ordering::Release);
    }

    /// The end of [`Self::hold`]: whether anybody would have been woken.
    pub(super) fn let_go(&self) -> bool {
        self.wakes.state.swap(FREE, Ordering::AcqRel) == WOKEN
    }

    /// The connection has something to do.
    pub(super) fn wake_task(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

pin_project! {
    /// A response on its way, and who drives for it.
    pub(super) struct Driven<F> {
        drive: Rc<Drive>,
        #[pin]
        response: F,
    }
}

impl<F: Future> Future for Driven<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.drive.poll_lent(this.response, cx)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self
            .state
            .compare_exchange(HELD, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if matches!(noted, Err(FREE)) {
            self.target.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_that_are_held_are_noted() {
        let count = Arc::new(Count::default());
        let wakes = Arc::new(Wakes {
            target: AtomicWaker::new(),
            state: AtomicU8::new(FREE),
        });
        let waker = Waker::from(Arc::clone(&wakes));
        let woken = || count.0.swap(0, Ordering::Relaxed);
        wakes.target.register(&Waker::from(Arc::clone(&count)));
        wakes.state.store(HELD, Ordering::Release);
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(woken(), 0);
        assert_eq!(wakes.state.swap(FREE, Ordering::AcqRel), WOKEN);
        // The target is still there, and is woken once.
        waker.wake_by_ref();
        waker.wake();
        assert_eq!(woken(), 1);
    }
}
