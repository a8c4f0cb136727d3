//! A downstream socket with what the codecs do not tell: byte counts, when a request's first byte came,
//! framing headers that the HTTP/1 parser settles silently, and a way to give back the first bytes.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket as the codecs see it.
#[derive(Debug)]
pub struct Io<S> {
    stream: S,
    /// Read before the codec was chosen.
    first: Bytes,
    watch: Rc<IoWatch>,
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
    /// What is written instead of what the codec writes by itself between responses.
    is_between_responses: Cell<bool>,
    replacement: Cell<Option<Bytes>>,
}

/// Where the scan of a request head for framing headers is.
#[derive(Clone, Copy, Debug, Default)]
struct HeadScan {
    is_on: bool,
    /// Bytes of the current line seen so far, up to [`LINE`].
    length: u8,
    line: [u8; LINE],
    content_length: bool,
    transfer_encoding: bool,
}

/// Length of `transfer-encoding`, the longest name that is looked for, and its colon.
const LINE: usize = 18;

impl IoWatch {
    /// The next bytes are (after what is buffered) a new request's head.
    pub fn expect_head(&self) {
        self.head_start.set(None);
        self.head.set(HeadScan { is_on: true, ..HeadScan::default() });
    }

    /// Whether the head had both `content-length` and `transfer-encoding`: the parser drops the
    /// former without a word.
    #[must_use]
    pub fn has_both_lengths(&self) -> bool {
        let head = self.head.get();
        head.content_length && head.transfer_encoding
    }

    /// Whatever the codec writes on its own account (its answer to a malformed head) is replaced.
    pub fn replace_codec_reply(&self, reply: Option<Bytes>) {
        self.is_between_responses.set(reply.is_some());
        self.replacement.set(reply);
    }

    fn saw(&self, bytes: &[u8]) {
        self.received.set(self.received.get() + bytes.len() as u64);
        let mut head = self.head.get();
        if head.is_on {
            if self.head_start.get().is_none() && !bytes.is_empty() {
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
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE - usize::from(self.length);
            let take = room.min(rest.len());
            let end = rest.iter().take(take).position(|&byte| byte == b'\n');
            let kept = end.unwrap_or(take);
            for &byte in rest.iter().take(kept) {
                self.line[usize::from(self.length)] = byte.to_ascii_lowercase();
                self.length += 1;
            }
            rest = &rest[kept..];
            if end.is_none() && usize::from(self.length) == LINE {
                // The name is known; the rest of the line does not matter.
                match rest.iter().position(|&byte| byte == b'\n') {
                    Some(end) => rest = &rest[end..],
                    None => return,
                }
            }
            if rest.first() == Some(&b'\n') {
                rest = &rest[1..];
                if self.end_line() {
                    self.is_on = false;
                    return;
                }
            }
        }
    }

    /// Judges the line; true at the head's end.
    fn end_line(&mut self) -> bool {
        let line = &self.line[..usize::from(self.length)];
        let is_end = matches!(line, b"" | b"\r");
        self.content_length |= line.starts_with(b"content-length:");
        self.transfer_encoding |= line.starts_with(b"transfer-encoding:");
        self.length = 0;
        is_end
    }
}
