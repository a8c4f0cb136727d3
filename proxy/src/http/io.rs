//! A downstream socket with what the codecs do not tell: byte counts, when a request's first byte came,
//! framing headers that the HTTP/1 parser settles silently, and a way to give back the first bytes.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf as _, Bytes};
use futures_util::FutureExt as _;
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::relay::poll_write_buffers;

/// A socket as the codecs see it.
#[derive(Debug)]
pub struct Io<S> {
    stream: S,
    /// Read before the codec was chosen.
    first: Bytes,
    watch: Rc<IoWatch>,
}

/// A socket that tells what its peer does without being read.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Whether the peer has closed, though something may be left to be read.
    fn is_read_closed(&self) -> bool;
}

impl Socket for TcpStream {
    fn is_read_closed(&self) -> bool {
        let ready = self.ready(Interest::READABLE).now_or_never();
        matches!(ready, Some(Ok(ready)) if ready.is_read_closed())
    }
}

/// What an [`Io`] noticed; shared with the connection that owns it.
#[derive(Debug, Default)]
pub struct IoWatch {
    /// Bytes read.
    pub received: Cell<u64>,
    /// Bytes written.
    pub sent: Cell<u64>,
    /// When the first byte came since [`Self::expect_head`].
    pub head_start: Cell<Option<Instant>>,
    head: Cell<HeadScan>,
    /// The stream is finished; what was written for it may not be flushed yet.
    is_finishing: Cell<bool>,
    is_remote_closed: Cell<bool>,
    /// To be looked at once: has the client closed?
    looks: Cell<bool>,
    is_abandoned: Cell<bool>,
    is_between_responses: Cell<bool>,
    /// The status with which the codec wanted to answer a malformed head by itself. Not sent.
    pub codec_reply: Cell<Option<StatusCode>>,
}

/// Where the scan of a request head for framing headers is.
#[derive(Clone, Copy, Debug, Default)]
struct HeadScan {
    is_on: bool,
    /// The request line has not ended.
    is_first: bool,
    /// Bytes kept of a line that began in an earlier read, up to [`LINE`].
    length: u8,
    line: [u8; LINE],
    /// How many `content-length` lines there are.
    lengths: u8,
    transfer_encoding: bool,
    /// The target has a fragment.
    fragment: bool,
}

/// Length of `transfer-encoding:`, the longest name that is looked for, with its colon.
const LINE: usize = 18;

impl IoWatch {
    /// The next bytes (after what the codec has buffered) are a new request's head.
    pub fn expect_head(&self) {
        self.head_start.set(None);
        self.head.set(HeadScan {
            is_on: true,
            is_first: true,
            ..HeadScan::default()
        });
        self.is_between_responses.set(true);
    }

    /// Whether the head had both `content-length` and `transfer-encoding`: the parser drops the
    /// former without a word.
    #[must_use]
    pub fn has_both_lengths(&self) -> bool {
        let head = self.head.get();
        head.lengths > 0 && head.transfer_encoding
    }

    /// Whether the head had several `content-length` lines; the parser drops equal ones.
    #[must_use]
    pub fn has_repeated_length(&self) -> bool {
        self.head.get().lengths > 1
    }

    /// Whether the request's target had a fragment; the parser drops it.
    #[must_use]
    pub fn has_fragment(&self) -> bool {
        self.head.get().fragment
    }

    /// A stream is finished: once its last bytes are flushed, the next head is expected.
    pub fn finish_stream(&self) {
        self.is_finishing.set(true);
    }

    /// Whether the client has closed its side.
    #[must_use]
    pub fn is_remote_closed(&self) -> bool {
        self.is_remote_closed.get()
    }

    /// Has the codec's next flush find out whether the client has closed, though nothing is read from it.
    pub fn look(&self) {
        self.looks.set(true);
    }

    /// Whether that was so.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.is_abandoned.get()
    }

    /// Whether the head had `transfer-encoding`.
    #[must_use]
    pub fn has_transfer_encoding(&self) -> bool {
        self.head.get().transfer_encoding
    }

    /// From now on, whatever the codec writes is its own answer to a malformed head (or not, with
    /// `false`): it is not sent, see [`Self::codec_reply`].
    pub fn set_between_responses(&self, is_between: bool) {
        self.is_between_responses.set(is_between);
    }

    fn saw(&self, bytes: &[u8]) {
        self.received.set(self.received.get() + bytes.len() as u64);
        let mut head = self.head.get();
        if head.is_on && !bytes.is_empty() {
            if self.head_start.get().is_none() {
                self.head_start.set(Some(Instant::now()));
            }
            head.scan(bytes);
            self.head.set(head);
        }
    }
}

impl HeadScan {
    /// Looks at the beginning of each line until the empty one.
    fn scan(&mut self, bytes: &[u8]) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let rest = &bytes[start..end];
            start = end + 1;
            if self.is_first {
                // Empty lines before the request line are allowed.
                self.is_first = rest.trim_ascii().is_empty() && self.length == 0;
                self.fragment |= memchr::memchr(b'#', rest).is_some();
                self.length = 0;
                continue;
            }
            let is_end = if self.length == 0 {
                self.judge(rest)
            } else {
                self.keep(rest);
                let (line, length) = (self.line, usize::from(self.length));
                self.length = 0;
                self.judge(&line[..length])
            };
            if is_end {
                self.is_on = false;
                return;
            }
        }
        if self.is_first {
            self.fragment |= memchr::memchr(b'#', &bytes[start..]).is_some();
        }
        self.keep(&bytes[start..]);
    }

    /// Keeps the beginning of a line that is not whole yet.
    fn keep(&mut self, part: &[u8]) {
        let length = usize::from(self.length);
        let take = part.len().min(LINE - length);
        self.line[length..length + take].copy_from_slice(&part[..take]);
        self.length += u8::try_from(take).unwrap_or(0);
    }

    /// Judges a line; true if it ends the head.
    fn judge(&mut self, line: &[u8]) -> bool {
        let is = |name: &[u8]| {
            line.get(..name.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        match line.first() {
            None | Some(b'\r') => return true,
            Some(b'c' | b'C') => {
                self.lengths = self
                    .lengths
                    .saturating_add(u8::from(is(b"content-length:")));
            }
            Some(b't' | b'T') => self.transfer_encoding |= is(b"transfer-encoding:"),
            Some(_) => {}
        }
        false
    }
}

impl<S> Io<S> {
    /// A socket from which `first` has been read already.
    pub fn new(stream: S, first: Bytes, watch: Rc<IoWatch>) -> Self {
        watch.saw(&first);
        Self {
            stream,
            first,
            watch,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let take = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..take]);
            this.first.advance(take);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        let read = &buf.filled()[before..];
        if read.is_empty() {
            this.watch.is_remote_closed.set(true);
        } else {
            this.watch.saw(read);
        }
        Poll::Ready(result)
    }
}

impl<S: Socket> AsyncWrite for Io<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.watch.is_between_responses.get() {
            return this.swallow_codec_reply(&[IoSlice::new(buf)]);
        }
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.watch.sent.set(this.watch.sent.get() + count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.watch.is_between_responses.get() {
            return this.swallow_codec_reply(bufs);
        }
        let count = ready!(poll_write_buffers(Pin::new(&mut this.stream), cx, bufs))?;
        this.watch.sent.set(this.watch.sent.get() + count as u64);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.looks.replace(false) && this.stream.is_read_closed() {
            this.watch.is_abandoned.set(true);
        }
        // Codecs flush only after all that they had is written.
        if this.watch.is_finishing.replace(false) {
            this.watch.expect_head();
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncWrite + Unpin> Io<S> {
    /// The codec answers a malformed head by itself: nothing of it is sent, so that the connection can
    /// answer as Envoy does. It is noted what it would have said.
    fn swallow_codec_reply(&self, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let status = bufs
            .first()
            .and_then(|buf| buf.get(9..12))
            .and_then(|status| StatusCode::from_bytes(status).ok());
        if self.watch.codec_reply.get().is_none() {
            self.watch.codec_reply.set(status);
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(parts: &[&str]) -> HeadScan {
        let mut head = HeadScan {
            is_on: true,
            is_first: true,
            ..HeadScan::default()
        };
        for part in parts {
            if head.is_on {
                head.scan(part.as_bytes());
            }
        }
        head
    }

    #[test]
    fn framing_headers_are_found_however_the_head_is_cut() {
        let text = "\r\nPOST /content-length: HTTP/1.1\r\nHost: a\r\nContent-LENGTH: 3\r\n\
                    X: transfer-encoding:\r\nTransfer-Encoding: chunked\r\n\r\ncontent-length: 4\r\n";
        for first in 0..text.len() {
            for second in (first..text.len()).step_by(7) {
                let (start, end) = text.split_at(second);
                let (start, middle) = start.split_at(first);
                let head = scan(&[start, middle, end]);
                assert_eq!(head.lengths, 1, "{first} {second}");
                assert!(head.transfer_encoding, "{first} {second}");
                assert!(!head.is_on, "{first} {second}");
                assert!(!head.fragment);
            }
        }
    }

    #[test]
    fn repeated_lengths_and_fragments_are_seen() {
        let head = scan(&[
            "GET /a",
            "#b HTTP/1.1\r\ncontent-length: 1\r\nContent-Length: 1\r\n\r\n",
        ]);
        assert_eq!(head.lengths, 2);
        assert!(head.fragment);
        assert!(!scan(&["GET / HTTP/1.1\r\nx: #\r\n\r\n"]).fragment);
    }
}
