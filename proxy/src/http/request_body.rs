//! The request's body on its way to filters and router: counts bytes, notes progress and the end.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Activity, Body, BodyError, StreamCx};

/// Watches a request's body on behalf of its stream.
pub(super) fn watch(body: Body, cx: &StreamCx, drops_trailers: bool) -> Body {
    if matches!(body, Body::Empty) {
        cx.activity.complete_request();
        cx.info.downstream.last_rx.set(Some(cx.info.start));
        return Body::Empty;
    }
    Body::boxed(RequestBody {
        body,
        activity: Rc::clone(&cx.activity),
        bytes: Rc::clone(&cx.info.bytes_received),
        last_rx: Rc::clone(&cx.info.downstream.last_rx),
        drops_trailers,
    })
}

struct RequestBody {
    body: Body,
    activity: Rc<Activity>,
    bytes: Rc<Cell<u64>>,
    last_rx: Rc<Cell<Option<Instant>>>,
    drops_trailers: bool,
}

impl RequestBody {
    fn complete(&self) {
        if !self.activity.is_request_complete.get() {
            self.activity.complete_request();
            self.last_rx.set(Some(Instant::now()));
        }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                this.activity.touch();
                if let Some(data) = frame.data_ref() {
                    this.bytes.set(this.bytes.get() + data.len() as u64);
                    if this.body.is_end_stream() || this.body.size_hint().exact() == Some(0) {
                        this.complete();
                    }
                } else {
                    this.complete();
                    if this.drops_trailers {
                        return Poll::Ready(None);
                    }
                }
            }
            Some(Err(_)) => this.activity.is_request_broken.set(true),
            None => this.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
