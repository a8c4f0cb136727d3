//! A request's body that can be sent again: what came of it is kept, uncopied, while another try is
//! possible and it is not too large.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    http::{Body, BodyError},
    telemetry::stats::Counter,
};

/// The body and what is kept of it.
#[derive(Clone)]
pub(super) struct Replay(Rc<RefCell<Kept>>);

struct Kept {
    source: Body,
    /// Its length is known from the start: else every try is framed as one of unknown length.
    is_sized: bool,
    /// The source has nothing more.
    is_ended: bool,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    size: u64,
    limit: u64,
    keeps: Keeps,
    abandoned: Counter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// Everything so far, and what comes.
    All,
    /// Not what comes from now on: this is the last try.
    NoMore,
    /// Nothing: it was too large.
    Nothing,
}

impl Replay {
    /// Keeps up to `limit` bytes of `source`; a larger one is counted in `abandoned`.
    pub(super) fn new(source: Body, limit: u64, abandoned: Counter) -> Self {
        Self(Rc::new(RefCell::new(Kept {
            is_sized: source.size_hint().exact().is_some(),
            source,
            is_ended: false,
            chunks: Vec::new(),
            trailers: None,
            size: 0,
            limit,
            keeps: Keeps::All,
            abandoned,
        })))
    }

    /// Whether the whole body can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.0.borrow().keeps == Keeps::All
    }

    /// Keeps no more: no other try will come.
    pub(super) fn keep_no_more(&self) {
        let mut kept = self.0.borrow_mut();
        if kept.keeps == Keeps::All {
            kept.keeps = Keeps::NoMore;
        }
    }

    /// The body of a try, from the beginning. Only the last one that was made is read.
    pub(super) fn body(&self) -> Body {
        Body::boxed(Reader {
            replay: self.clone(),
            next: 0,
            has_ended: false,
        })
    }
}

impl Kept {
    /// Keeps a chunk of the source if there is room; whether it did.
    fn keep(&mut self, data: &Bytes) -> bool {
        if self.keeps != Keeps::All {
            return false;
        }
        self.size = self.size.saturating_add(data.len() as u64);
        if self.size > self.limit {
            self.keeps = Keeps::Nothing;
            self.chunks = Vec::new();
            self.abandoned.inc();
            return false;
        }
        self.chunks.push(data.clone());
        true
    }
}

/// The body of one try.
struct Reader {
    replay: Replay,
    /// Place of the next kept chunk.
    next: usize,
    has_ended: bool,
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let kept = &mut *this.replay.0.borrow_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        if let Some(chunk) = kept.chunks.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if kept.is_ended {
            this.has_ended = true;
            let trailers = kept.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match ready!(Pin::new(&mut kept.source).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => {
                kept.is_ended = true;
                this.has_ended = true;
                return Poll::Ready(None);
            }
        };
        if let Some(data) = frame.data_ref() {
            if kept.keep(data) {
                this.next += 1;
            }
            kept.is_ended |= kept.source.is_end_stream();
        } else {
            kept.is_ended = true;
            this.has_ended = true;
            if kept.keeps == Keeps::All {
                kept.trailers = frame.trailers_ref().cloned();
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.replay.0.borrow();
        self.has_ended
            || (self.next >= kept.chunks.len()
                && kept.trailers.is_none()
                && (kept.is_ended || kept.source.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.replay.0.borrow();
        if !kept.is_sized {
            return SizeHint::default();
        }
        let ahead: u64 = kept
            .chunks
            .iter()
            .skip(self.next)
            .map(|chunk| chunk.len() as u64)
            .sum();
        match (kept.is_ended, kept.source.size_hint().exact()) {
            (true, _) => SizeHint::with_exact(ahead),
            (false, Some(rest)) => SizeHint::with_exact(ahead + rest),
            (false, None) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::telemetry::stats::Registry;

    fn chunks(trailers: bool) -> Body {
        let mut frames = vec![
            Ok(Frame::data(Bytes::from_static(b"one "))),
            Ok(Frame::data(Bytes::from_static(b"two "))),
        ];
        if trailers {
            let mut map = HeaderMap::new();
            map.insert("x-end", "yes".parse().unwrap());
            frames.push(Ok(Frame::trailers(map)));
        }
        Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn abandoned() -> Counter {
        Registry::new(1).scope("c").counter("abandoned")
    }

    async fn read(body: Body) -> (String, bool) {
        let collected = body.collect().await.unwrap();
        let has_trailers = collected.trailers().is_some();
        let bytes = collected.to_bytes();
        (String::from_utf8_lossy(&bytes).into_owned(), has_trailers)
    }

    #[tokio::test]
    async fn a_body_is_read_again_and_on() {
        let replay = Replay::new(chunks(true), 100, abandoned());
        let mut first = replay.body();
        let frame = first.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "one ");
        drop(first);
        for _ in 0..2 {
            assert_eq!(read(replay.body()).await, ("one two ".to_owned(), true));
            assert!(replay.is_whole());
        }
    }

    #[tokio::test]
    async fn a_large_body_is_not_kept() {
        let counter = abandoned();
        let replay = Replay::new(chunks(false), 5, counter.clone());
        assert_eq!(read(replay.body()).await, ("one two ".to_owned(), false));
        assert!(!replay.is_whole());
        assert!(replay.0.borrow().chunks.is_empty());
        assert_eq!(counter.value(), 1);
    }

    #[tokio::test]
    async fn the_last_try_keeps_nothing_more() {
        let replay = Replay::new(chunks(false), 100, abandoned());
        drop(replay.body().frame().await);
        replay.keep_no_more();
        assert_eq!(read(replay.body()).await.0, "one two ");
        assert_eq!(replay.0.borrow().chunks.len(), 1);
        assert!(!replay.is_whole());
    }
}
