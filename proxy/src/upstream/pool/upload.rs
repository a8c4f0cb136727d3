//! A request's body on its way to an HTTP/1 host.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::http::{Body, BodyError};

/// What sender and receiver of a request's body know of each other.
#[derive(Default)]
pub(crate) struct UploadState {
    is_done: Cell<bool>,
    is_cancelled: Cell<bool>,
    has_failed: Cell<bool>,
    /// Wakes who sends, when cancelled.
    sender: Cell<Option<Waker>>,
    /// Wakes who waits for the end.
    watcher: Cell<Option<Waker>>,
    last_tx: Rc<Cell<Option<Instant>>>,
}

impl UploadState {
    /// A state that notes the moment of the end.
    pub(crate) fn new(last_tx: Rc<Cell<Option<Instant>>>) -> Rc<Self> {
        Rc::new(Self {
            last_tx,
            ..Self::default()
        })
    }

    /// Whether the whole body was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.get()
    }

    /// Stops sending: the response is complete, or nobody wants it any more.
    pub(crate) fn cancel(&self) {
        if !self.is_done.get() {
            self.is_cancelled.set(true);
            if let Some(waker) = self.sender.take() {
                waker.wake();
            }
        }
    }

    /// Ready when the whole body was sent, or failed.
    pub(crate) fn poll_done(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_done.get() || self.has_failed.get() {
            return Poll::Ready(());
        }
        self.watcher.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// The last byte was given to the connection.
    pub(crate) fn finish(&self) {
        if !self.is_done.replace(true) {
            self.last_tx.set(Some(Instant::now()));
            self.notify();
        }
    }

    pub(crate) fn fail(&self) {
        self.has_failed.set(true);
        self.notify();
    }

    fn notify(&self) {
        if let Some(waker) = self.watcher.take() {
            waker.wake();
        }
    }
}

/// The body that a connection sends.
pub(crate) struct Upload {
    body: Body,
    /// None for a body that is empty from the start.
    state: Option<Rc<UploadState>>,
}

impl Upload {
    pub(crate) fn new(body: Body, state: Option<Rc<UploadState>>) -> Self {
        Self { body, state }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(state) = &this.state else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        if state.is_cancelled.get() {
            return Poll::Ready(Some(Err(BodyError::Ended("the response came first"))));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Pending => state.sender.set(Some(cx.waker().clone())),
            Poll::Ready(None) => state.finish(),
            Poll::Ready(Some(Err(_))) => state.fail(),
            // Codecs stop asking after trailers, and once the announced length is there.
            Poll::Ready(Some(Ok(frame)))
                if frame.is_trailers()
                    || this.body.is_end_stream()
                    || this.body.size_hint().exact() == Some(0) =>
            {
                state.finish();
            }
            Poll::Ready(Some(Ok(_))) => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    /// A body that says how long it is, and only later that it has ended.
    struct Announced(Option<Bytes>);

    impl http_body::Body for Announced {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            match self.0.take() {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => Poll::Pending,
            }
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.as_ref().map_or(0, |data| data.len() as u64))
        }
    }

    #[test]
    fn announced_length_is_the_end() {
        let state = UploadState::new(Rc::default());
        let body = Body::boxed(Announced(Some(Bytes::from_static(b"abc"))));
        let mut upload = Upload::new(body, Some(Rc::clone(&state)));
        assert!(!state.is_done());
        let mut task = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut upload).poll_frame(&mut task).is_ready());
        assert!(state.is_done());
    }
}
