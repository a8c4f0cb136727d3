//! Deadlines that cost next to nothing while they move into the future.
//!
//! Almost every stream has deadlines (route timeout, idle timeouts) and almost none is reached. A
//! [`Timer`] keeps a tokio timer armed at some *earlier* deadline; moving the deadline out only
//! changes a number, and when the tokio timer fires too early it is armed again. Timers of finished
//! streams go back to the worker, still armed, for the next stream.

use std::{
    cell::RefCell,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::Sleep;

/// Timers kept for reuse; more would only cost memory.
const KEPT: usize = 1024;

/// The worker's stock of timers.
#[derive(Clone, Default)]
pub struct Timers(Rc<RefCell<Vec<Pin<Box<Sleep>>>>>);

impl Timers {
    /// A timer for one task. Nothing is allocated or armed before it is first polled.
    #[must_use]
    pub fn timer(&self) -> Timer {
        Timer {
            stock: self.clone(),
            sleep: None,
        }
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timers")
            .field(&self.0.borrow().len())
            .finish()
    }
}

/// One task's timer.
#[derive(Debug)]
pub struct Timer {
    stock: Timers,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// A deadline was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Timer {
    /// Ready once `deadline` is reached; else the task is woken then (or earlier).
    pub fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(deadline);
        let sleep = self.sleep.get_or_insert_with(|| {
            self.stock
                .0
                .borrow_mut()
                .pop()
                .unwrap_or_else(|| Box::pin(tokio::time::sleep_until(at)))
        });
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if tokio::time::Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// The future's output, or [`Elapsed`] once the deadline is reached.
    ///
    /// # Errors
    /// The deadline was reached first.
    pub async fn run_until<F: Future>(
        &mut self,
        deadline: Option<Instant>,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            match deadline {
                Some(deadline) => self.poll_until(deadline, cx).map(|()| Err(Elapsed)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Waits for the deadline.
    pub async fn until(&mut self, deadline: Instant) {
        poll_fn(|cx| self.poll_until(deadline, cx)).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            let mut stock = self.stock.0.borrow_mut();
            // One that has fired is armed anew by `reset`; keeping it is no different.
            if stock.len() < KEPT {
                stock.push(sleep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use super::*;

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_out_is_kept() {
        let timers = Timers::default();
        let mut timer = timers.timer();
        let start = now();
        let first = timer
            .run_until(Some(start + Duration::from_secs(1)), async { 1 })
            .await;
        assert_eq!(first, Ok(1));
        let late = start + Duration::from_secs(5);
        assert_eq!(
            timer.run_until(Some(late), pending::<()>()).await,
            Err(Elapsed)
        );
        assert!(now() >= late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reused_timer_keeps_time() {
        let timers = Timers::default();
        let start = now();
        for seconds in [7, 3, 9, 1] {
            let mut timer = timers.timer();
            let begin = now();
            let deadline = begin + Duration::from_secs(seconds);
            assert_eq!(
                timer.run_until(Some(deadline), pending::<()>()).await,
                Err(Elapsed)
            );
            assert_eq!((now() - begin).as_secs(), seconds);
        }
        assert_eq!((now() - start).as_secs(), 20);
        assert_eq!(timers.0.borrow().len(), 1);
    }
}
