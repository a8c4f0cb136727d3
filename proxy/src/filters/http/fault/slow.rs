//! A body that comes at a limited rate.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes};
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    http::{Body, BodyError},
    worker::Timer,
};

/// Bytes are given out in slices of time, as in Envoy.
const SLICE: Duration = Duration::from_millis(50);
const SLICES_PER_SECOND: u64 = 20;

/// `body` at `rate` KiB per second.
pub(super) fn body(body: Body, rate: u64, timer: Timer) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::boxed(Slow {
        body,
        held: Bytes::new(),
        per_slice: (rate.saturating_mul(1024) / SLICES_PER_SECOND).max(1),
        left: 0,
        next: None,
        timer,
    })
}

struct Slow {
    body: Body,
    /// Received, and not given out yet.
    held: Bytes,
    per_slice: u64,
    /// Of the current slice.
    left: u64,
    /// When the next slice begins.
    next: Option<Instant>,
    timer: Timer,
}

impl Slow {
    /// Waits until something may be given out.
    fn poll_slice(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.left == 0 {
            if let Some(next) = self.next {
                ready!(self.timer.poll_until(next, cx));
            }
            self.left = self.per_slice;
            self.next = Some(Instant::now() + SLICE);
        }
        Poll::Ready(())
    }
}

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        while !this.held.has_remaining() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.held = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        ready!(this.poll_slice(cx));
        let size = usize::try_from(this.left)
            .unwrap_or(usize::MAX)
            .min(this.held.len());
        this.left -= size as u64;
        Poll::Ready(Some(Ok(Frame::data(this.held.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.len() as u64;
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint.set_lower(inner.lower().saturating_add(held));
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::worker::Timers;

    #[tokio::test(start_paused = true)]
    async fn bytes_come_by_slices() {
        let text = vec![b'x'; 1000];
        let mut slow = body(Body::full(text), 2, Timers::default().timer());
        assert_eq!(slow.size_hint().exact(), Some(1000));
        let mut sizes = Vec::new();
        while let Some(frame) = slow.frame().await {
            sizes.push(frame.unwrap().into_data().unwrap().len());
        }
        // 2048 bytes a second are 102 each 50 ms.
        assert_eq!(sizes.iter().sum::<usize>(), 1000);
        assert_eq!(sizes.first(), Some(&102));
        assert_eq!(sizes.len(), 10);
        assert!(slow.is_end_stream());
    }
}
